"""BLIP and BLIP-2 through their real loaders, and every silent way to be wrong refused with words."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kernel import captions
from kernel.captions import Captioner, check_dtypes
from kernel.config import RECIPES
from kernel.errors import UserError

RECIPE = RECIPES["baseline"]


@pytest.fixture(scope="module", params=["blip2", "blip"])
def captioner(request, weights, cpu):
    return Captioner.load(weights, request.param, cpu)


@pytest.fixture(scope="module")
def blip2(weights, cpu):
    return Captioner.load(weights, "blip2", cpu)


def edit_json(path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_state(path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_every_image_gets_the_recipes_number_of_captions(captioner, drawn):
    said = captioner.captions([picture for picture, _ in drawn[:3]], RECIPE)
    assert [len(own) for own in said] == [5, 5, 5]
    assert all(len(set(own)) == 5 and all(own) for own in said)


def test_captions_are_those_of_generate_on_one_image(captioner, drawn):
    pictures = [picture for picture, _ in drawn[:4]]
    for picture, own in zip(pictures, captioner.captions(pictures, RECIPE), strict=True):
        pixels = captioner.processor(images=picture, return_tensors="pt")["pixel_values"]
        ids = captioner.model.generate(
            pixel_values=pixels, num_beams=5, num_return_sequences=5, max_length=20, min_length=5
        )
        assert own == [text.strip() for text in captioner.processor.batch_decode(ids, skip_special_tokens=True)]


def test_blip2_names_subject_and_color_of_most_pictures(blip2, drawn):
    said = [own[0].split() for own in blip2.captions([picture for picture, _ in drawn], RECIPE)]
    named = [scene.subject in words and scene.color in words for words, (_, scene) in zip(said, drawn, strict=True)]
    assert sum(named) >= 0.75 * len(drawn)


def test_the_image_reaches_the_language_model(blip2, drawn):
    """A captioner whose image slots stay empty says the same of everything."""
    said = {own[0] for own in blip2.captions([picture for picture, _ in drawn], RECIPE)}
    assert len(said) > len(drawn) / 2


def test_fewer_beams_and_captions(captioner, drawn):
    said = captioner.captions([drawn[0][0]], replace(RECIPE, num_beams=1, captions_per_image=1))
    assert len(said) == 1 and len(said[0]) == 1


SAMPLED = replace(RECIPE, caption_decoding="sampling", captions_per_image=20)


def test_twenty_sampled_captions_an_image_are_the_same_by_the_same_seed_alone(captioner):
    """Of pictures that show nothing, so that the captioner is not sure of a word."""
    pictures = [Image.effect_noise((160, 160), spread).convert("RGB") for spread in (40, 90)]
    recipe = replace(SAMPLED, sampling_top_p=1.0)
    first, again, other = (captioner.captions(pictures, recipe, seed) for seed in (3, 3, 4))
    assert [len(own) for own in first] == [20, 20]
    assert first == again
    assert first != other


def test_sampling_draws_from_all_words_that_together_have_the_probability(captioner, drawn):
    """So little that only the likeliest word is left: then every draw is the same."""
    (own,) = captioner.captions([drawn[0][0]], replace(SAMPLED, sampling_top_p=1e-6))
    (greedy,) = captioner.captions([drawn[0][0]], replace(RECIPE, num_beams=1, captions_per_image=1))
    assert set(own) == set(greedy)


def test_max_length_counts_the_start_token_of_t5(blip2, drawn):
    ids = []
    original = blip2.model.generate
    blip2.model.generate = lambda **arguments: ids.append(original(**arguments)) or ids[-1]
    try:
        blip2.captions([drawn[0][0]], replace(RECIPE, max_length=4, min_length=1))
    finally:
        del blip2.model.generate
    assert ids[0].shape[1] == 4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 20), (3, 2)])
def test_odd_sizes_are_captioned(captioner, size):
    assert len(captioner.captions([Image.new("RGB", size, "red")], RECIPE)[0]) == 5


def test_half_precision_keeps_wo_qformer_and_queries_in_full(weights, half_on_cpu):
    model = Captioner.load(weights, "blip2", half_on_cpu).model
    for name, parameter in model.named_parameters():
        full = ".wo." in name or name.startswith(("qformer.", "query_tokens"))
        assert parameter.dtype == (torch.float32 if full else torch.float16), name


def test_a_wo_that_was_halved_is_refused(weights, half_on_cpu):
    model = Captioner.load(weights, "blip2", half_on_cpu).model
    model.language_model.encoder.block[0].layer[1].DenseReluDense.wo.half()
    with pytest.raises(UserError, match=r"wo.weight loaded as torch.float16, expected torch.float32"):
        check_dtypes(weights.folder, model, half_on_cpu, captions.FULL_PRECISION_PARTS)


def test_a_checkpoint_whose_full_parts_cannot_be_kept_is_refused(weights, half_on_cpu, monkeypatch):
    """What a transformers that ignores the class attribute would do."""
    from transformers import Blip2ForConditionalGeneration

    original = Blip2ForConditionalGeneration.from_pretrained.__func__

    def ignoring(cls, *arguments, **keywords):
        model, info = original(cls, *arguments, **keywords)
        return model.half(), info

    monkeypatch.setattr(Blip2ForConditionalGeneration, "from_pretrained", classmethod(ignoring))
    with pytest.raises(UserError, match="loaded as torch.float16, expected torch.float32"):
        Captioner.load(weights, "blip2", half_on_cpu)


@pytest.mark.parametrize("stated", ["absent", True, None])
def test_output_scaling_not_stated_false_is_refused(own_copy, cpu, stated):
    broken = own_copy("blip2")

    def change(config):
        del config["text_config"]["scale_decoder_outputs"]
        if stated != "absent":
            config["text_config"]["scale_decoder_outputs"] = stated

    edit_json(broken.model_folder("blip2") / "config.json", change)
    with pytest.raises(UserError, match="scale_decoder_outputs is .*, expected false"):
        Captioner.load(broken, "blip2", cpu)


def test_output_scaling_after_loading_is_refused(weights, blip2, monkeypatch):
    monkeypatch.setattr(blip2.model.language_model.config, "scale_decoder_outputs", True)
    with pytest.raises(UserError, match="would scale T5's decoder outputs"):
        captions.check_loaded_scaling(weights.folder, blip2.model)


@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_a_missing_layer_is_refused(own_copy, cpu, name):
    broken = own_copy(name)
    layer = {"blip2": "language_projection.weight", "blip": "vision_model.post_layernorm.weight"}[name]
    edit_state(broken.model_folder(name) / "model.safetensors", lambda state: state.pop(layer))
    with pytest.raises(UserError, match=f"missing keys {layer}.*random numbers"):
        Captioner.load(broken, name, cpu)


def test_a_foreign_layer_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    path = broken.model_folder("blip2") / "model.safetensors"
    edit_state(path, lambda state: state.update({"qformer.extra.weight": torch.zeros(2)}))
    with pytest.raises(UserError, match="unexpected keys qformer.extra.weight"):
        Captioner.load(broken, "blip2", cpu)


def test_a_layer_of_another_shape_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    path = broken.model_folder("blip2") / "model.safetensors"
    edit_state(path, lambda state: state.update({"language_projection.bias": torch.zeros(3)}))
    with pytest.raises(UserError, match="language_projection.bias|cannot load it"):
        Captioner.load(broken, "blip2", cpu)


def test_an_image_token_that_is_another_word_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    edit_json(broken.model_folder("blip2") / "config.json", lambda config: config.update(image_token_index=7))
    with pytest.raises(UserError, match="image_token_index is 7, expected .*would not reach"):
        Captioner.load(broken, "blip2", cpu)


def test_no_image_token_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    edit_json(broken.model_folder("blip2") / "config.json", lambda config: config.update(image_token_index=None))
    with pytest.raises(UserError, match="image_token_index is None"):
        Captioner.load(broken, "blip2", cpu)


@pytest.mark.parametrize("count", [None, 31])
def test_a_processor_with_another_number_of_slots_is_refused(own_copy, cpu, count):
    broken = own_copy("blip2")
    path = broken.model_folder("blip2") / "processor_config.json"
    edit_json(path, lambda config: config.update(num_query_tokens=count))
    with pytest.raises(UserError, match=f"processor num_query_tokens is {count}, expected 32"):
        Captioner.load(broken, "blip2", cpu)


def test_a_text_model_without_start_token_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    edit_json(
        broken.model_folder("blip2") / "config.json", lambda config: config["text_config"].update(bos_token_id=None)
    )
    with pytest.raises(UserError, match="bos_token_id is missing"):
        Captioner.load(broken, "blip2", cpu)


def test_two_exchanged_words_in_the_tokenizer_are_refused(own_copy, cpu):
    broken = own_copy("blip2")

    def exchange(content):
        pieces = content["model"]["vocab"]
        first, second = (next(i for i, (piece, _) in enumerate(pieces) if piece == word) for word in ("▁red", "▁fish"))
        pieces[first], pieces[second] = pieces[second], pieces[first]

    edit_json(broken.model_folder("blip2") / "tokenizer.json", exchange)
    with pytest.raises(UserError, match="tokenizer's ids are .*would mean other words"):
        Captioner.load(broken, "blip2", cpu)


def test_the_tokenizer_of_the_other_captioner_is_refused(own_copy, cpu, weights):
    broken = own_copy("blip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (weights.model_folder("blip2") / name).read_text(encoding="utf-8")
        (broken.model_folder("blip") / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer|cannot load"):
        Captioner.load(broken, "blip", cpu)


def test_an_unknown_class_lists_the_known_ones(weights, cpu):
    models = {**weights.models, "blip": {**weights.models["blip"], "class": "GitForCausalLM"}}
    with pytest.raises(UserError, match="Blip2ForConditionalGeneration, BlipForConditionalGeneration"):
        Captioner.load(replace(weights, models=models), "blip", cpu)


def test_opt_lengths_leave_out_the_image_slots(blip2, monkeypatch):
    monkeypatch.setattr(blip2.model.config, "use_decoder_only_language_model", True)
    assert blip2.lengths(RECIPE) == {"max_new_tokens": 19, "min_new_tokens": 4}
