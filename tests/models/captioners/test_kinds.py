"""Every kind that has no miniature, by a tiny checkpoint of its own class through the real loader."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.captioners.captioner import Published
from kernel.models.captioners.loading import kind_of, load_captioner
from kernel.models.captioners.packed_linear import IMAGES_AT_ONCE
from kernel.models.weights_folder import Weights
from kernel.pipeline.planning.model_costs import captioner_costs, weigh
from tests.models.captioners.conftest import edit_state, plain_captioner
from tests.models.captioners.tiny import MAKERS, tiny_captioner

RECIPE = replace(RECIPES["baseline"], num_beams=3, captions_per_image=3, max_length=8, min_length=3)
SAMPLED = replace(RECIPE, caption_decoding="sampling", captions_per_image=4, sampling_top_p=1.0)


@pytest.fixture(scope="module", params=MAKERS)
def tiny(request, tmp_path_factory) -> Weights:
    return tiny_captioner(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def own(tiny, tmp_path) -> Weights:
    """The same, to be broken."""
    name = tiny.captioners[0]
    (tmp_path / "captioners").mkdir()
    shutil.copytree(tiny.model_folder(name), tmp_path / "captioners" / name)
    return replace(tiny, folder=tmp_path)


@pytest.fixture(scope="module")
def captioner(tiny, cpu):
    return load_captioner(tiny, tiny.captioners[0], cpu)


@pytest.fixture(scope="module")
def noise() -> list[Image.Image]:
    """Of several shapes, darker and brighter."""
    rng = np.random.default_rng(0)
    shapes = {(40, 40): 40, (64, 30): 120, (30, 90): 200, (28, 28): 255}
    return [Image.fromarray(rng.integers(0, most, (*shape, 3), dtype=np.uint8)) for shape, most in shapes.items()]


def test_every_image_gets_the_recipes_number_of_captions_of_its_length(captioner, noise):
    said = captioner.captions(noise, RECIPE)
    assert [len(own) for own in said] == [3] * 4
    assert all(1 <= len(text.split()) <= 8 for own in said for text in own)


def test_pictures_are_told_apart(captioner, noise):
    assert len({own[0] for own in captioner.captions(noise, RECIPE)}) > 1


def test_an_image_alone_gets_the_words_that_it_gets_among_others(captioner, noise):
    together = captioner.captions(noise, RECIPE)
    assert [captioner.captions([picture], RECIPE)[0] for picture in noise] == together


def test_many_images_get_the_words_of_torchs_own_layers_and_of_a_tower_that_takes_them_at_once(
    tiny, captioner, cpu, noise
):
    pictures, plain = [*noise, *(ImageOps.invert(own) for own in noise)], plain_captioner(tiny, tiny.captioners[0], cpu)
    assert len(pictures) > IMAGES_AT_ONCE
    assert captioner.captions(pictures, RECIPE) == plain.captions(pictures, RECIPE)


def test_samples_are_the_same_by_the_same_seed_alone(captioner, noise):
    first, again, other = (captioner.captions(noise, SAMPLED, seed) for seed in (3, 3, 4))
    assert [len(own) for own in first] == [4] * 4
    assert first == again
    assert first != other


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 20)])
def test_odd_sizes_are_captioned(captioner, size):
    assert len(captioner.captions([Image.new("RGB", size, "red")], RECIPE)[0]) == 3


def test_half_precision_is_loaded_as_half_but_for_the_parts_that_overflow(tiny, half_on_cpu, noise):
    loaded = load_captioner(tiny, tiny.captioners[0], half_on_cpu)
    assert torch.float16 in {parameter.dtype for parameter in loaded.model.parameters()}
    assert len(loaded.captions(noise[:1], RECIPE)[0]) == 3


def test_a_checkpoint_that_is_loaded_in_another_dtype_is_refused(tiny, half_on_cpu, monkeypatch):
    """What a transformers that ignores `dtype` would do."""
    plain = kind_of(tiny.models[tiny.captioners[0]]["class"], "").of_transformers("ForConditionalGeneration")
    original = plain.from_pretrained.__func__

    def ignoring(cls, *arguments, **keywords):
        model, info = original(cls, *arguments, **keywords)
        return model.float(), info

    monkeypatch.setattr(plain, "from_pretrained", classmethod(ignoring))
    with pytest.raises(UserError, match="loaded as torch.float32, expected torch.float16"):
        load_captioner(tiny, tiny.captioners[0], half_on_cpu)


def test_half_precision_that_overflowed_is_told_in_words(tiny, half_on_cpu, noise):
    loaded = load_captioner(tiny, tiny.captioners[0], half_on_cpu)
    head = loaded.kind.output_head(loaded.model)
    with torch.no_grad():
        head.copy_(torch.randn(head.shape).sign() * 6e4)
    with pytest.raises(ValueError, match="no numbers: the weights are damaged, or half precision overflowed"):
        loaded.captions(noise[:1], replace(RECIPE, num_beams=1, captions_per_image=1))


@pytest.mark.parametrize("half", [True, False])
def test_a_loaded_one_weighs_what_is_planned_by_its_configuration(tiny, half, cpu, half_on_cpu):
    name = tiny.captioners[0]
    loaded = load_captioner(tiny, name, half_on_cpu if half else cpu)
    config = loaded.kind.read_config(tiny.model_folder(name) / loaded.kind.config_file)
    costs = captioner_costs(Published(name, loaded.kind.class_name, config), half)
    assert weigh(loaded.model, loaded.kind) == costs.weights
    (first, _), (second, _), (third, _) = costs.steps
    assert first.operations > second.operations <= third.operations


def test_a_missing_layer_is_refused(own, cpu):
    def drop(state):
        state.pop(next(name for name in sorted(state) if "layers.0" in name or "layer.0" in name))

    edit_state(own.model_folder(own.captioners[0]) / "model.safetensors", drop)
    with pytest.raises(UserError, match="missing keys .*random numbers"):
        load_captioner(own, own.captioners[0], cpu)


def test_a_foreign_layer_is_refused(own, cpu):
    path = own.model_folder(own.captioners[0]) / "model.safetensors"
    edit_state(path, lambda state: state.update({"another.weight": torch.zeros(2)}))
    with pytest.raises(UserError, match="unexpected keys another.weight"):
        load_captioner(own, own.captioners[0], cpu)


def test_a_tokenizer_of_other_words_is_refused(own, cpu):
    path = own.model_folder(own.captioners[0]) / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    text = text.replace('"red"', '"once"').replace('"fish"', '"red"').replace('"once"', '"fish"')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer's ids are .*would mean other words"):
        load_captioner(own, own.captioners[0], cpu)
