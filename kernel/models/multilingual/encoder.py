"""What every CLIP with a vocabulary of its own has in common: its checks, and its two calls."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from kernel.errors import UserError
from kernel.models.clip import unit_array
from kernel.models.configurations import check_configurations
from kernel.models.tokenizers import check_tokenizer, tokenizer_record
from kernel.models.weights_folder import ADVICE, Weights, check_header, loading
from kernel.system.devices import Device

# all of whose parts a vocabulary without Korean would lack
KNOWN_KOREAN = "언덕 위의 붉은 물고기를 새긴 목판화, 소용돌이"
NUMBERS = ("F16", "BF16", "F32")


class MultilingualClip(ABC):
    """Both towers of one CLIP. Features are float32 with rows of length 1, equal to the library's own but for rounding.

    A kind says which `class_name` of the manifest it is, the `library` that reads it, the types of its
    `configurations`, and the folder of its `tokenizer_part`.
    """

    class_name: str
    library = "transformers"
    configurations: dict[str, Any]
    tokenizer_part = "."
    model: Any

    def __init__(self, folder: Path, tokenizer: Any, device: Device) -> None:
        """Reads model and preprocessing; whatever fails raises what the library raises."""
        self.folder, self.tokenizer, self.device = folder, tokenizer, device
        # on the right, where the towers were trained to see it
        tokenizer.padding_side = "right"

    @classmethod
    def load(cls, weights: Weights, device: Device, name: str) -> Self:
        """Loads and checks model `name` of the weights folder. Raises UserError."""
        folder = weights.model_folder(name)
        check_configurations(folder, cls.configurations)
        check_numbers(folder)
        with loading(folder, cls.library):
            tokenizer = local_tokenizer(folder / cls.tokenizer_part)
            if tokenizer.pad_token_id is None:
                raise UserError(
                    f"{folder}: the tokenizer names no pad token, with which texts are filled up to one length. Write "
                    "the model's own as \"pad_token\" into tokenizer_config.json and the manifest's record anew"
                )
            record = multilingual_tokenizer_record(tokenizer)
            encoder = cls(folder, tokenizer, device)
        check_tokenizer(str(folder), record, weights.models[name].get("tokenizer"), encoder.embedding_rows)
        return encoder

    @property
    @abstractmethod
    def embedding_rows(self) -> int:
        """How many tokens the text tower knows."""

    @property
    @abstractmethod
    def context(self) -> int:
        """How many tokens of a text it reads."""

    @abstractmethod
    def pixels(self, images: list[Image.Image]) -> Any:
        """RGB images -> a tensor (n, 3, height, width)."""

    @abstractmethod
    def image_features(self, pixels: Any) -> Any:
        """-> a tensor (n, d)."""

    @abstractmethod
    def text_features(self, tokens: Any) -> Any:
        """`input_ids` and `attention_mask`, each (n, T) -> a tensor (n, d)."""

    def cleaned(self, text: str) -> str:
        """A text as it goes into the tokenizer."""
        return text

    def tokens(self, texts: list[str]) -> Any:
        """Token ids, cut and filled up to the context."""
        return self.tokenizer(
            [self.cleaned(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.context,
            return_attention_mask=True,
            return_tensors="pt",
        )

    def is_full(self, text: str) -> bool:
        """Whether a text takes all the tokens that the tower reads."""
        return bool(self.tokens([text])["attention_mask"].all())

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """RGB images -> (n, d). Raises ValueError for a row that is no numbers."""
        import torch

        pixels = self.pixels(images).to(self.device.name, self.device.dtype)
        with torch.inference_mode():
            return finite(unit_array(self.image_features(pixels)))

    def encode_texts(self, texts: list[str], batch: int) -> np.ndarray:
        """Texts, cut at the context length -> (n, d), `batch` texts at a time. Raises ValueError as `encode_images`."""
        import torch

        parts = []
        for start in range(0, len(texts), batch):
            tokens = self.tokens(texts[start : start + batch]).to(self.device.name)
            with torch.inference_mode():
                parts.append(finite(unit_array(self.text_features(tokens))))
        return np.concatenate(parts)


def finite(features: np.ndarray) -> np.ndarray:
    """Features as they are, (n, d), where all are numbers; others would be kept and compared as if they were."""
    if not np.isfinite(features).all():
        raise ValueError("its features are no numbers: the weights are damaged, or half precision overflowed")
    return features


def local_tokenizer(folder: Path) -> Any:
    """As its tokenizer.json says. transformers' choice of a class by config.json needs, of SigLIP, sentencepiece: 5.0.0
    fails without it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def multilingual_tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    """What the manifest keeps of it: the ids are of a Korean sentence."""
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "unk")}
    ids = tokenizer(KNOWN_KOREAN)["input_ids"]
    return {**tokenizer_record(len(tokenizer), special, ids), "sentence": KNOWN_KOREAN}


def check_numbers(folder: Path) -> None:
    """Refuses weights stored as anything but floating numbers: a loader would take quantised ones as they are."""
    for path in sorted(folder.rglob("*.safetensors")):
        for tensor in check_header(path):
            # positions, which a class counts itself
            if tensor.dtype not in NUMBERS and not tensor.name.endswith("position_ids"):
                raise UserError(
                    f"{path}: {tensor.name} is stored as {tensor.dtype}, expected one of {', '.join(NUMBERS)}: read as "
                    f"they are, such numbers mean something else. Take the model that was not quantised. {ADVICE}"
                )
