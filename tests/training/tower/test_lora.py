"""Adapters beside the layers of three kinds of towers: they learn, stop, go on, and become part of the tower."""

import sys
from dataclasses import replace

import pytest
import timm
import torch

from kernel.miniature.world.drawing import draw
from kernel.miniature.world.grammar import scene_stream
from kernel.models.encoders.encoder import ImageEncoder
from kernel.models.encoders.towers import read_clip_tower
from kernel.models.weights_folder import open_weights
from kernel.system.deadline import NEVER
from kernel.system.devices import Device
from kernel.training import train as train_module
from kernel.training.tower.loop import Loop
from kernel.training.tower.lora import add_adapters, merged
from kernel.training.tower.processes import Processes
from kernel.training.tower.trained import Trained, parameter_groups
from kernel.training.train import train
from tests.training.sets import write_tars
from tests.training.tower.test_loop import SETTINGS, last_weights, pictured, random_head, tower

TOWERS = {
    "clip": lambda weights: (read_clip_tower(weights)[1], 80),
    "transformer": lambda _: (tower(), 32),
    "convolutions": lambda _: (timm.create_model("test_efficientnet", num_classes=0), 32),
}


@pytest.fixture(params=TOWERS)
def begun(request, weights_folder):
    """A tower with adapters, what these are, its pictures, its answers before, and its tensors."""
    torch.manual_seed(1)
    own, size = TOWERS[request.param](open_weights(weights_folder))
    own.eval()
    pixels = torch.randn(3, 3, size, size)
    with torch.inference_mode():
        before = own(pixels)
    names = list(own.state_dict())
    return own, add_adapters(own, 4, seed=0), pixels, before, names


def test_a_tower_with_new_adapters_answers_as_before_and_only_they_learn(begun):
    own, _, pixels, before, _ = begun
    with torch.inference_mode():
        assert torch.equal(own(pixels), before)
    learning = [name for name, weight in own.named_parameters() if weight.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    rates = {group["lr_scale"] for group in parameter_groups(Trained(own, random_head(before.shape[1])), SETTINGS)}
    assert len(rates) > 2  # by layer, as without adapters


def test_what_adapters_learned_becomes_part_of_the_tower(begun):
    own, adapters, pixels, before, names = begun
    for weight in own.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    with torch.inference_mode():
        learned = own(pixels)
        found = merged(adapters)(pixels)
    changed = (learned - before).abs().max()
    assert changed > 1e-5 and (found - learned).abs().max() < changed / 10
    assert sorted(own.state_dict()) == sorted(names)


def trained(folder, seen, epochs: int = 3) -> Loop:
    folder.mkdir(exist_ok=True)
    own = tower()
    add_adapters(own, 4, seed=0)
    settings = replace(SETTINGS, epochs=epochs)
    return Loop(Trained(own, random_head()), seen, settings, Processes(0, 1, Device("cpu")), folder, {}, NEVER)


def test_it_learns_and_after_a_cut_ends_with_the_same_weights(tmp_path, monkeypatch):
    seen = pictured(tmp_path / "pictures")
    own = trained(tmp_path / "whole", seen)
    progress = own.run()
    assert progress.validations[progress.best] > progress.validations[0] + 0.3
    first = trained(tmp_path / "cut", seen)
    steps = first.step

    def cut(*given):
        if first.progress.step == 5:
            raise KeyboardInterrupt
        return steps(*given)

    monkeypatch.setattr(first, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    again = trained(tmp_path / "cut", seen)
    assert again.run().validations == progress.validations
    assert last_weights(again.folder) == last_weights(own.folder)


def test_an_encoder_of_this_tier_is_loaded_without_peft(weights_folder, tmp_path, monkeypatch):
    told = [(draw(scene, rng), scene.prompt, n % 20) for n, (scene, rng) in enumerate(scene_stream(7_800_000, 200))]
    pairs = write_tars(tmp_path / "pairs", told, a_tar=100)
    torch.manual_seed(0)
    model = timm.create_model("test_vit2", num_classes=0)
    timm.models.save_for_hf(model, tmp_path / "tower", safe_serialization=True)
    settings = replace(SETTINGS, epochs=2, batch=32, augment=False, learning_rate=1e-3, head_factor=1.0)
    fitted = train_module.best_head  # what it begins with is poor, that the tower has something to learn
    monkeypatch.setattr(train_module, "best_head", lambda *given: replace(fitted(*given), head=random_head()))
    found = train(pairs, weights_folder, tmp_path / "own", [str(tmp_path / "tower")], "lora", settings, "cpu")
    assert found["tier"] == "lora"
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = ImageEncoder.load(tmp_path / "own", Device("cpu"))
    assert set(loaded.towers[0].model.state_dict()) == set(model.state_dict())
