"""A captioner's checkpoint by transformers, with everything checked that can be silently wrong.

transformers loads leniently: a missing layer gets random numbers and a log line, a wrong dtype gives fluent wrong
captions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernel.errors import UserError, first_line
from kernel.models.weights_folder import ADVICE
from kernel.system.devices import Device

LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)


def load_complete(model_class: Any, folder: Path, device: Device, full_precision: Sequence[str] = ()) -> Any:
    """The model with every weight from the file, in the device's dtype but for the parts in float32; else UserError."""
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=device.dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        raise cannot_load(folder, error) from error
    check_complete(folder, info)
    check_dtypes(folder, model, device, full_precision)
    return model


def cannot_load(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder}: transformers cannot load it ({first_line(error)}). {ADVICE}")


def check_complete(folder: Path, info: dict[str, Any]) -> None:
    """Every weight of the model from the file and every weight of the file in the model."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        # buffers that the class recomputes are no weights
        keys = sorted(str(key) for key in info[kind] if "position_ids" not in str(key))
        if keys:
            follows = (
                "the model would run on random numbers" if kind != "unexpected_keys" else "it is another model's file"
            )
            raise UserError(
                f"{folder}: {kind.replace('_', ' ')} {', '.join(keys[:3])} ({len(keys)} in all): {follows}. {ADVICE}"
            )


def check_dtypes(folder: Path, model: Any, device: Device, full_precision: Sequence[str]) -> None:
    import torch

    for name, parameter in model.named_parameters():
        expected = torch.float32 if in_full_precision(name, full_precision) else device.dtype
        if parameter.dtype != expected:
            raise UserError(
                f"{folder}: {name} loaded as {parameter.dtype}, expected {expected}: captions would be wrong or "
                "overflow. This version of transformers is not supported; install the one in pyproject.toml"
            )


def in_full_precision(name: str, parts: Sequence[str]) -> bool:
    """Whether a parameter stays in float32 on a GPU, by its dotted name.

    Example: in_full_precision("encoder.block.0.wo.weight", ["wo"]) is True, of "encoder.wonder.weight" False
    """
    return any(part in parts for part in name.split("."))
