"""Vision towers with tensors of their own: models of timm, from a local folder or an encoder's own file, and vision
towers of CLIP, which began as the weights folder's."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from kernel.errors import UserError, did_you_mean
from kernel.models.clip import CONFIG as CLIP_CONFIG
from kernel.models.clip import WEIGHTS as CLIP_WEIGHTS
from kernel.models.clip import Configuration as Clip
from kernel.models.clip import meta_clip
from kernel.models.configurations import problems, read_configuration
from kernel.models.encoders.record import Pixels, Tower
from kernel.models.weights_folder import Weights, check_header, loading
from kernel.system.devices import Device
from kernel.system.records import read_record

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADVICE = "Give a folder as timm saves one for a hub: config.json with its architecture, and model.safetensors"


class Pretrained(TypedDict):
    """What of `pretrained_cfg` is computed with."""

    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]


class Configuration(TypedDict):
    """What of timm's config.json is acted on; timm itself never reads the file."""

    architecture: str
    pretrained_cfg: NotRequired[Pretrained]


def timm_model(architecture: str, size: int, folder: Path) -> Any:
    """A model without classifier and with random weights, for pictures of `size` x `size`; `folder` is told where the
    name is unknown."""
    import timm

    if not timm.is_model(architecture):
        raise UserError(
            f"{folder}: architecture {architecture!r} is none that timm {timm.__version__} knows"
            f"{did_you_mean(architecture, timm.list_models())}. {ADVICE}"
        )
    # transformers have a place for each patch of their own size; convolutions take any, and no such setting
    settings: list[dict[str, Any]] = [{"img_size": size}, {}]
    for own in settings:
        with loading(folder, "timm"), suppress(TypeError):
            return timm.create_model(architecture, pretrained=False, num_classes=0, **own)
    raise UserError(f"{folder}: {architecture!r} cannot be made for {size} pixels. {ADVICE}")


def open_clip_tower(configuration: dict[str, Any], half: bool = False) -> Any:
    """The vision tower of a CLIP without its weights, its answers scaled to length 1 as CLIP's features are."""
    from kernel.models.encoders.open_clip_tower import OpenClipTower

    return OpenClipTower(meta_clip(configuration, half).visual)


def build_tower(tower: Tower, folder: Path, device: Device) -> Any:
    """A model that takes the tensors of `tower`; `folder` is told where it cannot be made."""
    if tower.kind == "open_clip":
        assert tower.configuration is not None
        if (wrong := next(problems(tower.configuration), None)) is not None:
            raise UserError(f"{folder}: its configuration cannot be used ({wrong})")
        with loading(folder, "open_clip"):
            return open_clip_tower(tower.configuration, device.is_gpu).to_empty(device=device.name)
    assert tower.architecture is not None and tower.pixels is not None
    return timm_model(tower.architecture, tower.pixels.size, folder).to(device.name, device.dtype)


def meta_tower(tower: Tower, folder: Path, half: bool) -> Any:
    """The same without memory for its tensors, in half precision as a GPU runs it or in float32: to count with."""
    import torch

    from kernel.models.encoders.blip2_tower import Blip2Tower

    if tower.configuration is not None:
        made = Blip2Tower if tower.kind == "blip2" else open_clip_tower
        return made(tower.configuration, half).eval()
    assert tower.architecture is not None and tower.pixels is not None
    with torch.device("meta"):
        return timm_model(tower.architecture, tower.pixels.size, folder).to(torch.float16 if half else None).eval()


def read_clip_tower(weights: Weights) -> tuple[Tower, Any]:
    """The weights folder's CLIP as a tower of its own, in float32, to be trained on; and what a record says of it."""
    from safetensors.torch import load_file

    folder = weights.model_folder("clip")
    config = read_configuration(folder / CLIP_CONFIG, Clip)
    seen = merge_preprocessing(config)
    with loading(folder, "open_clip"):
        model = open_clip_tower(config["model_cfg"]).to_empty(device="cpu")
        prefix = "visual."
        state = {name: own.float() for name, own in load_file(folder / CLIP_WEIGHTS).items() if name.startswith(prefix)}
        model.load_state_dict(state)
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    pixels = Pixels(size, tuple(seen.mean), tuple(seen.std), seen.interpolation)
    tower = Tower("open_clip", config["model_cfg"]["embed_dim"], configuration=dict(config["model_cfg"]), pixels=pixels)
    return tower, model


def merge_preprocessing(config: Any) -> Any:
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    return PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), config.get("preprocess_cfg") or {}))


def read_timm_configuration(folder: Path) -> tuple[str, Pixels]:
    """A local folder's architecture and the pixels that it wants.

    These come from the checkpoint's own configuration, never from the architecture's name: the same architecture was
    trained under several normalisations. Raises UserError for anything that is not such a folder.
    """
    config = read_record(folder / CONFIG, Configuration, "timm's configuration of a model", ADVICE)
    if "pretrained_cfg" not in config:
        raise UserError(f"{folder / CONFIG}: has no pretrained_cfg, so nobody knows which pixels it wants. {ADVICE}")
    own = config["pretrained_cfg"]
    try:
        pixels = Pixels(own["input_size"][-1], own["mean"], own["std"], own["interpolation"])
    except ValueError as error:
        raise UserError(f"{folder / CONFIG}: pretrained_cfg cannot be used ({error}). {ADVICE}") from error
    return config["architecture"], pixels


def read_timm_tower(folder: Path) -> tuple[Tower, Any]:
    """A local folder's model with its weights, and what an encoder's record says of it. Raises UserError for anything
    that is not such a folder."""
    from safetensors.torch import load_file

    architecture, pixels = read_timm_configuration(folder)
    model = timm_model(architecture, pixels.size, folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder / WEIGHTS}: not found. {ADVICE}")
    check_header(folder / WEIGHTS)
    with loading(folder, "timm"):
        load_tower(model, without_classifier(model, load_file(folder / WEIGHTS)))
    return Tower("timm", model.num_features, architecture=architecture, pixels=pixels), model


def without_classifier(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    names = model.pretrained_cfg.get("classifier") or ()
    classifiers = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return {name: tensor for name, tensor in state.items() if not classifiers or not name.startswith(classifiers)}


def load_tower(model: Any, state: dict[str, Any]) -> None:
    """Raises ValueError for a tensor that is missing, left over, or of another shape."""
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(f"{wrong[0]} is missing, left over or of another shape; {len(wrong)} such tensors")
    model.load_state_dict(state)
