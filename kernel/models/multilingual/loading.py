"""The CLIPs of a weights folder, each by the class that the manifest names."""

from kernel.errors import UserError
from kernel.models.clip import ClipEncoder
from kernel.models.multilingual.encoder import MultilingualClip
from kernel.models.multilingual.of_open_clip import RobertaClip
from kernel.models.multilingual.of_transformers import KoreanClip, Siglip
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device

KINDS: dict[str, type[MultilingualClip]] = {kind.class_name: kind for kind in (KoreanClip, Siglip, RobertaClip)}


AnyClip = ClipEncoder | MultilingualClip


def kind_of_clip(weights: Weights, name: str) -> type[MultilingualClip]:
    """Of the model `name`. Raises UserError for a class that is none of KINDS."""
    class_name = weights.models[name]["class"]
    if class_name not in KINDS:
        raise UserError(
            f"{weights.model_folder(name)}: class {class_name!r} is no CLIP that reads Korean; expected one of "
            f"{', '.join(KINDS)}. Correct it in the manifest"
        )
    return KINDS[class_name]


def load_clip(weights: Weights, device: Device, name: str) -> AnyClip:
    """The weights folder's own CLIP, named `clip`, or another of its models. Raises UserError."""
    if name == "clip":
        return ClipEncoder.load(weights, device)
    return kind_of_clip(weights, name).load(weights, device, name)
