"""CLIP: images and texts to unit features, by open_clip from a local folder."""

from pathlib import Path
from typing import Any, Literal, NotRequired

import numpy as np
from PIL import Image
from typing_extensions import TypedDict

from kernel.models.configurations import check_configurations, read_configuration
from kernel.models.tokenizers import KNOWN_SENTENCE, check_tokenizer, tokenizer_record
from kernel.models.weights_folder import Weights, loading
from kernel.system.devices import Device

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class Tower(TypedDict, total=False):
    mlp_ratio: float  # a text would be repeated as often as the tower is wide


class ModelConfiguration(TypedDict):
    embed_dim: int
    vision_cfg: Tower
    text_cfg: Tower


class Preprocessing(TypedDict, total=False):
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    interpolation: Literal["bicubic", "bilinear", "random"] | None
    resize_mode: Literal["shortest", "longest", "squash"] | None


class Configuration(TypedDict):
    """open_clip_config.json."""

    model_cfg: ModelConfiguration
    preprocess_cfg: NotRequired[Preprocessing | None]


CONFIGURATIONS: dict[str, Any] = {CONFIG: Configuration}


class ClipEncoder:
    """Both towers of one CLIP. Features are float32 with rows of length 1."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any, device: Device) -> None:
        self.model, self.preprocess, self.tokenizer, self.device = model, preprocess, tokenizer, device

    @classmethod
    def load(cls, weights: Weights, device: Device) -> "ClipEncoder":
        """Loads `weights/clip`, a folder as open_clip's `local-dir:` reads it: weights with their preprocessing.

        On a GPU the matrices are half precision and LayerNorm stays float32, as open_clip's fp16 does.
        """
        folder = weights.model_folder("clip")
        check_configurations(folder, CONFIGURATIONS)
        with loading(folder, "open_clip"):
            model, preprocess = load_model(folder, device)
            tokenizer = clip_tokenizer(folder)
            record = clip_tokenizer_record(tokenizer)
        check_tokenizer(
            str(folder),
            record,
            weights.models["clip"].get("tokenizer"),
            model.token_embedding.num_embeddings,
        )
        return cls(model.eval(), preprocess, tokenizer, device)

    def is_full(self, text: str) -> bool:
        """Whether a text takes all the tokens that CLIP reads."""
        return bool(self.tokenizer([text])[0][-1] != 0)

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


def load_model(folder: Path, device: Device) -> tuple[Any, Any]:
    """open_clip's model and its preprocessing, with the weights in memory once.

    open_clip's own loader draws a float32 model of random numbers, copies the file into it and halves it on the device:
    5.5 GB of host and of device for ViT-g-14, of which half is run on a GPU, and nothing needs to be allocated where a
    CPU runs a float32 file. So the model begins without memory and takes the file's tensors, which stay mapped where
    device and dtype are already right. Raises RuntimeError when a tensor is missing, left over or of another shape.
    """
    import torch
    from safetensors.torch import load_file

    config = read_configuration(folder / CONFIG, Configuration)
    model = meta_clip(config["model_cfg"], device.dtype == torch.float16)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    state = load_file(folder / WEIGHTS)
    for name in list(state):
        state[name] = state[name].to(device.name, dtypes.get(name))
    model.load_state_dict(state, strict=True, assign=True)
    if model.attn_mask is not None:
        # the only part that no file holds: a text's tokens see those before them
        mask = torch.full(model.attn_mask.shape, float("-inf"), device=device.name)
        model.attn_mask = mask.triu(1)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if empty:
        raise ValueError(f"no file holds its {', '.join(empty)}; expected a CLIP of plain transformers")
    return model, image_transform(config, model.visual.image_size)


def image_transform(config: dict[str, Any], size: Any) -> Any:
    """An image to pixels of the tower's size, as open_clip_config.json says."""
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    preprocessing = merge_preprocess_dict(PreprocessCfg(), config.get("preprocess_cfg", {}))
    preprocessing["size"] = size
    return image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)


def model_without_weights(folder: Path) -> Any:
    """The model that `folder` holds, by its configuration alone: for what is counted of it."""
    with loading(folder, "open_clip"):
        return meta_clip(read_configuration(folder / CONFIG, Configuration)["model_cfg"], half=False)


def meta_clip(model_config: dict[str, Any], half: bool) -> Any:
    """CLIP by open_clip's configuration without memory for its weights; in half precision but for what overflows."""
    import open_clip
    import torch
    from open_clip.model import convert_weights_to_lp

    with torch.device("meta"):
        model = open_clip.CLIP(**model_config, cast_dtype=torch.float16 if half else None)
    if half:
        convert_weights_to_lp(model, torch.float16)
    return model.eval()


def clip_tokenizer(folder: Path) -> Any:
    """open_clip's own, or the one that lies in the folder where the configuration names one."""
    import open_clip

    return open_clip.get_tokenizer(f"local-dir:{folder}")


def token_count(tokenizer: Any, text: str) -> int:
    """Tokens of a text of any length, without those of start and end."""
    if hasattr(tokenizer, "eot_token_id"):
        return len(tokenizer.encode(text))
    return len(tokenizer.tokenizer(tokenizer.clean_fn(text), add_special_tokens=False)["input_ids"])


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
