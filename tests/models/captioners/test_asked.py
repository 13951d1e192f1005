"""Captioners that are asked in words: what they are asked, with how many pixels, and what of the answer is kept."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.captioners.asked.kind import AskedKind
from kernel.models.captioners.asked.qwen import LEAST_PIXELS, MOST_PIXELS
from kernel.models.captioners.captioner import Published
from kernel.models.captioners.loading import KINDS, load_captioner
from kernel.pipeline.planning.model_costs import captioner_costs, count
from kernel.system.devices import Device
from tests.models.captioners.conftest import edit_json
from tests.models.captioners.tiny import MAKERS, tiny_captioner

RECIPE = replace(RECIPES["baseline"], num_beams=2, captions_per_image=2, max_length=6, min_length=3)
ASKED = {kind.name: kind for kind in KINDS.values() if isinstance(kind, AskedKind)}
CHATS = [name for name, kind in ASKED.items() if kind.prompt_kind == "chat"]


@pytest.fixture
def loaded(tmp_path, cpu):
    return lambda name: load_captioner(tiny_captioner(tmp_path, name), name, cpu)


def test_every_one_of_them_has_a_tiny_checkpoint():
    assert set(ASKED) < set(MAKERS)


@pytest.mark.parametrize("name", ASKED)
def test_its_class_is_the_one_that_transformers_own_table_has_for_its_configuration(name):
    classes = AutoModelForImageTextToText._model_mapping
    config = ASKED[name].of_transformers("Config")
    found = classes[config]
    assert getattr(found, "__name__", found) == ASKED[name].class_name


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_the_librarys_own_with_its_roles(loaded, name):
    captioner = loaded(name)
    picture = Image.new("RGB", (56, 56), "red")
    said = [{"type": "image", "image": picture}, {"type": "text", "text": captioner.kind.words["English"]}]
    expected = captioner.processor.apply_chat_template(
        [{"role": "user", "content": said}], tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True,
    )  # fmt: skip
    asked = captioner.kind.prompt(captioner.processor, [picture], Device("cpu"))
    assert torch.equal(asked["input_ids"], expected["input_ids"])
    assert torch.equal(asked["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize(
    "name, english, korean",
    [("paligemma", "caption en", "caption ko")]
    + [(name, "this image in one", "이 이미지를 한국어 한 문장으로") for name in ("qwen2-vl", "qwen3-vl")],
)
def test_a_korean_caption_is_asked_for_in_words_of_its_own(loaded, monkeypatch, name, english, korean):
    captioner, given = loaded(name), []
    generate = captioner.model.generate

    def told(input_ids, **others):
        given.append(captioner.processor.decode(input_ids[0]))
        return generate(input_ids=input_ids, **others)

    monkeypatch.setattr(captioner.model, "generate", told)
    for captioner.language in ("English", "Korean"):
        captioner.captions([Image.new("RGB", (56, 56), "red")], RECIPE)
    first, second = given
    assert english in first and korean not in first
    assert korean in second and english not in second


@pytest.mark.parametrize("name", [name for name, kind in ASKED.items() if kind.is_decoder_only])
def test_prompts_of_a_batch_end_together_and_captions_begin_behind_them(loaded, name):
    captioner = loaded(name)
    pictures = [Image.new("RGB", size, "red") for size in ((300, 60), (60, 60))]
    asked = captioner.kind.prompt(captioner.processor, pictures, Device("cpu"))
    assert bool(asked["attention_mask"][:, -1].all())
    ids = captioner.model.generate(**asked, max_new_tokens=5, min_new_tokens=2, num_beams=2, num_return_sequences=2)
    assert torch.equal(ids[::2, : asked["input_ids"].shape[1]], asked["input_ids"])
    own = captioner.processor.batch_decode(ids[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert captioner.captions(pictures, RECIPE) == [own[:2], own[2:]]


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen3-vl"])
def test_pixels_have_a_bound_whatever_the_picture(loaded, name):
    captioner = loaded(name)
    side = captioner.model.config.vision_config.patch_size
    for size in ((4000, 3000), (6000, 100), (5, 5)):
        grid = captioner.kind.prompt(captioner.processor, [Image.new("RGB", size)], Device("cpu"))["image_grid_thw"]
        assert LEAST_PIXELS * 0.9 <= int(grid.prod()) * side**2 <= MOST_PIXELS


def test_as_many_places_as_the_published_qwen3_has_are_taken(tmp_path, cpu):
    """Source: config.json of Qwen3-VL-2B-Instruct and -4B-Instruct."""
    weights = tiny_captioner(tmp_path, "qwen3-vl")
    path = weights.model_folder("qwen3-vl") / "config.json"
    edit_json(path, lambda config: config["text_config"].update({"max_position_embeddings": 262144}))
    captioner = load_captioner(weights, "qwen3-vl", cpu)
    assert captioner.kind.read_config(path)["text_config"]["max_position_embeddings"] == 262144


def test_a_large_picture_is_seen_once_and_not_in_parts(loaded):
    captioner = loaded("smolvlm")
    asked = captioner.kind.prompt(captioner.processor, [Image.new("RGB", (400, 300))], Device("cpu"))
    assert asked["pixel_values"].shape[:2] == (1, 1)


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_without_its_template_is_refused(tmp_path, cpu, name):
    weights = tiny_captioner(tmp_path, name)
    (weights.model_folder(name) / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="holds no chat template"):
        load_captioner(weights, name, cpu)


@pytest.mark.parametrize("name", [name for name in ASKED if name != "kosmos2"])
def test_an_image_whose_place_is_another_word_is_refused(tmp_path, cpu, name):
    weights = tiny_captioner(tmp_path, name)
    key = "image_token_index" if name == "paligemma" else "image_token_id"
    edit_json(weights.model_folder(name) / "config.json", lambda config: config.update({key: 60}))
    with pytest.raises(UserError, match="makes no token 60, .*would not reach the words"):
        load_captioner(weights, name, cpu)


def test_florences_task_reaches_it_as_the_sentence_that_stands_for_it(loaded):
    captioner = loaded("florence2")
    asked = captioner.kind.prompt(captioner.processor, [Image.new("RGB", (40, 40))], Device("cpu"))
    said = captioner.processor.tokenizer.convert_ids_to_tokens(asked["input_ids"][0])
    # "Describe in detail what is shown in the image.", as far as the tiny tokenizer has its words
    assert said[-9:] == ["<s>", "<unk>", "in", "<unk>", "<unk>", "<unk>", "<unk>", "in", "the", "<unk>", "</s>"][-9:]


def test_kosmos_looks_once_an_image_however_many_beams_and_is_planned_so(tmp_path, cpu):
    weights, looks = tiny_captioner(tmp_path, "kosmos2"), []
    captioner = load_captioner(weights, "kosmos2", cpu)
    captioner.model.vision_model.register_forward_hook(lambda part, given, made: looks.append(len(made[0])))
    captioner.captions([Image.new("RGB", (40, 40), color) for color in ("red", "blue")], RECIPE)
    assert looks == [2]
    config = captioner.kind.read_config(weights.model_folder("kosmos2") / "config.json")
    costs = captioner_costs(Published("tiny", captioner.kind.class_name, config), half=False)
    model, pixels = captioner.kind.meta_model(config, False), torch.empty(1, 3, 28, 28, device="meta")
    vision = count(lambda: model.vision_model(pixel_values=pixels), half=False).operations
    assert 0 < vision < costs.encode.operations


@pytest.mark.parametrize("name", CHATS)
def test_a_checkpoints_own_way_to_draw_words_is_not_the_recipes(tmp_path, cpu, name):
    sampled = replace(RECIPE, caption_decoding="sampling", captions_per_image=6, sampling_top_p=1.0)
    weights = tiny_captioner(tmp_path, name)
    picture = [Image.new("RGB", (56, 56), "red")]
    plain = load_captioner(weights, name, cpu).captions(picture, sampled)
    wishes = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.3}
    edit_json(weights.model_folder(name) / "generation_config.json", lambda config: config.update(wishes))
    assert load_captioner(weights, name, cpu).captions(picture, sampled) == plain
    assert len(set(plain[0])) > 1
