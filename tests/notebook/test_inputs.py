import os
import shutil
import subprocess
import sys

import pytest

from kernel.errors import UserError
from kernel.models.weights_folder import MANIFEST, open_weights
from kernel.notebook.inputs import COMPETITION, find_inputs, flat_name, restore_pairs, restore_weights
from kernel.publish.kaggle.staging import stage_pairs
from kernel.training.pairs import open_pairs
from tests.training.sets import write_tars

LAYOUTS = {
    "old": {"competition": COMPETITION, "dataset": "weights-slug", "output": "prepare-slug"},
    "new": {
        "competition": f"competitions/{COMPETITION}",
        "dataset": "datasets/someone/weights-slug",
        "output": "notebooks/someone/prepare-slug",
    },
}


def mounted(root, layout, *, manifest_in="dataset"):
    """A tree like /kaggle/input, with empty images and an empty manifest."""
    places = LAYOUTS[layout]
    (root / places["competition"] / "images").mkdir(parents=True)
    (root / places["dataset"] / "wheels").mkdir(parents=True)
    (root / places["dataset"] / "wheels" / "requirements.txt").write_text("")
    (root / places["dataset"] / "wheels" / "a-1-py3-none-any.whl").write_text("")
    folder = root / places["dataset"] if manifest_in == "dataset" else root / places["output"] / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text('{"format": 1, "models": {}, "captioners": [], "files": []}')
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finds_competition_weights_and_wheels(tmp_path, layout):
    found = find_inputs(mounted(tmp_path, layout))
    assert found.competition == tmp_path / LAYOUTS[layout]["competition"]
    assert found.weights == tmp_path / LAYOUTS[layout]["dataset"]
    assert found.wheels == tmp_path / LAYOUTS[layout]["dataset"] / "wheels"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finds_weights_in_the_output_of_the_prepare_notebook(tmp_path, layout):
    found = find_inputs(mounted(tmp_path, layout, manifest_in="output"))
    assert found.weights == tmp_path / LAYOUTS[layout]["output"] / "weights"


def test_a_missing_weights_dataset_is_told_with_what_is_mounted_instead(tmp_path):
    root = mounted(tmp_path, "new")
    shutil.rmtree(root / LAYOUTS["new"]["dataset"])
    with pytest.raises(UserError, match=f"no weights folder is mounted; found .*competitions/{COMPETITION}.*not ready"):
        find_inputs(root)


def test_a_missing_competition_is_told(tmp_path):
    root = mounted(tmp_path, "old")
    shutil.rmtree(root / COMPETITION)
    with pytest.raises(UserError, match="no competition is mounted.*Add the competition as an input"):
        find_inputs(root)


def test_two_weights_folders_are_refused_by_name(tmp_path):
    mounted(tmp_path, "new")
    shutil.copytree(tmp_path / LAYOUTS["new"]["dataset"], tmp_path / "notebooks" / "someone" / "other")
    with pytest.raises(UserError, match="more than one weights folder is mounted: .*weights-slug.*other.*Remove"):
        find_inputs(tmp_path)


def test_wheels_without_a_wheel_among_them_are_none(tmp_path):
    root = mounted(tmp_path, "new")
    next((root / LAYOUTS["new"]["dataset"]).glob("wheels/*.whl")).unlink()
    assert find_inputs(root).wheels is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_encoders_are_found_by_their_records_and_named_by_what_holds_them(tmp_path, layout):
    root = mounted(tmp_path, layout)
    output = (root / LAYOUTS[layout]["output"]).with_name("train-slug")
    for folder in (output / "encoder", (root / LAYOUTS[layout]["dataset"]).with_name("my-encoder")):
        folder.mkdir(parents=True)
        (folder / "encoder.json").write_text("{}")
    found = find_inputs(root).encoders
    assert {name: own.name for name, own in found.items()} == {"train-slug": "encoder", "my-encoder": "my-encoder"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_images_are_never_listed(tmp_path, layout):
    root = mounted(tmp_path, layout)
    code = (
        "import sys, os; from pathlib import Path\nlisted = []\n"
        "sys.addaudithook(lambda e, a: listed.append(str(a[0])) if e in ('os.listdir', 'os.scandir') else None)\n"
        "from kernel.notebook.inputs import find_inputs\n"
        f"find_inputs(Path({str(root)!r}))\nprint(any(p.endswith('images') for p in listed), len(listed) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("path", "flat"),
    [
        ("captioners/blip2/model.safetensors", "captioners--blip2--model.safetensors"),
        ("captioners/blip2/config.json", "captioners--blip2/config.json"),
        ("sentences/1_Pooling/config.json", "sentences--1_Pooling/config.json"),
        ("clip/open_clip_config.json", "clip/open_clip_config.json"),
        ("prompt_bank/prompts.parquet", "prompt_bank--prompts.parquet"),
        ("prior.txt", "prior.txt"),
    ],
)
def test_flat_names(path, flat):
    assert flat_name(path) == flat


def test_no_folder_of_the_dataset_holds_a_folder(weights):
    """A zip with a single folder in it would lose that folder when Kaggle unpacks it."""
    names = [flat_name(p.relative_to(weights.folder).as_posix()) for p in weights.folder.rglob("*") if p.is_file()]
    assert max(name.count("/") for name in names) == 1


def flattened(weights_folder, out):
    for path in weights_folder.rglob("*"):
        if path.is_file():
            target = out / flat_name(path.relative_to(weights_folder).as_posix())
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return out


def test_a_flat_dataset_becomes_the_weights_folder_again(tmp_path, weights_folder):
    restored = restore_weights(flattened(weights_folder, tmp_path / "flat"), tmp_path / "weights")
    assert open_weights(restored).models == open_weights(weights_folder).models


def test_a_weights_folder_as_it_is_becomes_one_again(tmp_path, weights_folder):
    restored = restore_weights(weights_folder, tmp_path / "weights")
    assert open_weights(restored).captioners == open_weights(weights_folder).captioners


def test_restoring_copies_nothing(tmp_path, weights_folder):
    restored = restore_weights(weights_folder, tmp_path / "weights")
    assert all(path.is_symlink() for path in restored.rglob("*") if not path.is_dir())


def test_restoring_twice_replaces_what_was_there(tmp_path, weights_folder):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "left-over.txt").write_text("")
    restored = restore_weights(weights_folder, tmp_path / "weights")
    assert not (restored / "left-over.txt").exists()


def test_a_file_that_did_not_arrive_is_named(tmp_path, weights_folder):
    flat = flattened(weights_folder, tmp_path / "flat")
    (flat / "captioners--blip2" / "config.json").unlink()
    with pytest.raises(UserError, match="captioners--blip2/config.json: not there.*incomplete.*make dataset"):
        restore_weights(flat, tmp_path / "weights")


def test_a_pair_set_is_itself_again(tmp_path, drawn):
    pairs = write_tars(tmp_path / "pairs", [(picture, scene.prompt, 0) for picture, scene in drawn[:4]], 2)
    mount = stage_pairs(pairs, tmp_path / "mount", "someone").folder
    assert open_pairs(restore_pairs(mount, tmp_path / "restored")).sha256 == open_pairs(pairs).sha256
