"""BLIP-2: the image reaches the words, and every silent way to be wrong is refused with words."""

import json
from dataclasses import replace

import pytest
import torch

from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.captioner import check_dtypes
from kernel.models.captioners.loading import load_captioner
from tests.models.captioners.conftest import edit_json

RECIPE = RECIPES["baseline"]
HUB_CONFIG = {
    "model_type": "blip-2",
    "torch_dtype": "float32",
    "text_config": {"model_type": "t5", "tie_word_embeddings": False, "torch_dtype": "float32", "d_model": 2048},
}


@pytest.fixture(scope="module")
def blip2(weights, cpu):
    return load_captioner(weights, "blip2", cpu)


def test_blip2_names_subject_and_color_of_most_pictures(blip2, drawn):
    said = [own[0].split() for own in blip2.captions([picture for picture, _ in drawn], RECIPE)]
    named = [scene.subject in words and scene.color in words for words, (_, scene) in zip(said, drawn, strict=True)]
    assert sum(named) >= 0.75 * len(drawn)


def test_the_image_reaches_the_language_model(blip2, drawn):
    """A captioner whose image slots stay empty says the same of everything."""
    said = {own[0] for own in blip2.captions([picture for picture, _ in drawn], RECIPE)}
    assert len(said) > len(drawn) / 2


def test_max_length_counts_the_start_token_of_t5(blip2, drawn):
    ids = []
    original = blip2.model.generate
    blip2.model.generate = lambda **arguments: ids.append(original(**arguments)) or ids[-1]
    try:
        blip2.captions([drawn[0][0]], replace(RECIPE, max_length=4, min_length=1))
    finally:
        del blip2.model.generate
    assert ids[0].shape[1] == 4


def test_opt_lengths_leave_out_the_image_slots(blip2, monkeypatch):
    monkeypatch.setattr(blip2.model.config, "use_decoder_only_language_model", True)
    assert BLIP2.lengths(blip2.model, RECIPE) == {"max_new_tokens": 19, "min_new_tokens": 4}


def test_half_precision_keeps_wo_qformer_and_queries_in_full(weights, half_on_cpu):
    model = load_captioner(weights, "blip2", half_on_cpu).model
    for name, parameter in model.named_parameters():
        full = ".wo." in name or name.startswith(("qformer.", "query_tokens"))
        assert parameter.dtype == (torch.float32 if full else torch.float16), name


def test_a_wo_that_was_halved_is_refused(weights, half_on_cpu):
    model = load_captioner(weights, "blip2", half_on_cpu).model
    model.language_model.encoder.block[0].layer[1].DenseReluDense.wo.half()
    with pytest.raises(UserError, match=r"wo.weight loaded as torch.float16, expected torch.float32"):
        check_dtypes(weights.folder, model, half_on_cpu, BLIP2.full_precision)


def test_a_checkpoint_whose_full_parts_cannot_be_kept_is_refused(weights, half_on_cpu, monkeypatch):
    """What a transformers that ignores the class attribute would do."""
    from transformers import Blip2ForConditionalGeneration

    original = Blip2ForConditionalGeneration.from_pretrained.__func__

    def ignoring(cls, *arguments, **keywords):
        model, info = original(cls, *arguments, **keywords)
        return model.half(), info

    monkeypatch.setattr(Blip2ForConditionalGeneration, "from_pretrained", classmethod(ignoring))
    with pytest.raises(UserError, match="loaded as torch.float16, expected torch.float32"):
        load_captioner(weights, "blip2", half_on_cpu)


@pytest.mark.parametrize("stated", ["absent", True, None])
def test_output_scaling_not_stated_false_is_refused(own_copy, cpu, stated):
    broken = own_copy("blip2")

    def change(config):
        del config["text_config"]["scale_decoder_outputs"]
        if stated != "absent":
            config["text_config"]["scale_decoder_outputs"] = stated

    edit_json(broken.model_folder("blip2") / "config.json", change)
    with pytest.raises(UserError, match="scale_decoder_outputs is .*, expected false"):
        load_captioner(broken, "blip2", cpu)


def test_an_image_token_that_is_another_word_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    edit_json(broken.model_folder("blip2") / "config.json", lambda config: config.update(image_token_index=7))
    with pytest.raises(UserError, match="image_token_index is 7, expected .*would not reach"):
        load_captioner(broken, "blip2", cpu)


def test_no_image_token_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    edit_json(broken.model_folder("blip2") / "config.json", lambda config: config.update(image_token_index=None))
    with pytest.raises(UserError, match="image_token_index is None"):
        load_captioner(broken, "blip2", cpu)


@pytest.mark.parametrize("count", [None, 31])
def test_a_processor_with_another_number_of_slots_is_refused(own_copy, cpu, count):
    broken = own_copy("blip2")
    path = broken.model_folder("blip2") / "processor_config.json"
    edit_json(path, lambda config: config.update(num_query_tokens=count))
    with pytest.raises(UserError, match=f"processor num_query_tokens is {count}, expected 32"):
        load_captioner(broken, "blip2", cpu)


def test_a_text_model_without_start_token_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    edit_json(
        broken.model_folder("blip2") / "config.json", lambda config: config["text_config"].update(bos_token_id=None)
    )
    with pytest.raises(UserError, match="bos_token_id is missing"):
        load_captioner(broken, "blip2", cpu)


def test_t5s_output_scaling_is_stated_as_the_loader_demands():
    stated = BLIP2.stated(HUB_CONFIG)["text_config"]
    assert (stated["scale_decoder_outputs"], stated["tie_word_embeddings"], stated["d_model"]) == (False, False, 2048)


def test_a_captioners_configuration_claims_no_dtype():
    assert "dtype" not in json.dumps(BLIP2.stated({**HUB_CONFIG, "vision_config": {"dtype": "float32"}}))


def test_the_configuration_given_is_not_changed():
    before = json.dumps(HUB_CONFIG)
    BLIP2.stated(HUB_CONFIG)
    assert json.dumps(HUB_CONFIG) == before


@pytest.mark.parametrize("config", [{"model_type": "blip"}, {"text_config": {"model_type": "opt", "vocab_size": 3}}])
def test_a_configuration_without_t5_stays_as_it_is(config):
    assert BLIP2.stated(config) == config
