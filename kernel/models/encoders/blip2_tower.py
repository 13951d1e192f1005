"""BLIP-2's eyes as a tower: the vision transformer and the Q-Former of a weights folder's captioner, which travel with
the captions' model and not with an encoder. The language model stays on the disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.loading import inspect_captioner
from kernel.models.weights_folder import Weights, loading
from kernel.system.devices import Device

LANGUAGE = ("language_model", "language_projection")


class Blip2Tower(torch.nn.Module):
    """Pixels (n, 3, h, w) to rows (n, d): the mean of what the Q-Former's queries found in a picture."""

    def __init__(self, configuration: dict[str, Any], half: bool) -> None:
        """Without memory for its tensors, in half precision as a GPU runs it or in float32."""
        super().__init__()
        self.model = BLIP2.meta_model(configuration, half)
        for name in LANGUAGE:
            setattr(self.model, name, torch.nn.Identity())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        own = self.model
        patches = own.vision_model(pixel_values=pixels).last_hidden_state.to(own.query_tokens.dtype)
        queries = own.query_tokens.expand(len(pixels), -1, -1)
        return own.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state.mean(dim=1)


@dataclass(frozen=True)
class Blip2Encoder:
    """The tower on a device, with the captioner's own way to make pixels of a picture."""

    model: Any
    processor: Any
    device: Device

    @classmethod
    def load(cls, weights: Weights, sha256: str, device: Device) -> "Blip2Encoder":
        """Of the captioner with that hash. Raises UserError where it is no whole BLIP-2."""
        name = next(own for own in weights.captioners if weights.sha256(own) == sha256)
        folder = weights.model_folder(name)
        processor = inspect_captioner(weights, name)
        tower = Blip2Tower(BLIP2.read_config(folder / "config.json"), device.is_gpu)
        dtypes = {own: tensor.dtype for own, tensor in tower.model.state_dict().items()}
        state: dict[str, torch.Tensor] = {}
        with loading(folder, "transformers"):
            for path in sorted(folder.glob("*.safetensors")):
                with safe_open(path, framework="pt") as file:
                    names = [own for own in file.keys() if own in dtypes]  # noqa: SIM118  # it has no other way
                    state |= {own: file.get_tensor(own).to(device.name, dtypes[own]) for own in names}
            tower.model.load_state_dict(state, assign=True)
        return cls(tower.eval(), processor, device)

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """RGB images -> (n, d) float32."""
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            return self.model(pixels.to(self.device.name, self.device.dtype)).float().cpu().numpy()
