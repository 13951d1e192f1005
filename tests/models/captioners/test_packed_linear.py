"""A captioner on a CPU computes by oneDNN with packed weights what it computes by torch's own layers."""

import copy
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import Linear
from transformers.activations import ACT2FN

from kernel.config import RECIPES
from kernel.models.captioners import packed_linear
from kernel.models.captioners.loading import load_captioner
from kernel.models.captioners.packed_linear import IMAGES_AT_ONCE, PackedLinear, compute_by_onednn
from kernel.system.memory import STATUS
from tests.models.captioners.conftest import plain_captioner

MB = 10**6


@pytest.mark.parametrize("name", ["blip2", "blip"])
@pytest.mark.parametrize("images", [1, IMAGES_AT_ONCE, IMAGES_AT_ONCE + 1, 3 * IMAGES_AT_ONCE - 1])
def test_captions_are_those_of_torchs_own_layers(weights, cpu, drawn, name, images):
    pictures, recipe = [picture for picture, _ in drawn[:images]], RECIPES["baseline"]
    packed, plain = load_captioner(weights, name, cpu), plain_captioner(weights, name, cpu)
    assert packed.captions(pictures, recipe) == plain.captions(pictures, recipe)


@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_linear_layers_are_packed_and_activations_go_with_them(weights, cpu, name):
    model, plain = load_captioner(weights, name, cpu).model, plain_captioner(weights, name, cpu).model
    kinds, before = (Counter(type(module).__name__ for module in own.modules()) for own in (model, plain))
    assert kinds["PackedLinear"] == before["Linear"] - kinds["Linear"] > 10
    left = [name for name, module in model.named_modules() if type(module) is Linear]
    # BLIP's head is its words' embedding, and cross-attention reads its matrices
    assert all(name.endswith((".predictions.decoder", ".crossattention.self.key", ".self.value")) for name in left)
    assert bool(left) == (name == "blip")
    activated = sum(module.activation == "gelu" for module in model.modules() if isinstance(module, PackedLinear))
    gelus = ("GELUActivation", "NewGELUActivation")
    assert activated == sum(before[gelu] - kinds[gelu] for gelu in gelus) > 0
    # behind the head's own layer there is another name
    assert sum(kinds[gelu] for gelu in gelus) <= 1


@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_what_a_vision_tower_says_is_what_it_said_whole(weights, cpu, name):
    model, plain = load_captioner(weights, name, cpu).model, plain_captioner(weights, name, cpu).model
    side = model.config.vision_config.image_size
    pixels = torch.rand(2 * IMAGES_AT_ONCE + 1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = (own.vision_model(pixel_values=pixels) for own in (model, plain))
    for key in ("last_hidden_state", "pooler_output"):
        assert ours[key].shape == theirs[key].shape
        assert torch.allclose(ours[key], theirs[key], atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu", None])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_and_its_activation_give_what_they_gave(cpu, activation, bias):
    torch.manual_seed(0)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = Linear(48, 96, bias=bias)
            self.activation_fn = torch.nn.Identity() if activation is None else ACT2FN[activation]

        def forward(self, rows):
            return self.activation_fn(self.fc1(rows))

    plain = Block().eval()
    ours = copy.deepcopy(plain)
    compute_by_onednn(ours, cpu)
    assert isinstance(ours.fc1, PackedLinear)
    for shape in [(48,), (1, 48), (3, 48), (2, 17, 48), (300, 48)]:
        rows = 3 * torch.randn(shape)
        with torch.inference_mode():
            assert torch.allclose(ours(rows), plain(rows), atol=1e-5), shape


def test_a_matrix_that_two_layers_share_stays_as_it_is(cpu):
    words = torch.nn.Embedding(40, 16)
    head, between = Linear(16, 40, bias=False), Linear(16, 16)
    head.weight = words.weight
    model = torch.nn.Sequential(words, between, head)
    compute_by_onednn(model, cpu)
    assert model[2] is head and head.weight is words.weight and isinstance(model[1], PackedLinear)


def test_in_half_precision_and_without_onednn_nothing_changes(cpu, half_on_cpu, monkeypatch):
    model = torch.nn.Sequential(Linear(16, 16))
    compute_by_onednn(model, half_on_cpu)
    assert type(model[0]) is Linear
    monkeypatch.setattr(packed_linear.torch.backends.mkldnn, "is_available", lambda: False)
    compute_by_onednn(model, cpu)
    assert type(model[0]) is Linear


@pytest.mark.skipif(not STATUS.is_file(), reason="this system's /proc tells no RssFile")
def test_of_a_mapped_file_nothing_stays_in_memory_that_was_packed_and_the_rest_stays_whole(tmp_path, cpu):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    norms, width = torch.randn(7), 2048
    save_file({f"{place}": torch.randn(width, width) for place in range(6)} | {"norms": norms}, path)
    mapped = load_file(path)
    sums = [mapped[str(place)].double().sum().item() for place in range(6)]  # every page is read
    model = torch.nn.ModuleList(Linear(width, width, bias=False) for _ in range(6))
    for place, layer in enumerate(model):
        layer.weight = torch.nn.Parameter(mapped[str(place)], requires_grad=False)
    before = file_bytes()
    compute_by_onednn(model, cpu)
    assert before - file_bytes() > 6 * 4 * width**2 - 10 * MB
    assert torch.equal(mapped["norms"], norms)
    assert [mapped[str(place)].double().sum().item() for place in range(6)] == sums  # read from the file once more


def test_memory_of_no_file_is_not_given_back(cpu):
    """It would read as zeros."""
    layer = Linear(1024, 1024)
    weight, copied = layer.weight, layer.weight.detach().clone()
    compute_by_onednn(torch.nn.Sequential(layer), cpu)
    assert torch.equal(weight, copied)


def file_bytes() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024
