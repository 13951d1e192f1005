"""CLIP: images and texts to unit features, by open_clip from a local folder."""

from typing import Any

import numpy as np
from PIL import Image

from kernel.checkpoints import ADVICE, KNOWN_SENTENCE, Weights, check_tokenizer, tokenizer_record
from kernel.devices import Device
from kernel.errors import UserError


class ClipEncoder:
    """Both towers of one CLIP. Features are float32 with rows of length 1."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any, device: Device) -> None:
        self.model, self.preprocess, self.tokenizer, self.device = model, preprocess, tokenizer, device

    @classmethod
    def load(cls, weights: Weights, device: Device) -> "ClipEncoder":
        """Loads `weights/clip` as open_clip's `local-dir:`, which carries the preprocessing with the weights.

        On a GPU the matrices are half precision and LayerNorm stays float32, as open_clip's fp16 does.
        """
        import open_clip
        import torch

        folder = weights.model_folder("clip")
        name = f"local-dir:{folder}"
        try:
            model, preprocess = open_clip.create_model_from_pretrained(
                name, precision="fp16" if device.dtype == torch.float16 else "fp32", device=device.name
            )
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: open_clip cannot load it ({first_line(error)}). {ADVICE}") from error
        tokenizer = open_clip.get_tokenizer(name)
        check_tokenizer(
            str(folder),
            clip_tokenizer_record(tokenizer),
            weights.models["clip"].get("tokenizer"),
            model.token_embedding.num_embeddings,
        )
        return cls(model.eval(), preprocess, tokenizer, device)

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """RGB images -> (n, d)."""
        import torch

        pixels = torch.stack([self.preprocess(image) for image in images]).to(self.device.name, self.device.dtype)
        with torch.inference_mode():
            return unit_array(self.model.encode_image(pixels))

    def encode_texts(self, texts: list[str], batch: int) -> np.ndarray:
        """Texts, cut at the context length -> (n, d), `batch` texts at a time."""
        import torch

        parts = []
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(texts[start : start + batch]).to(self.device.name)
            with torch.inference_mode():
                parts.append(unit_array(self.model.encode_text(tokens)))
        return np.concatenate(parts)


def clip_tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    """Of open_clip's own tokenizer, or of a transformers one that a configuration names."""
    ids = tokenizer([KNOWN_SENTENCE])[0].tolist()
    own = hasattr(tokenizer, "eot_token_id")
    size = tokenizer.vocab_size if own else len(tokenizer.tokenizer)
    special = {"start": tokenizer.sot_token_id, "end": tokenizer.eot_token_id} if own else {}
    return tokenizer_record(size, special, ids)


def unit_array(features: Any) -> np.ndarray:
    """A torch tensor's rows scaled to length 1 in float32."""
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
