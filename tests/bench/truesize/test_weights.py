"""Random weights in the shipped layout: what the loaders demand of real ones holds for them."""

import json
import math
from collections import Counter
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from safetensors.torch import load_file

from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.loading import load_captioner
from kernel.models.captioners.packed_linear import PackedLinear
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import MANIFEST, open_weights
from kernel.pipeline.planning.models import models_of
from kernel.system.memory import STATUS, PeakMemory
from kernel.system.tensor_files import Tensor, read_header
from tests.bench.truesize import weights as made
from tests.bench.truesize.sizes import SIZES, Sizes, tiny_clip
from tests.bench.truesize.weights import captioner_tensors, clip_tensors, make_weights, random_blocks, shards_of

TINY = SIZES["tiny"]


@pytest.fixture(scope="module", params=["float32", "shipped"])
def folder(request, tmp_path_factory, weights_folder):
    out = tmp_path_factory.mktemp("truesize") / "weights"
    # several shards, as the published size has
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(made, "SHARD_BYTES", 1_500_000)
        return make_weights(out, TINY, request.param, weights_folder)


def test_the_folder_passes_the_manifest_s_checks_and_both_loaders(folder, cpu, drawn):
    weights = open_weights(folder)
    pictures = [picture for picture, _ in drawn[:2]]
    assert np.isfinite(ClipEncoder.load(weights, cpu).encode_images(pictures)).all()
    captioner = load_captioner(weights, "blip2", cpu)
    assert captioner.model.config.image_token_index == TINY.captioner.config["image_token_index"]
    assert len(list((folder / "captioners" / "blip2").glob("model-*.safetensors"))) > 1


def test_the_dtypes_are_those_asked_for(folder):
    headers = [tensor for path in folder.glob("captioners/blip2/*.safetensors") for tensor in read_header(path)]
    stored = json.loads((folder / MANIFEST).read_text())["models"]["blip2"]["revision"]
    full = {name for tensor in headers if tensor.dtype == "F32" for name in tensor.name.split(".")}
    if stored == "tiny, float32":
        assert {tensor.dtype for tensor in headers} == {"F32"}
    else:
        assert Counter(tensor.dtype for tensor in headers).keys() == {"F16", "F32"}
        assert {"wo", "qformer", "query_tokens"} <= full and "vision_model" not in full


def test_the_head_is_a_matrix_of_its_own(folder, cpu):
    model = BLIP2.load(folder / "captioners" / "blip2", cpu).language_model
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    config = json.loads((folder / "captioners" / "blip2" / "config.json").read_text())
    assert config["text_config"]["tie_word_embeddings"] is False


def test_what_is_planned_from_the_folder_is_what_its_files_hold(folder):
    """Both have the head and the embedding."""
    captioner = models_of(open_weights(folder), RECIPES["baseline"], half=False).captioners[0]
    assert captioner is not None
    headers = [tensor for path in folder.glob("captioners/blip2/*.safetensors") for tensor in read_header(path)]
    assert captioner.weights.parameters == sum(math.prod(tensor.shape) for tensor in headers)


MB = 10**6
# 101 MB of words for CLIP's texts, and 2 x 102 MB for BLIP-2's
WIDE = Sizes(
    "wide",
    lambda: {**tiny_clip(), "text_cfg": {**tiny_clip()["text_cfg"], "width": 512}},
    replace(TINY.captioner, config={
        **TINY.captioner.config,
        "text_config": {**TINY.captioner.config["text_config"], "d_model": 512, "vocab_size": 50_000},
        "image_token_index": 30_000,  # of 30,001 tokens
    }),
)  # fmt: skip


@pytest.mark.skipif(not STATUS.is_file(), reason="this system's /proc tells no RssAnon")
@pytest.mark.parametrize("stored", ["float32", "shipped"])
def test_a_model_is_in_memory_once_and_not_at_all_where_it_runs_as_it_is_stored(
    stored, tmp_path, weights, weights_folder, cpu
):
    """A captioner's linear layers never run so: they are packed."""
    folder = open_weights(make_weights(tmp_path / "weights", WIDE, stored, weights_folder))
    ClipEncoder.load(weights, cpu), load_captioner(weights, "blip2", cpu)  # so that the libraries are there already
    with PeakMemory() as clip:
        first = ClipEncoder.load(folder, cpu)
    with PeakMemory() as captioner:
        second = load_captioner(folder, "blip2", cpu)
    for peak, model in ((clip, first.model), (captioner, second.model)):
        size = sum(parameter.nbytes for parameter in model.parameters())
        layers = [layer.weight.nbytes for layer in model.modules() if isinstance(layer, PackedLinear)]
        expected = sum(layers) if stored == "float32" else size
        # beside them, for a moment that may not be seen, the one that is being packed
        moment = 0 if stored == "float32" else max(layers, default=0)
        assert size > 100 * MB and (sum(layers) > 100 * MB or model is first.model)
        assert expected - 45 * MB < peak.host - peak.before < expected + moment + 45 * MB


def test_numbers_are_small_and_norms_are_one(folder):
    state = load_file(folder / "clip" / "open_clip_model.safetensors")
    assert state["text_projection"].float().std().item() == pytest.approx(made.SPREAD, rel=0.1)
    assert (state["visual.ln_post.weight"] == 1).all() and (state["visual.ln_post.bias"] == 0).all()
    assert state["logit_scale"].item() == pytest.approx(np.log(1 / 0.07), rel=1e-3)


def test_a_folder_that_is_made_is_found_and_not_made_again(folder, weights_folder, monkeypatch):
    stored = json.loads((folder / MANIFEST).read_text())["models"]["clip"]["revision"].removeprefix("tiny, ")
    before = (folder / MANIFEST).stat().st_mtime_ns
    monkeypatch.setattr(made, "put_clip", None)
    assert make_weights(folder, TINY, stored, weights_folder) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == before


def test_a_folder_of_something_else_is_never_replaced(tmp_path, weights_folder, own_copy):
    own = own_copy("clip").folder
    with pytest.raises(UserError, match="holds other than random weights"):
        make_weights(own, TINY, "float32", weights_folder)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other than random weights"):
        make_weights(tmp_path / "notes", TINY, "float32", weights_folder)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_a_disk_that_is_too_small_stops_before_anything_is_drawn(tmp_path, weights_folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**6})())
    with pytest.raises(UserError, match=r"1.00 MB are free, .* are needed"):
        make_weights(tmp_path / "weights", TINY, "float32", weights_folder)
    assert not (tmp_path / "weights").exists()


def test_the_published_sizes_are_written_whole():
    """Every number of ViT-g-14 and of BLIP-2 flan-t5-xl, the head apart from the embedding; nothing is drawn here."""
    true = SIZES["true"]
    assert sum(prod(tensor.shape) for tensor in clip_tensors(true, "float32")) == 1_366_678_273
    captioner = captioner_tensors(true, "float32")
    assert sum(prod(tensor.shape) for tensor in captioner) == 3_942_446_592
    shards = list(shards_of(captioner))
    assert [tensor for shard in shards for tensor in shard] == captioner
    assert max(sum(tensor.bytes for tensor in shard) for shard in shards) <= made.SHARD_BYTES
    assert sum(tensor.bytes for tensor in captioner_tensors(true, "shipped")) == 9_101_850_624


def test_a_large_tensor_is_drawn_in_blocks_and_the_same_each_time(monkeypatch):
    tensor = Tensor("vision_model.weight", "F32", (100, 7))
    whole = b"".join(random_blocks(tensor))
    assert len(whole) == tensor.bytes
    assert whole == b"".join(random_blocks(tensor))
    assert whole != b"".join(random_blocks(Tensor("another.weight", "F32", (100, 7))))
    monkeypatch.setattr(made, "BLOCK_BYTES", 256)
    blocks = list(random_blocks(tensor))
    assert (max(map(len, blocks)), sum(map(len, blocks))) == (256, tensor.bytes)
