"""open_clip's CLIPs whose text tower is transformers' XLM-RoBERTa.

open_clip builds such a tower by asking transformers for a configuration by its name, on a hub. Here the folder's own
part `text/` holds it, with the tokenizer, and open_clip_config.json names neither.
"""

from pathlib import Path
from typing import Any, Literal, NotRequired

from PIL import Image
from typing_extensions import TypedDict

from kernel.models.captioners.captioner import check_complete
from kernel.models.clip import CONFIG, WEIGHTS, Preprocessing, Tower, image_transform
from kernel.models.configurations import read_configuration
from kernel.models.multilingual.encoder import MultilingualClip
from kernel.system.devices import Device

POSITIONS = "text.transformer.embeddings.position_ids"


class ModelConfiguration(TypedDict):
    embed_dim: int
    vision_cfg: Tower
    text_cfg: dict[str, Any]


class Configuration(TypedDict):
    """open_clip_config.json."""

    model_cfg: ModelConfiguration
    preprocess_cfg: NotRequired[Preprocessing | None]


class TextConfiguration(TypedDict):
    """text/config.json."""

    model_type: Literal["xlm-roberta"]


class RobertaClip(MultilingualClip):
    class_name, library, tokenizer_part = "CustomTextCLIP", "open_clip", "text"
    configurations: dict[str, Any] = {CONFIG: Configuration, "text/config.json": TextConfiguration}

    def __init__(self, folder: Path, tokenizer: Any, device: Device) -> None:
        import open_clip
        from safetensors.torch import load_file

        super().__init__(folder, tokenizer, device)
        config = read_configuration(folder / CONFIG, Configuration)
        given = config["model_cfg"]
        text = {**given["text_cfg"], "hf_model_name": str(folder / "text"), "hf_model_pretrained": False}
        model = open_clip.CustomTextCLIP(**{**given, "text_cfg": text})
        state = load_file(folder / WEIGHTS)
        # older files hold the positions, which newer classes count themselves
        if POSITIONS not in model.state_dict():
            state.pop(POSITIONS, None)
        missing, unexpected = model.load_state_dict(state, strict=False)
        check_complete(folder, {"missing_keys": missing, "mismatched_keys": [], "unexpected_keys": unexpected})
        self.model = model.to(device.name, device.dtype).eval()
        self.preprocess = image_transform(config, model.visual.image_size)
        self.context_length = text.get("context_length", open_clip.CLIPTextCfg.context_length)

    @property
    def embedding_rows(self) -> int:
        return self.model.text.transformer.embeddings.word_embeddings.num_embeddings

    @property
    def context(self) -> int:
        return self.context_length

    def cleaned(self, text: str) -> str:
        """As open_clip's own tokenizer of transformers' does it: mended, unescaped, one blank between words."""
        from open_clip.tokenizer import get_clean_fn

        return get_clean_fn("whitespace")(text)

    def pixels(self, images: list[Image.Image]) -> Any:
        import torch

        return torch.stack([self.preprocess(image) for image in images])

    def image_features(self, pixels: Any) -> Any:
        return self.model.encode_image(pixels)

    def text_features(self, tokens: Any) -> Any:
        """The tower makes its own mask, of the ids that fill a text up."""
        return self.model.encode_text(tokens["input_ids"])
