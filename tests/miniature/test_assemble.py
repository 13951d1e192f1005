import sys

import torch
from safetensors.torch import load_file

from kernel.miniature.assemble import CHECKPOINTS
from kernel.miniature.training.captioner_parts import vision_weights
from kernel.models.weights_folder import open_weights
from tests import warm
from tests.conftest import ROOT


def test_the_assembled_folder_is_complete_by_its_own_manifest(weights):
    assert weights.captioners[0] == "blip2"
    assert set(weights.models) == {"clip", "matching", "sentences", *weights.captioners}


def test_captioners_hold_clips_vision_tower(weights):
    tower = vision_weights(load_file(CHECKPOINTS / "clip" / "open_clip_model.safetensors"))
    for name in weights.captioners:
        state = load_file(weights.model_folder(name) / "model.safetensors")
        for key, tensor in tower.items():
            assert torch.equal(state[key].float(), tensor), (name, key)


def test_the_committed_checkpoints_are_fp16_safetensors_of_at_most_25_mb():
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25 * 10**6
    for path in files:
        assert path.suffix in {".safetensors", ".json", ".md"}, path
        if path.suffix == ".safetensors":
            assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


def test_assembling_replaces_an_older_folder_and_says_where_it_is(tmp_path):
    out = tmp_path / "weights"
    out.mkdir()
    (out / "stale.txt").write_text("old")
    command = [sys.executable, "-m", "kernel.miniature.assemble", "--out", str(out)]
    done = warm.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == f"{out}\n"
    assert [word for word in ("Warning", "deprecated", "Loading weights", "Writing") if word in done.stderr] == []
    open_weights(out)
    assert not (out / "stale.txt").exists() and not list(tmp_path.glob(".*"))
