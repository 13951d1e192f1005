"""Counts against published figures, and against the real thing: the miniature models, loaded and run."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2Config, Blip2ForConditionalGeneration

from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.captioner import Published
from kernel.models.captioners.loading import KINDS, load_captioner
from kernel.models.clip import ClipEncoder
from kernel.pipeline.planning.model_costs import (
    Decoding,
    Work,
    captioner_costs,
    clip_costs,
    count,
    sentence_costs,
    weigh,
)
from kernel.pipeline.planning.models import CAPTIONERS, published_clip
from kernel.pipeline.planning.stage_costs import PHRASES, captioning_bytes

XL = CAPTIONERS["blip2-flan-t5-xl"]
TINY_OPT = Published(
    "tiny",
    BLIP2.class_name,
    {
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                          "image_size": 28},
        "qformer_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                           "num_attention_heads": 2, "vocab_size": 8},
        "text_config": {"model_type": "opt", "hidden_size": 24, "ffn_dim": 48, "num_hidden_layers": 3,
                        "num_attention_heads": 2, "word_embed_proj_dim": 24, "vocab_size": 40, "bos_token_id": 2,
                        "eos_token_id": 3, "pad_token_id": 1},
        "image_token_index": 39,
    },
)  # fmt: skip


TINY_T5 = Published(
    "tiny",
    BLIP2.class_name,
    {
        **TINY_OPT.config,
        "text_config": {"model_type": "t5", "d_model": 64, "d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2,
                        "num_decoder_layers": 2, "vocab_size": 64, "feed_forward_proj": "gated-gelu",
                        "tie_word_embeddings": False, "scale_decoder_outputs": False, "bos_token_id": 1,
                        "decoder_start_token_id": 0},
        "image_token_index": 60,
    },
)  # fmt: skip


def miniature(weights, name) -> Published:
    config = json.loads((weights.model_folder(name) / "config.json").read_text())
    return Published(name, weights.models[name]["class"], config)


# counting


def test_operations_are_two_a_multiply_add_and_peak_is_what_lives_at_once():
    weight = torch.empty(4, 8, device="meta")
    given = torch.empty(2, 4, device="meta")

    def forward():
        product = given @ weight  # 2 x 8 floats: 64 bytes
        product = product + 1  # 128 while both live, then 64
        return product[:, :4] * 2  # a view costs nothing; 2 x 4 floats: 96 while both live

    assert count(forward, half=False) == Work(0, 2 * 2 * 4 * 8, 128)


def test_what_a_call_is_given_and_changes_in_place_is_not_counted():
    given = torch.empty(1000, device="meta")
    assert count(lambda: given.add_(1).mul_(2), half=False) == Work(0, 0, 0)


def test_products_are_told_apart_by_dtype_and_attention_counts_as_half():
    half, single = (torch.empty(1, 2, 2, device="meta", dtype=dtype) for dtype in (torch.float16, torch.float32))
    both = count(lambda: (half[0] @ half[0], single[0] @ single[0]), half=True)
    assert (both.half_operations, both.single_operations) == (16, 16)
    attention = count(lambda: torch.bmm(single, single), half=True)
    assert (attention.half_operations, attention.single_operations) == (16, 0)
    assert count(lambda: torch.bmm(single, single), half=False).single_operations == 16


# published figures


def test_vit_g_14_costs_what_open_clips_model_profile_says():
    clip = published_clip(half=True)
    assert clip.weights.parameters == 1_366_678_273
    assert round(clip.image.operations / 1e9, 2) == 534.06
    assert round(clip.text.operations / 1e9, 2) == 47.09
    assert clip.dimensions == 1024


def test_vit_g_14_counts_the_same_in_both_dtypes_and_as_torchs_own_mode_counts():
    import open_clip

    single = published_clip(half=False)
    assert single.image.operations == published_clip(half=True).image.operations
    assert single.weights.bytes == 4 * 1_366_678_273
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-g-14")).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encode_text(torch.zeros(1, 77, dtype=torch.long, device="meta"))
    assert counter.get_total_flops() == single.text.operations


def test_vit_g_14_in_half_precision_keeps_its_embeddings_and_norms_in_float32():
    weights = published_clip(half=True).weights
    # 49,408 tokens x 1,024, the positions, the class token, the norms: open_clip casts matrices only
    assert weights.bytes_by_dtype["float32"] == 4 * 51_367_169
    assert weights.bytes == 2 * 1_366_678_273 + 2 * 51_367_169


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("blip-image-captioning-base", 223_971_644),
        ("blip-image-captioning-large", 446_290_492),
        ("blip2-opt-2.7b", 3_744_761_856),
        ("blip2-flan-t5-xl", 3_942_446_592),
        ("blip2-flan-t5-xxl", 12_229_596_672),
    ],
)
def test_a_captioner_has_its_published_parameters(name, parameters):
    assert captioner_costs(CAPTIONERS[name], half=True).weights.parameters == parameters
    assert CAPTIONERS[name].parameters == parameters


def test_the_parts_of_blip2_flan_t5_xl_have_their_published_parameters():
    model = BLIP2.meta_model(XL.config, half=True)

    def size(module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert size(model.vision_model) == 985_952_256
    assert size(model.qformer) + model.query_tokens.numel() == 105_162_240
    assert size(model.language_model) == 2_849_757_184


def test_blip2_flan_t5_xl_takes_9_10_gb_in_half_precision():
    weights = captioner_costs(XL, half=True).weights
    wo = 48 * 2048 * 5120  # of 24 encoder and 24 decoder blocks
    assert weights.bytes_by_dtype["float32"] == 4 * (wo + 105_162_240)
    assert weights.bytes == 2 * 3_942_446_592 + 2 * (wo + 105_162_240) == 9_101_850_624


def test_the_cache_of_five_beams_of_flan_t5_xl_is_19_mb_an_image_and_what_they_all_hear_6_5():
    # 24 layers, keys and values, 2 bytes, 2,048 wide: 19 tokens said by each of 5 beams, 33 heard by all of them
    costs = captioner_costs(XL, half=True)
    assert costs.row_cache_bytes(Decoding(5, 19)) == 24 * 2 * 2 * 2048 * 19 * 5
    heard = 24 * 2 * 2 * 2048 * 33
    # and the encoder's own output, of which they were made
    assert (costs.image_bytes, costs.image_bytes_read) == (heard + 2 * 2048 * 33, heard)


def test_minilm_has_its_published_parameters():
    weights, _ = sentence_costs(48)
    assert weights.parameters == 22_713_216


# the real thing


@pytest.mark.parametrize("name", ["blip2", "blip"])
@pytest.mark.parametrize("half", [True, False])
def test_a_loaded_miniature_weighs_what_its_configuration_says(name, half, weights, cpu, half_on_cpu):
    loaded = load_captioner(weights, name, half_on_cpu if half else cpu)
    model = loaded.kind.meta_model(miniature(weights, name).config, half)
    assert weigh(loaded.model, loaded.kind) == weigh(model, loaded.kind)


@pytest.mark.parametrize("half", [True, False])
def test_a_loaded_miniature_clip_weighs_what_its_configuration_says(half, weights, cpu, half_on_cpu):
    config = json.loads((weights.model_folder("clip") / "open_clip_config.json").read_text())["model_cfg"]
    loaded = ClipEncoder.load(weights, half_on_cpu if half else cpu).model
    assert weigh(loaded) == clip_costs("miniature", config, half).weights


def test_a_real_miniature_clip_computes_what_was_counted(weights, cpu):
    config = json.loads((weights.model_folder("clip") / "open_clip_config.json").read_text())["model_cfg"]
    costs = clip_costs("miniature", config, half=False)
    model = ClipEncoder.load(weights, cpu).model
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as image:
        model.encode_image(torch.zeros(1, 3, 80, 80))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as text:
        model.encode_text(torch.zeros(1, 77, dtype=torch.long))
    assert (image.get_total_flops(), text.get_total_flops()) == (costs.image.operations, costs.text.operations)


@pytest.fixture
def plain_attention():
    """Attention as single operations: torch's fused forward pass hides its own from every counter."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def test_the_peak_of_activations_is_that_of_a_real_run(weights, cpu, plain_attention):
    config = json.loads((weights.model_folder("clip") / "open_clip_config.json").read_text())["model_cfg"]
    costs = clip_costs("miniature", config, half=False)
    model, pixels = ClipEncoder.load(weights, cpu).model, torch.zeros(1, 3, 80, 80)
    with sdpa_kernel(SDPBackend.MATH):
        one = count(lambda: model.encode_image(pixels), half=False)
        four = count(lambda: model.encode_image(pixels.expand(4, -1, -1, -1)), half=False)
    assert one == costs.image
    assert four.activation_bytes == pytest.approx(4 * one.activation_bytes, rel=0.02)


@pytest.mark.parametrize("layers", [2, 8])
def test_what_lives_during_a_real_beam_search_is_what_was_planned(layers):
    """Tensors of a whole `generate`, one by one: the cache once, and one layer's twice while it is reordered."""
    config = {**TINY_T5.config, "text_config": {**TINY_T5.config["text_config"], "num_layers": layers,
                                                "num_decoder_layers": layers}}  # fmt: skip
    costs, decoding = captioner_costs(replace(TINY_T5, config=config), half=False), Decoding(5, 19)
    model = BLIP2.adapted(Blip2ForConditionalGeneration(Blip2Config(**config)).eval().requires_grad_(False))
    pixels = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with sdpa_kernel(SDPBackend.MATH):
        real = count(lambda: model.generate(pixel_values=pixels, num_beams=5, min_length=20, max_length=20), False)
    planned = 3 * captioning_bytes(costs, decoding)
    assert 0.97 * real.activation_bytes < planned < 1.2 * real.activation_bytes


def packed_operations(rows, packed, *ignored, out_shape):
    """Of a product by oneDNN: two for each number of the packed matrix and each row."""
    return 2 * math.prod(packed) * math.prod(rows[:-1])


PACKED = {torch.ops.mkldnn._linear_pointwise: packed_operations}


def generated(model, decoding: Decoding, **lengths):
    """The operations of a real generation of captions of full length, and its cache after the last step."""
    model.requires_grad_(False)  # torch's mode cannot follow a parameter into a module without gradients
    side = model.config.vision_config.image_size
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=PACKED) as counter:
        output = model.generate(
            pixel_values=torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)),
            num_beams=decoding.rows,
            do_sample=False,
            return_dict_in_generate=True,
            **lengths,
        )
    return counter.get_total_flops(), output.past_key_values


@pytest.mark.parametrize("decoding", [Decoding(1, 1), Decoding(1, 2), Decoding(3, 4), Decoding(5, 19)])
@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_a_real_miniature_captioner_computes_and_caches_what_was_counted(name, decoding, weights, cpu):
    costs = captioner_costs(miniature(weights, name), half=False)
    captioner = load_captioner(weights, name, cpu)
    model = captioner.model
    length = decoding.steps + 1  # the first token is given
    operations, cache = generated(model, decoding, max_length=length, min_length=length)
    assert operations == costs.encode.operations + costs.decode(decoding).operations
    assert captioner.kind.cache_bytes(cache) == costs.row_cache_bytes(decoding)
    layers = len(captioner.kind.decoder_layers(model))
    if name == "blip":
        tokens = 4 * model.vision_model.embeddings.num_positions * model.config.vision_config.hidden_size
        assert (costs.image_bytes, costs.image_bytes_read) == (tokens, 2 * layers * tokens)
    else:
        text = model.config.text_config
        heard = 2 * layers * 4 * (model.config.num_query_tokens + 1) * text.num_heads * text.d_kv
        assert costs.image_bytes_read == heard
        assert costs.image_bytes == heard + 4 * (model.config.num_query_tokens + 1) * text.d_model


@pytest.mark.parametrize("decoding", [Decoding(1, 1), Decoding(3, 5)])
def test_a_real_tiny_opt_captioner_computes_and_caches_what_was_counted(decoding):
    costs = captioner_costs(TINY_OPT, half=False)
    model = Blip2ForConditionalGeneration(Blip2Config(**TINY_OPT.config)).eval()
    assert weigh(model, BLIP2) == costs.weights
    steps = decoding.steps
    operations, cache = generated(model, decoding, max_new_tokens=steps, min_new_tokens=steps)
    assert operations == costs.encode.operations + costs.decode(decoding).operations
    assert BLIP2.cache_bytes(cache) == costs.row_cache_bytes(decoding)
    assert (costs.image_bytes, costs.image_bytes_read) == (0, 0)


def test_the_q_former_and_wo_of_a_captioner_in_half_precision_compute_in_float32():
    costs = captioner_costs(XL, half=True)
    # one step of one row passes the decoder's 24 `wo`, 5,120 x 2,048; each but the first the same
    assert costs.decode(Decoding(1, 1)).single_operations == 24 * 2 * 5120 * 2048
    # 33 tokens pass the encoder's; the Q-Former's share is 32 queries in 12 blocks, 257 patches in 6 of them
    q_former = 12 * 32 * 2 * (4 * 768**2 + 2 * 768 * 3072)
    q_former += 6 * 2 * (32 * 2 * 768**2 + 257 * 2 * 1408 * 768)
    assert costs.encode.single_operations == 33 * 24 * 2 * 5120 * 2048 + q_former


@pytest.mark.parametrize(
    ("name", "layers"), [("blip-image-captioning-base", 12), ("blip2-opt-2.7b", 32), ("blip2-flan-t5-xl", 24)]
)
def test_the_decoders_blocks_are_found(name, layers):
    published = CAPTIONERS[name]
    kind = KINDS[published.class_name]
    assert len(kind.decoder_layers(kind.meta_model(published.config, half=True))) == layers


def test_a_step_reads_the_decoders_weights_and_the_head():
    # 24 blocks of flan-T5-xl: attention to itself and to the image 4 x 2,048^2 each, gated feed-forward, three norms;
    # the first holds 32 x 32 position biases
    block = 2 * (8 * 2048**2 + 2 * 2048 * 5120 + 3 * 2048) + 4 * 2048 * 5120
    head = 2 * 32128 * 2048
    assert captioner_costs(XL, half=True).weights.read_per_token == 24 * block + 2 * 32 * 32 + head


def test_the_phrases_are_those_of_the_word_lists(tmp_path):
    from kernel.banks.word_banks import read_phrases
    from kernel.publish.hub.word_lists import write_word_lists

    write_word_lists(tmp_path)
    found = {path.stem: len(read_phrases(path).phrases) for path in tmp_path.rglob("*.txt")}
    shipped = {name: found[name] for name in PHRASES if name in found}
    assert {"mediums", "movements", "flavors"} <= set(shipped)
    assert shipped == {name: PHRASES[name] for name in shipped}
