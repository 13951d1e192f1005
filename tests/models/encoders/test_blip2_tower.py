"""BLIP-2's eyes beside the whole captioner."""

import numpy as np
import pytest
import torch
from PIL import Image

from kernel.models.captioners.loading import load_captioner
from kernel.models.encoders.blip2_tower import Blip2Encoder
from kernel.models.encoders.record import Tower
from kernel.models.encoders.towers import meta_tower


def test_they_see_what_the_captioner_sees_without_its_language_model(weights, cpu):
    own = Blip2Encoder.load(weights, weights.sha256("blip2"), cpu)
    whole = load_captioner(weights, "blip2", cpu)
    pictures = [Image.effect_noise((90, 70), 40 * n).convert("RGB") for n in (1, 2, 3)]
    pixels = whole.processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        seen = whole.model.vision_model(pixel_values=pixels).last_hidden_state
        queries = whole.model.query_tokens.expand(3, -1, -1)
        found = whole.model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(own.encode_images(pictures), found.numpy(), atol=1e-5)
    assert np.abs(np.diff(found.numpy(), axis=0)).max() > 1e-3
    of_whole, of_own = (sum(own.numel() for own in model.parameters()) for model in (whole.model, own.model))
    assert of_own < of_whole


@pytest.mark.parametrize("half", [False, True])
def test_without_memory_it_is_counted_in_the_shapes_that_a_device_runs(weights, half):
    from kernel.models.captioners.blip2 import BLIP2

    config = BLIP2.read_config(weights.model_folder("blip2") / "config.json")
    tower = Tower("blip2", 128, sha256=weights.sha256("blip2"), configuration=config)
    model = meta_tower(tower, weights.folder, half)
    pixels = torch.empty(2, 3, tower.size, tower.size, device="meta", dtype=torch.float16 if half else torch.float32)
    assert model(pixels).shape == (2, 128)
    kept = {own.dtype for name, own in model.named_parameters() if "qformer" in name or "query" in name}
    assert kept == {torch.float32}
