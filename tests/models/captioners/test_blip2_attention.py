"""BLIP-2 whose T5 makes keys and values of an image once says what transformers' own says."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from kernel.config import RECIPES
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.blip2_attention import ImageAttention, attentions
from kernel.models.captioners.captioner import Captioner, in_full_precision
from kernel.models.captioners.loading import load_captioner

BEAMS = RECIPES["baseline"]
GREEDY = replace(BEAMS, num_beams=1, captions_per_image=1)
SAMPLED = replace(BEAMS, caption_decoding="sampling", sampling_top_p=1.0)
CONFIG = {
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "image_size": 28},
    "qformer_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "encoder_hidden_size": 32, "vocab_size": 8},
    # heads narrower together than the model, as in some of T5's sizes
    "text_config": {"model_type": "t5", "d_model": 48, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 3,
                    "num_decoder_layers": 3, "vocab_size": 64, "feed_forward_proj": "gated-gelu",
                    "tie_word_embeddings": False, "scale_decoder_outputs": False, "bos_token_id": 1,
                    "decoder_start_token_id": 0},
    "image_token_index": 60, "num_query_tokens": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def once(weights, cpu):
    return load_captioner(weights, "blip2", cpu)


@pytest.fixture(scope="module")
def plain(weights, cpu, once):
    folder = weights.model_folder("blip2")
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return Captioner(once.kind, model.eval(), once.processor, cpu)


@pytest.mark.parametrize(
    "recipe", [BEAMS, GREEDY, SAMPLED, replace(BEAMS, num_beams=3, captions_per_image=2)],
    ids=["five beams", "greedy", "sampled", "two of three beams"],
)  # fmt: skip
@pytest.mark.parametrize("images", [1, 7, 24])
def test_captions_are_those_of_transformers_own_attention(once, plain, drawn, recipe, images):
    pictures = [picture for picture, _ in drawn[:images]]
    assert once.captions(pictures, recipe) == plain.captions(pictures, recipe)


@pytest.fixture(scope="module")
def tiny():
    """A BLIP-2 of random numbers, so wide of each other that words are told apart, and the same one adapted."""
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(Blip2Config(**copy.deepcopy(CONFIG))).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.3)
    return model, BLIP2.adapted(copy.deepcopy(model))


DECODINGS = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "three beams": {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
    "five beams": {"num_beams": 5, "num_return_sequences": 5, "do_sample": False},
    "sampled": {"num_return_sequences": 4, "do_sample": True, "top_k": 0},
    "sampled beams": {"num_beams": 3, "num_return_sequences": 3, "do_sample": True, "top_k": 0},
}


def told(model, images, **decoding):
    side = model.config.vision_config.image_size
    pixels = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(images))
    torch.manual_seed(3)
    lengths = {"min_length": 12, "max_length": 12}
    return model.generate(
        pixel_values=pixels, **decoding, **lengths, output_logits=True, return_dict_in_generate=True
    )  # fmt: skip


@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("size", ["miniature", "tiny"])
def test_scores_of_every_word_of_every_row_are_those_of_transformers_own_attention(
    once, plain, tiny, size, images, decoding
):
    """Captions of a sure model could be the same by luck: of noise every word's score is near the others'."""
    models = tiny if size == "tiny" else (plain.model, once.model)
    theirs, ours = (told(model, images, **decoding) for model in models)
    assert torch.equal(ours.sequences, theirs.sequences)
    rows = max(decoding.get("num_beams", 1), decoding.get("num_return_sequences", 1))
    assert len(theirs.logits) == 11 and theirs.logits[0].shape[0] == images * rows
    for own, other in zip(ours.logits, theirs.logits, strict=True):
        assert other.std() > 0.1
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_images_are_told_apart_by_what_their_own_rows_hear(tiny):
    """Else keys and values that are another image's would go unnoticed above."""
    _, ours = tiny
    first, second = told(ours, 2, **DECODINGS["five beams"]).logits[-1].split(5)
    assert (first - second).abs().max() > 0.1


def test_a_batch_is_not_answered_with_the_images_of_the_one_before(once, drawn):
    first, second = ([picture] for picture, _ in drawn[:2])
    alone = once.captions(second, BEAMS)
    once.captions(first, BEAMS)
    assert once.captions(second, BEAMS) == alone
    assert once.captions(first, BEAMS) != alone


def test_a_checkpoint_that_keeps_no_words_says_the_same(once, drawn, monkeypatch):
    pictures = [picture for picture, _ in drawn[:3]]
    expected = once.captions(pictures, BEAMS)
    monkeypatch.setattr(once.model.language_model.generation_config, "use_cache", False)
    assert once.captions(pictures, BEAMS) == expected


@pytest.mark.parametrize("recipe", [BEAMS, GREEDY, SAMPLED], ids=["beams", "greedy", "sampled"])
def test_keys_and_values_are_made_once_of_an_image_and_let_go_when_its_captions_are_said(once, drawn, recipe):
    """Not once a beam, nor once a word."""
    made, hooks = [], []
    for layer, attention in enumerate(attentions(once.model)):
        for name in ("k", "v"):
            noting = lambda _, given, __, own=(layer, name): made.append((*own, given[0].shape[0]))  # noqa: E731
            hooks.append(getattr(attention, name).register_forward_hook(noting))
    once.captions([picture for picture, _ in drawn[:3]], recipe)
    for hook in hooks:
        hook.remove()
    layers = range(len(attentions(once.model)))
    assert sorted(made) == [(layer, name, 3) for layer in layers for name in ("k", "v")]
    assert [len(attention.made) for attention in attentions(once.model)] == [0] * len(layers)


def test_transformers_cache_holds_nothing_of_an_image(tiny):
    """So that nothing of it is copied where beams change places."""
    theirs, ours = (told(model, 2, **DECODINGS["five beams"]).past_key_values for model in tiny)
    assert [len(own.cross_attention_cache.layers) > 0 for own in (theirs, ours)] == [True, True]
    assert all(layer.keys is None for layer in ours.cross_attention_cache.layers)
    assert BLIP2.cache_bytes(ours) == sum(
        layer.keys.nbytes + layer.values.nbytes for layer in theirs.self_attention_cache.layers
    )


def test_weights_keep_their_names(tiny, weights, half_on_cpu):
    """By which they are loaded, and by which some of them stay in float32."""
    plain, ours = tiny
    assert list(ours.state_dict()) == list(plain.state_dict())
    ours.load_state_dict(plain.state_dict(), strict=True)
    half = load_captioner(weights, "blip2", half_on_cpu).model
    assert all(isinstance(attention, ImageAttention) for attention in attentions(half))
    full = {name for name, own in half.named_parameters() if own.dtype == torch.float32}
    assert full == {name for name, _ in half.named_parameters() if in_full_precision(name, BLIP2.full_precision)}
    assert any(name.endswith("DenseReluDense.wo.weight") and ".decoder." in name for name in full)


def test_captions_in_half_precision_are_those_of_transformers_own_attention(weights, half_on_cpu, drawn):
    ours = load_captioner(weights, "blip2", half_on_cpu)
    # loaded as ours, with transformers' own layers in the place of the adapted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(BLIP2), "adapted", lambda self, model: model)
        theirs = load_captioner(weights, "blip2", half_on_cpu)
    pictures = [picture for picture, _ in drawn[:3]]
    # the likeliest words, as beams of nearly the same score may change places by half precision's rounding
    assert ours.captions(pictures, GREEDY) == theirs.captions(pictures, GREEDY)


@pytest.fixture(scope="module")
def layer():
    """One cross-attention as transformers has it, its weights random."""
    config = T5Config(d_model=96, d_kv=16, num_heads=4, is_decoder=True)
    torch.manual_seed(0)
    own = T5Attention(config, layer_idx=0).eval()
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return own


def both(layer, dtype, beams=5, words=3):
    """What the layer's own way and ours say, of two images, in float64."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2 * beams, words, 96, generator=generator).to(dtype)
    image = torch.randn(2, 33, 96, generator=generator).to(dtype)
    layer = copy.deepcopy(layer).to(dtype)
    with torch.inference_mode():
        none = torch.zeros(1, 4, words, 33, dtype=dtype)
        own = layer(hidden, key_value_states=image.repeat_interleave(beams, dim=0), position_bias=none)[0]
        ours = ImageAttention(layer)(hidden, key_value_states=image)[0]
    return own.double(), ours.double()


@pytest.mark.parametrize(("beams", "words"), [(1, 1), (5, 1), (1, 4), (5, 3)])
def test_one_layer_hears_the_same_to_float32s_last_digits(layer, beams, words):
    own, ours = both(layer, torch.float64, beams, words)
    assert own.std() > 0.1
    # transformers 5.0 takes its softmax in float32 even here
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-6)


def test_half_precision_loses_about_as_little_as_the_plain_way(layer):
    true, _ = both(layer, torch.float64)
    own, ours = both(layer, torch.float16)
    # of the same rounded weights and inputs neither is exact
    assert 0 < (ours - true).std() < 2 * (own - true).std()
