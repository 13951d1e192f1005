"""Vision towers that are not the weights folder's CLIP: models of timm, from a local folder or an encoder's own file."""

from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from kernel.errors import UserError, did_you_mean
from kernel.models.configurations import read_configuration
from kernel.models.encoders.record import Pixels, Tower
from kernel.models.weights_folder import check_header, loading

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADVICE = "Give a folder as timm saves one for a hub: config.json with its architecture, and model.safetensors"


class Pretrained(TypedDict):
    """What of `pretrained_cfg` is computed with."""

    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]


class Configuration(TypedDict):
    """config.json of timm."""

    architecture: str
    pretrained_cfg: NotRequired[Pretrained]


def timm_model(architecture: str, folder: Path) -> Any:
    """A model without classifier and with random weights; `folder` is told where the name is unknown."""
    import timm

    if not timm.is_model(architecture):
        raise UserError(
            f"{folder}: architecture {architecture!r} is none that timm {timm.__version__} knows"
            f"{did_you_mean(architecture, timm.list_models())}. {ADVICE}"
        )
    with loading(folder, "timm"):
        return timm.create_model(architecture, pretrained=False, num_classes=0)


def read_timm_tower(folder: Path) -> tuple[Tower, Any]:
    """A local folder's model with its weights, and what an encoder's record says of it.

    Pixels come from the checkpoint's own configuration, never from the architecture's name: the same architecture was
    trained under several normalisations. Raises UserError for anything that is not such a folder.
    """
    from safetensors.torch import load_file

    config: Configuration = read_configuration(folder / CONFIG, Configuration, ADVICE)
    if "pretrained_cfg" not in config:
        raise UserError(f"{folder / CONFIG}: has no pretrained_cfg, so nobody knows which pixels it wants. {ADVICE}")
    own = config["pretrained_cfg"]
    model = timm_model(config["architecture"], folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder / WEIGHTS}: not found. {ADVICE}")
    check_header(folder / WEIGHTS)
    with loading(folder, "timm"):
        load_tower(model, load_file(folder / WEIGHTS))
    size = own["input_size"][-1]
    pixels = Pixels(size, tuple(own["mean"]), tuple(own["std"]), own["interpolation"])
    return Tower("timm", model.num_features, architecture=config["architecture"], pixels=pixels), model


def load_tower(model: Any, state: dict[str, Any]) -> None:
    """Puts a checkpoint's tensors into the model; those of a classifier are left over.

    Raises ValueError for a tensor that is missing, or left over otherwise.
    """
    names = model.pretrained_cfg.get("classifier") or ()
    classifiers = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    state = {name: tensor for name, tensor in state.items() if not name.startswith(classifiers or ("\0",))}
    model.load_state_dict(state, strict=True)
