import pytest

from kernel.banks.build import build_bank
from kernel.config import BankSettings
from kernel.miniature.world.folders import scenes
from tests.conftest import TEST_SEED
from tests.engines import HERE


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory, weights):
    """A bank of 300 miniature prompts, none of which is of a drawn picture's seed."""
    folder = tmp_path_factory.mktemp("bank")
    prompts = [scene.prompt for scene in scenes(TEST_SEED + 1, 300)]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    build_bank(BankSettings([folder / "prompts.txt"], near=1.0), weights.folder, folder / "bank", HERE)
    return folder / "bank"
