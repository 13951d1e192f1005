"""A tower trained on a GPU, in both kinds of half precision, and BLIP-2's eyes there."""

import numpy as np
import pytest
import torch
from PIL import Image

from kernel.models.encoders.blip2_tower import Blip2Encoder
from kernel.models.vectors import unit_rows
from kernel.system.deadline import NEVER
from kernel.training.tower import loop as loop_module
from kernel.training.tower.loop import Loop
from kernel.training.tower.processes import Processes
from kernel.training.tower.trained import Trained
from tests.gpu.rounding import COSINE
from tests.training.tower.test_loop import SETTINGS, pictured, random_head, tower


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_it_learns_in_half_precision_and_goes_on(half, cuda, tmp_path, monkeypatch):
    """float16 by a scaler, as a T4 needs it; what is resumed is at the end already."""
    monkeypatch.setattr(loop_module, "half_precision", lambda own: half)
    seen = pictured(tmp_path / "pictures")

    def begun() -> Loop:
        return Loop(Trained(tower(), random_head()), seen, SETTINGS, Processes(0, 1, cuda), tmp_path, {}, NEVER)

    progress = begun().run()
    assert progress.validations[progress.best] > progress.validations[0] + 0.3
    assert begun().run().validations == progress.validations


def test_blip2_s_eyes_see_what_they_see_on_a_cpu(weights, cuda, cpu):
    pictures = [Image.effect_noise((90, 90), 40 * n).convert("RGB") for n in (1, 2, 3)]
    seen = [unit_rows(Blip2Encoder.load(weights, weights.sha256("blip2"), own).encode_images(pictures))
            for own in (cuda, cpu)]  # fmt: skip
    assert np.einsum("nd,nd->n", *seen).min() > COSINE
