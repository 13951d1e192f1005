"""What a stage is planned to take of a GPU's memory, beside what it takes."""

from dataclasses import replace

import pytest
import torch

from kernel.config import RECIPES
from kernel.miniature.world.drawing import draw
from kernel.miniature.world.grammar import scene_stream
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.captioner import Published
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import open_weights
from kernel.pipeline.planning.gpus import gpu_named
from kernel.pipeline.planning.models import models_of
from kernel.pipeline.planning.plan import plan
from kernel.system.memory import PeakMemory
from tests.bench.truesize.sizes import TINY_CAPTIONER, Sizes
from tests.bench.truesize.weights import make_weights

TOLERANCE = 0.15  # as of the host's, in tests/bench/truesize
MB = 10**6
BATCH = 8
RECIPE = replace(RECIPES["baseline"], clip_batch=BATCH, caption_batch=BATCH)


def middle_clip():
    """ViT-B-32's two towers: 151 million parameters, 0.3 GB in half precision."""
    import open_clip

    return open_clip.get_model_config("ViT-B-32")


# wide enough that weights outweigh what a library takes for itself: 0.4 billion parameters, 0.9 GB
MIDDLE_CAPTIONER = Published(
    "middle-blip2",
    BLIP2.class_name,
    {
        "vision_config": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                          "num_attention_heads": 12, "image_size": 224, "patch_size": 14},
        "qformer_config": {"encoder_hidden_size": 768, "vocab_size": 64, "num_hidden_layers": 4},
        "text_config": {**TINY_CAPTIONER.config["text_config"], "d_model": 1024, "d_ff": 2816, "d_kv": 64,
                        "num_heads": 16, "num_layers": 8, "num_decoder_layers": 8, "vocab_size": 32128},
        "image_token_index": 2000,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def middle(tmp_path_factory, weights_folder):
    sizes = Sizes("middle", middle_clip, MIDDLE_CAPTIONER)
    return open_weights(make_weights(tmp_path_factory.mktemp("middle") / "weights", sizes, "shipped", weights_folder))


@pytest.fixture(scope="module")
def pictures():
    return [draw(scene, rng) for scene, rng in scene_stream(5, BATCH)]


@pytest.fixture(scope="module")
def planned(middle):
    """{stage: bytes of the device} of the stage's own model: a worker holds MiniLM in no stage but the estimates'."""
    models = models_of(middle, RECIPE, half=True)
    stages = {stage.name: stage for stage in plan(RECIPE, gpu_named("T4"), BATCH, models=models).stages}
    assert stages["clip"].batch == stages["captions"].batch == BATCH
    return {name: stages[name].memory_bytes - models.sentences[0].bytes for name in ("clip", "captions")}


def measured(cuda, load, work) -> int:
    """The most bytes of tensors that loading and one batch took, what lay there before taken off."""
    before = torch.cuda.memory_allocated(cuda.name)
    with PeakMemory(cuda.name) as memory:
        work(load())
    return memory.device - before


def test_clip_takes_what_is_planned(planned, middle, cuda, pictures):
    found = measured(cuda, lambda: ClipEncoder.load(middle, cuda), lambda clip: clip.encode_images(pictures))
    assert abs(planned["clip"] / found - 1) <= TOLERANCE


def test_captions_take_what_is_planned(planned, middle, cuda, pictures):
    found = measured(cuda, lambda: load_captioner(middle, "blip2", cuda), lambda own: own.captions(pictures, RECIPE))
    assert abs(planned["captions"] / found - 1) <= TOLERANCE


def test_what_a_block_allocates_and_frees_is_seen(cuda):
    held = torch.ones(10 * MB, dtype=torch.uint8, device=cuda.name)
    before = torch.cuda.memory_allocated(cuda.name)
    with PeakMemory(cuda.name) as memory:
        passing = torch.ones(200 * MB, dtype=torch.uint8, device=cuda.name)
        del passing
    assert memory.device is not None
    assert 200 * MB <= memory.device - before < 203 * MB
    assert held[-1] == 1
    assert torch.cuda.memory_allocated(cuda.name) == before
