"""A tiny ViT learns which of four colours belongs to which vector: steps, cuts, processes, ends."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from kernel.config import TrainingSettings
from kernel.errors import UserError
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import Pixels
from kernel.models.vectors import unit_rows
from kernel.pipeline.images import ImageFile
from kernel.system.deadline import NEVER, Deadline
from kernel.system.devices import Device
from kernel.system.processes import child_environment
from kernel.training.split import Parts
from kernel.training.tower import loop as loop_module
from kernel.training.tower.checkpoint import load_checkpoint
from kernel.training.tower.loop import Loop, Pictured, loss_of
from kernel.training.tower.pictures import Order, Pictures
from kernel.training.tower.processes import Processes
from kernel.training.tower.trained import Trained, freeze_lower_layers, parameter_groups

COLOURS = ("red", "green", "blue", "white")
SETTINGS = TrainingSettings(epochs=3, batch=8, learning_rate=3e-3, workers=0, average=0.5, checkpoint_minutes=0)
PIXELS = Pixels(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")


def tower(size: int = 32):
    torch.manual_seed(0)
    return timm.create_model("test_vit2", num_classes=0, img_size=size)


def pictured(folder, count: int = 40) -> Pictured:
    """The last eight pictures are for validation."""
    folder.mkdir(exist_ok=True)
    vectors = unit_rows(np.random.default_rng(0).normal(size=(4, 384)))
    files, noise = [], np.random.default_rng(1)
    for index in range(count):
        path = folder / f"{index:02d}.png"
        picture = np.asarray(Image.new("RGB", (32, 32), COLOURS[index % 4])).astype(int)
        Image.fromarray((picture + noise.integers(-60, 60, (32, 32, 3))).clip(0, 255).astype(np.uint8)).save(path)
        files.append(ImageFile(path.stem, path))
    parts = Parts(np.arange(count - 8), np.arange(count - 8, count), np.arange(0))
    return Pictured(files, vectors[np.arange(count) % 4], parts, PIXELS)


def random_head(inputs: int = 64) -> OutputHead:
    weights = np.random.default_rng(2).normal(size=(384, inputs)).astype(np.float32) / 8
    return OutputHead(((weights, np.zeros(384, np.float32)),))


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Pictured:
    return pictured(tmp_path_factory.mktemp("colours"))


def begun(seen: Pictured, folder, settings=SETTINGS, deadline=NEVER, head=None) -> Loop:
    folder.mkdir(exist_ok=True)
    model = Trained(tower(), head or random_head())
    return Loop(model, seen, settings, Processes(0, 1, Device("cpu")), folder, {"pairs": "own"}, deadline)


@pytest.fixture(scope="module")
def undisturbed(seen, tmp_path_factory):
    own = begun(seen, tmp_path_factory.mktemp("undisturbed"))
    return own.run(), own


def last_weights(folder) -> dict[str, bytes]:
    """Weights, average and optimizer of the last checkpoint."""
    tensors = load_file(folder / "checkpoint.safetensors")
    return {name: own.numpy().tobytes() for name, own in tensors.items()}


def test_it_learns(undisturbed):
    progress, _ = undisturbed
    assert progress.validations[0] < 0.3 < 0.8 < progress.validations[progress.best]
    assert progress.step == 12 and list(progress.validations) == [0, 4, 8, 12]
    assert progress.losses[12] < progress.losses[4]


@pytest.mark.parametrize("at", [1, 5, 11])
def test_a_training_that_was_cut_goes_on_and_ends_with_the_same_weights(at, undisturbed, seen, tmp_path, monkeypatch):
    """Cut within a step, with checkpoints after every step: within an epoch, at its end, and before the last one."""
    expected, own = undisturbed
    first = begun(seen, tmp_path)
    steps = first.step

    def cut(*given):
        if first.progress.step == at:
            raise KeyboardInterrupt
        return steps(*given)

    monkeypatch.setattr(first, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    again = begun(seen, tmp_path)
    found = again.run()
    assert (found.validations, found.losses) == (expected.validations, expected.losses)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, own.model.state_dict()[name]), name
    assert last_weights(again.folder) == last_weights(own.folder)


def test_a_checkpoint_of_another_training_is_not_taken(seen, tmp_path):
    begun(seen, tmp_path, replace(SETTINGS, epochs=1)).run()
    own = begun(seen, tmp_path, replace(SETTINGS, epochs=2))
    own.resume()
    assert own.progress.step == 0


@pytest.mark.parametrize("parts", [4, 3])
def test_over_several_parts_of_a_step_it_is_the_same_within_rounding(parts, undisturbed, seen, tmp_path):
    """Of three parts, two have three of a batch's eight pictures and one has two."""
    expected, own = undisturbed
    found = begun(seen, tmp_path, replace(SETTINGS, accumulate=parts))
    progress = found.run()
    assert progress.losses == pytest.approx(expected.losses, abs=1e-4)
    assert progress.validations == pytest.approx(expected.validations, abs=1e-3)


TOGETHER = """
import json, sys
from pathlib import Path
from tests.training.tower.test_loop import *
from kernel.training.tower.processes import processes
folder, code = Path(sys.argv[1]), sys.argv[2]
with processes(Device("cpu")) as own:
    seen = pictured(folder / f"pictures{own.rank}")
    def loop(folder, settings=SETTINGS):
        return Loop(Trained(tower(), random_head()), seen, settings, own, folder, {"pairs": "own"}, NEVER)
    exec(code)
"""


def together(count: int, folder: Path, code: str) -> None:
    """Real processes of torchrun, joined by gloo over loopback, that each go by what `code` does."""
    (folder / "own.py").write_text(TOGETHER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = child_environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([*torchrun, str(folder / "own.py"), str(folder), code], capture_output=True, text=True,
                          timeout=240, env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


TELLS = """
progress = loop(folder).run()
(folder / f"found-{own.rank}.json").write_text(json.dumps([progress.validations, progress.losses]))
"""


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_under_torchrun_are_one_within_rounding(count, undisturbed, tmp_path):
    """Each sees its part of every batch: of three, two see three of its eight pictures and one sees two."""
    expected, _ = undisturbed
    together(count, tmp_path, TELLS)
    for rank in range(count):
        validations, losses = json.loads((tmp_path / f"found-{rank}.json").read_text())
        assert {int(step): own for step, own in validations.items()} == pytest.approx(expected.validations, abs=1e-3)
        assert {int(step): own for step, own in losses.items()} == pytest.approx(expected.losses, abs=1e-4)


CUT = """
found = loop(folder)
found.has_time = lambda: found.progress.step < 6
found.run()
"""


def test_a_training_cut_on_three_processes_goes_on_on_one_with_the_same_steps(undisturbed, seen, tmp_path):
    """Cut within the second epoch; what three made of its half and one makes of the other is what one makes of all."""
    expected, own = undisturbed
    together(3, tmp_path, CUT)
    again = begun(seen, tmp_path)
    again.resume()
    assert again.progress.step == 6
    progress = begun(seen, tmp_path).run()
    assert progress.validations.pop(6)  # as it had no more time there
    assert progress.validations == pytest.approx(expected.validations, abs=1e-3)
    assert progress.losses == pytest.approx(expected.losses, abs=1e-4)


APART = """
loop_module.LOOKS, loop_module.LOOK_SECONDS = 2, 0.0
alone = folder / str(own.rank)
alone.mkdir()
found = loop(alone)
if own.first:
    from kernel.training.tower.checkpoint import Progress, save_checkpoint
    save_checkpoint(alone / "checkpoint.safetensors", {}, Progress(3), found.identity)
try:
    found.resume()
except UserError as error:
    (folder / f"said-{own.rank}.txt").write_text(str(error))
"""


def test_processes_that_see_different_checkpoints_all_stop_in_one_line(tmp_path):
    together(2, tmp_path, APART)
    for rank, sees in enumerate(("step 3", "none")):
        said = (tmp_path / f"said-{rank}.txt").read_text()
        assert f"this machine sees {sees}, others see another" in said and "a disk that all machines share" in said


@pytest.mark.slow
def test_pictures_that_worker_processes_decode_are_the_same(undisturbed, seen, tmp_path):
    expected, own = undisturbed
    found = begun(seen, tmp_path, replace(SETTINGS, workers=2))
    assert found.run().validations == expected.validations
    assert last_weights(found.folder) == last_weights(own.folder)


def test_a_deadline_ends_it_with_a_checkpoint_and_a_usable_encoder_and_the_next_goes_on(undisturbed, seen, tmp_path):
    expected, own = undisturbed
    first = begun(seen, tmp_path, deadline=Deadline(0.0))
    progress = first.run()
    assert progress.step == 0 and (tmp_path / "checkpoint.safetensors").is_file()
    assert first.model.output_head().inputs == 64
    again = begun(seen, tmp_path)
    assert again.run().validations == expected.validations
    assert last_weights(again.folder) == last_weights(own.folder)


def test_time_that_runs_out_in_the_middle_leaves_the_steps_that_were_made(seen, tmp_path, monkeypatch):
    own = begun(seen, tmp_path)
    left = iter([True] * 5 + [False] * 9)
    monkeypatch.setattr(own, "has_time", lambda: next(left))
    assert own.run().step == 5
    again = begun(seen, tmp_path)
    again.resume()
    assert again.progress.step == 5
    # what is kept as the best is what the checkpoint calls so
    kept = load_checkpoint(tmp_path / "best.safetensors", again.identity)
    assert kept is not None and kept[1].best == again.progress.best == 5


def test_without_the_weights_that_were_best_so_far_it_begins_anew_and_ends_alike(
    undisturbed, seen, tmp_path, monkeypatch
):
    expected, own = undisturbed
    first = begun(seen, tmp_path)
    left = iter([True] * 9 + [False] * 9)
    monkeypatch.setattr(first, "has_time", lambda: next(left))
    first.run()
    (tmp_path / "best.safetensors").unlink()  # as a store hands out a folder whose object was damaged
    again = begun(seen, tmp_path)
    assert again.run().validations == expected.validations
    assert last_weights(again.folder) == last_weights(own.folder)


def test_a_loss_that_is_no_number_stops_it_in_one_line_and_the_best_stands(seen, tmp_path, monkeypatch):
    own = begun(seen, tmp_path)
    monkeypatch.setattr(
        loop_module, "loss_of", lambda answers, *_: (answers * (np.nan if own.progress.step == 6 else 1)).mean()
    )
    with pytest.raises(UserError, match=r"the loss of step 7 of 12 is nan.*is kept in .*learning_rate"):
        own.run()
    assert (tmp_path / "best.safetensors").is_file()
    again = begun(seen, tmp_path)
    again.resume()
    assert again.progress.step == 6


def test_what_it_began_with_is_handed_out_where_nothing_was_better(seen, tmp_path):
    good = begun(seen, tmp_path / "good")
    good.run()
    spoilt = Loop(good.model, seen, replace(SETTINGS, learning_rate=1.0, warmup=0.0), Processes(0, 1, Device("cpu")),
                  tmp_path, {"pairs": "own"}, NEVER)  # fmt: skip
    before = {name: own.clone() for name, own in good.model.state_dict().items()}
    progress = spoilt.run()
    assert progress.best == 0 and progress.validations[12] < progress.validations[0]
    assert all(torch.equal(own, before[name]) for name, own in spoilt.model.state_dict().items())


def test_every_epoch_takes_every_picture_once_and_processes_share_each_batch():
    order = Order(np.arange(100, 124), 8, seed=3)
    for epoch in range(2):
        steps = [order.of(epoch * order.steps + number) for number in range(order.steps)]
        assert sorted(place for own in steps for _, place in own) == list(range(100, 124))
        assert {own for step in steps for own, _ in step} == {epoch}
    whole = order.of(4)
    assert sorted(order.of(4, 0, 2) + order.of(4, 1, 2)) == sorted(whole) and order.of(0) != order.of(3)


def test_a_pictures_pixels_depend_on_seed_epoch_and_place_alone(seen):
    pictures = Pictures(seen.files, PIXELS, augment=True, seed=5)
    first = pictures[(1, 7)][0]
    pictures[(0, 3)], torch.rand(9)
    assert torch.equal(pictures[(1, 7)][0], first)
    assert not torch.equal(pictures[(2, 7)][0], first)
    assert not torch.equal(Pictures(seen.files, PIXELS, augment=True, seed=6)[(1, 7)][0], first)


def test_what_is_drawn_is_never_mirrored(tmp_path):
    """The left half is black, the right half white: in no draw the left is the lighter one."""
    picture = Image.new("L", (64, 64))
    picture.paste(255, (32, 0, 64, 64))
    picture.convert("RGB").save(tmp_path / "a.png")
    pictures = Pictures([ImageFile("a", tmp_path / "a.png")], PIXELS, augment=True, seed=0)
    for epoch in range(50):
        pixels = pictures[(epoch, 0)][0]
        assert pixels[:, :, 0].mean() <= pixels[:, :, -1].mean() + 1e-4


def test_only_the_upper_layers_are_trained_and_lower_ones_learn_slower():
    model = Trained(tower(), random_head())
    freeze_lower_layers(model.tower, 0.5)
    named = model.learning()
    assert "tower.patch_embed.proj.weight" not in named and "head.0.weight" in named
    assert any(name.startswith("tower.blocks") for name in named)
    freeze_lower_layers(model.tower, 1.0)
    scales = {group["lr_scale"] for group in parameter_groups(model, replace(SETTINGS, layer_decay=0.5))}
    assert {0.5, 1.0, 10.0} <= scales and min(scales) < 0.2


@pytest.mark.parametrize("kind", ["cosine", "angular"])
def test_a_loss_falls_as_the_angle_does(kind):
    truth = torch.tensor([[1.0, 0.0]])
    angles = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0])
    losses = [loss_of(torch.stack([angle.cos(), angle.sin()])[None], truth, kind).item() for angle in angles]
    assert losses == sorted(losses)
    if kind == "angular":
        assert losses[2] == pytest.approx(1 / np.pi, abs=1e-4)


def test_a_batch_of_fewer_pictures_than_processes_is_refused(seen, tmp_path):
    model = Trained(tower(), random_head())
    with pytest.raises(UserError, match="a batch of 8 pictures cannot be shared out to 9 processes"):
        Loop(model, seen, SETTINGS, Processes(0, 9, Device("cpu")), tmp_path, {}, NEVER)
