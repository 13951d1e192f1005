"""Image-text matching: the same scores as the library's own forward, and every silent way to be wrong is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kernel.errors import UserError
from kernel.miniature.training.train_matching import matching_config, matching_processor
from kernel.models.image_text_matching import (
    CLASS_NAME,
    MATCHING,
    Matcher,
    complete_matching,
    inspect_matching,
    matching_tokenizer_record,
    meta_matching,
    read_processor,
)
from kernel.models.weights_folder import Weights
from tests.gpu.rounding import RELATIVE_ERROR
from tests.models.captioners.conftest import edit_json

CAPTIONS = [["a red fish on a hill", "a cat"], ["a blue castle under a cloud"], []]


def new_weights(folder: Path, unread: int = 0) -> Weights:
    """A tiny random checkpoint as save_pretrained writes it, its embedding without rows for the last tokens."""
    from transformers import Blip2ForImageTextRetrieval

    torch.manual_seed(0)
    processor = matching_processor(folder)
    config = matching_config(processor)
    config.qformer_config.vocab_size -= unread
    model = Blip2ForImageTextRetrieval(config)
    # zeros at their start, of which a normalised vector is no number
    model.query_tokens.data.normal_(0, 1)
    own = folder / "weights" / MATCHING
    model.save_pretrained(own)
    processor.save_pretrained(own)
    record = {"class": CLASS_NAME, "source": "test", "revision": "1", "sha256": "0" * 64,
              "tokenizer": matching_tokenizer_record(read_processor(own))}  # fmt: skip
    return Weights(folder / "weights", {MATCHING: record}, [])


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory) -> Weights:
    return new_weights(tmp_path_factory.mktemp("matching"))


@pytest.fixture
def broken(tmp_path) -> Weights:
    """Weights that a test may break."""
    return new_weights(tmp_path)


@pytest.fixture(scope="module")
def matcher(random_weights, cpu) -> Matcher:
    return Matcher.load(random_weights, cpu)


@pytest.fixture(scope="module")
def pictures(drawn):
    return [picture for picture, _ in drawn[: len(CAPTIONS)]]


def of_the_library(matcher, picture, text, itm: bool) -> torch.Tensor:
    """What forward says of one image and one text, through the processor."""
    with torch.inference_mode():
        inputs = matcher.processor(images=picture, text=text, return_tensors="pt")
        return matcher.model(**inputs, use_image_text_matching_head=itm).logits_per_image


def test_itm_is_the_difference_of_forwards_logits(matcher, pictures):
    scores = matcher.scores(pictures, CAPTIONS, "itm")
    assert [len(own) for own in scores] == [2, 1, 0]
    for picture, own, texts in zip(pictures, scores, CAPTIONS, strict=True):
        for score, text in zip(own, texts, strict=True):
            no_match, match = of_the_library(matcher, picture, text, itm=True)[0].tolist()
            assert score == pytest.approx(match - no_match, abs=2e-6)


def test_itc_is_forwards_cosine(matcher, pictures):
    scores = matcher.scores(pictures, CAPTIONS, "itc")
    for picture, own, texts in zip(pictures, scores, CAPTIONS, strict=True):
        for score, text in zip(own, texts, strict=True):
            assert score == pytest.approx(of_the_library(matcher, picture, text, itm=False).item(), abs=2e-6)


def test_the_vision_tower_sees_an_image_once_and_the_qformer_each_caption_once(matcher, pictures):
    seen: dict[str, list[int]] = {"vision_model": [], "qformer": []}
    hooks = [
        getattr(matcher.model, name).register_forward_hook(lambda *said, name=name: seen[name].append(len(said[2][0])))
        for name in seen
    ]
    try:
        matcher.scores(pictures, CAPTIONS, "itm")
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {"vision_model": [3], "qformer": [3]}


def test_no_captions_have_no_scores(matcher, pictures):
    assert matcher.scores(pictures, [[], [], []], "itm") == [[], [], []]


def test_a_caption_longer_than_the_positions_is_cut(matcher, pictures):
    (scores,) = matcher.scores(pictures[:1], [["a red fish on a hill " * 30]], "itm")
    assert np.isfinite(scores).all()


def test_scores_that_are_no_numbers_are_an_error(random_weights, pictures, cpu):
    own = Matcher.load(random_weights, cpu)
    own.model.itm_head.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="no numbers"):
        own.scores(pictures, CAPTIONS, "itm")


def test_a_processor_without_slots_for_the_queries_is_refused(broken, cpu):
    """Forward would cut the first 32 words of every text, and give scores without an error."""
    path = broken.model_folder(MATCHING) / "processor_config.json"
    edit_json(path, lambda config: config.update(num_query_tokens=None))
    expected = "processor num_query_tokens is None, expected 32.*scores would be of texts without their first words"
    with pytest.raises(UserError, match=expected):
        Matcher.load(broken, cpu)


def test_slots_that_only_the_processor_makes_are_refused(broken):
    edit_json(broken.model_folder(MATCHING) / "config.json", lambda config: config.update(image_token_index=None))
    with pytest.raises(UserError, match="processor num_query_tokens is 32, expected None"):
        inspect_matching(broken)


def test_neither_with_slots_is_the_same_model(broken, matcher, pictures, cpu):
    folder = broken.model_folder(MATCHING)
    edit_json(folder / "config.json", lambda config: config.update(image_token_index=None))
    edit_json(folder / "processor_config.json", lambda config: config.update(num_query_tokens=None))
    found = Matcher.load(broken, cpu)
    (score,) = found.scores(pictures[:1], [["a cat"]], "itm")[0]
    no_match, match = of_the_library(found, pictures[0], "a cat", itm=True)[0].tolist()
    assert score == pytest.approx(match - no_match, abs=2e-6)


def test_an_embedding_without_a_row_for_the_image_token_is_whole(tmp_path, pictures, cpu):
    """As the published one: the processor adds the token, and no text holds it, nor one that says it in letters."""
    own = Matcher.load(new_weights(tmp_path, unread=1), cpu)
    assert own.processor.tokenizer.convert_tokens_to_ids("<image>") == own.model.config.qformer_config.vocab_size
    literal, word = own.scores(pictures[:1], [["a <image> of a cat", "a image of a cat"]], "itm")[0]
    assert literal == word
    no_match, match = of_the_library(own, pictures[0], "a cat", itm=True)[0].tolist()
    assert own.scores(pictures[:1], [["a cat"]], "itm")[0] == [pytest.approx(match - no_match, abs=2e-6)]


def test_an_embedding_without_a_row_for_a_word_is_refused(tmp_path):
    with pytest.raises(UserError, match="its ids would mean other words"):
        inspect_matching(new_weights(tmp_path, unread=2))


@pytest.mark.parametrize(
    "name, key", [("processor_config.json", "num_query_tokens"), ("config.json", "image_token_index")]
)
def test_slots_that_one_of_a_hubs_files_lacks_are_written_there(broken, matcher, pictures, cpu, name, key):
    folder = broken.model_folder(MATCHING)
    edit_json(folder / name, lambda config: config.pop(key))
    assert complete_matching(folder) and not complete_matching(folder)
    assert Matcher.load(broken, cpu).scores(pictures, CAPTIONS, "itm") == matcher.scores(pictures, CAPTIONS, "itm")


def test_an_image_token_that_is_another_word_is_refused(broken):
    edit_json(broken.model_folder(MATCHING) / "config.json", lambda config: config.update(image_token_index=7))
    with pytest.raises(UserError, match="image_token_index is 7, expected"):
        inspect_matching(broken)


def test_a_qformer_that_reads_no_texts_is_refused(broken):
    def change(config):
        config["qformer_config"]["use_qformer_text_input"] = False

    edit_json(broken.model_folder(MATCHING) / "config.json", change)
    with pytest.raises(UserError, match="reads no texts"):
        inspect_matching(broken)


def test_a_vocabulary_of_koberts_size_is_refused_even_where_the_manifest_was_written_of_it(broken):
    """The trap of a Korean BLIP-2: its 8,002 tokens fit among the rows of a Q-Former, and nothing fails by itself."""
    folder = broken.model_folder(MATCHING)

    def exchange(content):
        *special, start, image = content["added_tokens"]
        words = [token["content"] for token in special] + [chr(ord("가") + place) for place in range(7_995)]
        content["model"]["vocab"] = {word: number for number, word in enumerate(words)}
        start["id"], image["id"] = 8_000, 8_001

    edit_json(folder / "tokenizer.json", exchange)
    edit_json(folder / "config.json", lambda config: config.update(image_token_index=8_001))
    edit_json(folder / "config.json", lambda config: config["qformer_config"].update(vocab_size=30_523))
    record = {**broken.models[MATCHING], "tokenizer": matching_tokenizer_record(read_processor(folder))}
    assert record["tokenizer"]["size"] == 8_002
    with pytest.raises(UserError, match="8002 tokens, the model's embedding 30523 rows, most of which no token would"):
        inspect_matching(replace(broken, models={MATCHING: record}))


def test_a_checkpoint_that_lacks_a_head_is_refused(broken, cpu):
    from safetensors.torch import load_file, save_file

    path = broken.model_folder(MATCHING) / "model.safetensors"
    state = load_file(path)
    del state["itm_head.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="missing keys itm_head.weight"):
        Matcher.load(broken, cpu)


def test_half_precision_keeps_queries_and_qformer_in_full(random_weights, half_on_cpu):
    for name, parameter in Matcher.load(random_weights, half_on_cpu).model.named_parameters():
        full = name.startswith(("qformer.", "query_tokens"))
        assert parameter.dtype == (torch.float32 if full else torch.float16), name


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_half_precision_scores_as_full_precision_does(weights, pictures, cpu, half_on_cpu, head):
    half, full = (Matcher.load(weights, own).scores(pictures[:2], CAPTIONS[:2], head) for own in (half_on_cpu, cpu))
    for own, expected in zip(half, full, strict=True):
        np.testing.assert_allclose(own, expected, atol=RELATIVE_ERROR * max(1.0, float(np.abs(expected).max())))


def test_a_plan_counts_the_dtypes_that_loading_leaves(random_weights, half_on_cpu):
    loaded = Matcher.load(random_weights, half_on_cpu).model
    config = json.loads((random_weights.model_folder(MATCHING) / "config.json").read_text())
    planned = dict(meta_matching(config, half=True).named_parameters())
    assert {name: own.dtype for name, own in loaded.named_parameters()} == {
        name: own.dtype for name, own in planned.items()
    }


def test_a_folder_without_the_model_says_what_to_do(random_weights):
    with pytest.raises(UserError, match="holds no model for image-text matching.*publish weights --matching"):
        inspect_matching(replace(random_weights, models={}))


def test_another_class_is_refused(random_weights):
    models = {MATCHING: {**random_weights.models[MATCHING], "class": "Blip2ForConditionalGeneration"}}
    with pytest.raises(UserError, match=f"matches no images and texts; expected {CLASS_NAME}"):
        inspect_matching(replace(random_weights, models=models))
