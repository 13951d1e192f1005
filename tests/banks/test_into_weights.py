"""A prompt bank inside a weights folder: accepted there, found by a run, and carried through Kaggle's dataset."""

import json
import shutil
from pathlib import Path

import pytest

from kernel.banks.build import build_bank
from kernel.banks.into_weights import add_bank
from kernel.banks.prompt_bank import PromptBank
from kernel.config import BankSettings, Paths, recipe_named
from kernel.errors import UserError
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.models.weights_folder import BANK_FOLDER, MANIFEST, open_weights
from kernel.notebook.inputs import restore_weights
from kernel.pipeline.run import run
from kernel.publish.kaggle.staging import stage_dataset
from kernel.publish.rehearsal.mounts import upload_and_unpack
from tests.engines import HERE
from tests.publish.conftest import project, wheels_folder  # noqa: F401

FILES = {"bank.json", "clip.safetensors", "head.safetensors", "prompts.parquet", "sentences.safetensors"}


def bank_of(count: int, weights_folder: Path, folder: Path) -> Path:
    source = folder.with_suffix(".txt")
    source.write_text("\n".join(list(dict.fromkeys(scene.prompt for scene in scenes(TEST_SEED, 300)))[:count]) + "\n")
    build_bank(BankSettings([source], near=1.0), weights_folder, folder, HERE)
    return folder


@pytest.fixture(scope="module")
def bank(weights_folder, tmp_path_factory) -> Path:
    return bank_of(120, weights_folder, tmp_path_factory.mktemp("bank") / "bank")


@pytest.fixture
def own(weights_folder, tmp_path) -> Path:
    """Weights that a test may add to."""
    return shutil.copytree(weights_folder, tmp_path / "weights")


def test_the_weights_are_accepted_with_the_bank_in_them(own, bank):
    folder = add_bank(own, bank)
    assert folder == own / BANK_FOLDER and {path.name for path in folder.iterdir()} == FILES
    weights = open_weights(own)
    opened = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    assert len(opened.features) == 120


def test_the_models_keep_their_names(own, bank, weights):
    add_bank(own, bank)
    assert open_weights(own).models == weights.models


def test_a_run_with_recipe_text_finds_it_without_being_told(own, bank, image_folder, tmp_path):
    add_bank(own, bank)
    content = run(recipe_named("text"), Paths(image_folder, own, tmp_path / "run"), "cpu", limit=2)
    assert str(own / BANK_FOLDER) in str(content["bank"])


def test_adding_it_again_changes_nothing(own, bank):
    add_bank(own, bank)
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    add_bank(own, bank)
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before


def test_another_bank_takes_the_place_of_the_first(own, bank, weights_folder, tmp_path):
    add_bank(own, bank)
    add_bank(own, bank_of(110, weights_folder, tmp_path / "smaller"))
    open_weights(own)
    assert json.loads((own / BANK_FOLDER / "bank.json").read_text())["count"] == 110
    listed = [entry["path"] for entry in json.loads((own / MANIFEST).read_text())["files"]]
    assert len(listed) == len(set(listed)) and listed == sorted(listed)


def test_what_a_build_left_beside_the_bank_does_not_come_along(own, bank, tmp_path):
    copy = shutil.copytree(bank, tmp_path / "bank")
    (copy / "building").mkdir()
    (copy / "notes.txt").write_text("of its maker")
    add_bank(own, copy)
    assert {path.name for path in (own / BANK_FOLDER).iterdir()} == FILES


def test_a_bank_of_other_models_is_refused_and_the_weights_stay(own, bank, tmp_path):
    copy = shutil.copytree(bank, tmp_path / "bank")
    record = json.loads((copy / "bank.json").read_text())
    (copy / "bank.json").write_text(json.dumps({**record, "clip": "0" * 64}))
    with pytest.raises(UserError, match="made with the CLIP model 00000000..., the weights folder holds"):
        add_bank(own, copy)
    open_weights(own)


def test_a_full_disk_is_one_line_and_the_weights_stay(own, bank, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"prompt_bank: cannot be written \(No space left on device\)"):
        add_bank(own, bank)
    open_weights(own)
    assert [path.name for path in own.parent.iterdir() if path.name.startswith(".")] == []


def test_a_disk_that_gives_back_other_bytes_is_found_out(own, bank, monkeypatch):
    def damaging(source: Path, target: Path) -> None:
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(shutil, "copyfile", damaging)
    with pytest.raises(UserError, match="the file is damaged or was changed"):
        add_bank(own, bank)
    open_weights(own)


def test_it_travels_flat_and_comes_back_whole(own, bank, project, tmp_path):  # noqa: F811
    add_bank(own, bank)
    staged = stage_dataset(project, own, project / "wheels", tmp_path / "dataset")
    names = {name for name, _ in staged.entries}
    assert {"prompt_bank--prompts.parquet", "prompt_bank--clip.safetensors", "prompt_bank"} <= names
    upload_and_unpack(staged.folder, tmp_path / "mounted")
    weights = open_weights(restore_weights(tmp_path / "mounted", tmp_path / "restored"))
    folder = weights.folder / BANK_FOLDER
    opened = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    assert opened.prompts([0, 119]) == PromptBank.open(bank, *model_names(weights)).prompts([0, 119])


def model_names(weights) -> tuple[str, str]:
    return weights.sha256("clip"), weights.sha256("sentences")


def test_a_bank_with_fitted_shares_brings_them_along(own, bank, tmp_path, weights):
    copy = shutil.copytree(bank, tmp_path / "bank")
    record = json.loads((copy / "bank.json").read_text())
    fitted = {
        "format": 2,
        "shares": {"text": {"prompts": 0.5, "neighbours": 0.5}},
        "clip": record["clip"],
        "sentences": record["sentences"],
        "encoders": {},
    }
    (copy / "fusion.json").write_text(json.dumps(fitted))
    add_bank(own, copy)
    open_weights(own)
    found = PromptBank.open(own / BANK_FOLDER, *model_names(weights)).fitted()
    assert found is not None and found.shares == fitted["shares"]
