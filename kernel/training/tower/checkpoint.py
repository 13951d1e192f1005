"""Where a training stands, as a safetensors file: whole or not there, and no pickle.

Kept are the trained weights, their average, the optimizer's moments, and in the file's header, as JSON, the step and
all that was measured so far.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from kernel.errors import UserError
from kernel.system.files import whole_file
from kernel.system.tensor_files import read_header


@dataclass
class Progress:
    """`step` counts those done, in so many `seconds`; `validations` and `losses` tell of steps the mean cosine on the
    validation pairs, and the mean loss of all steps since the one before; `lost` is the sum of those since the last."""

    step: int = 0
    seconds: float = 0.0
    lost: float = 0.0
    validations: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """The step of the best validation, the first of equals."""
        return max(self.validations, key=lambda step: (self.validations[step], -step))


def save_checkpoint(path: Path, parts: dict[str, dict[str, Any]], progress: Progress, identity: dict[str, Any]) -> None:
    """`parts`: the states of model, average and optimizer, each {name: tensor}."""
    from safetensors.torch import save_file

    tensors = {f"{part}/{name}": own.detach().cpu().contiguous() for part, state in parts.items()
               for name, own in state.items()}  # fmt: skip
    told = {"progress": json.dumps(asdict(progress)), "identity": json.dumps(identity, sort_keys=True)}
    with whole_file(path) as unfinished:
        # one entry: safetensors writes several in an order that differs from time to time
        save_file(tensors, unfinished, metadata={"training": json.dumps(told)})


def load_checkpoint(path: Path, identity: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], Progress] | None:
    """What `save_checkpoint` wrote; None where there is none, or one of another training."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        read_header(path)
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["training"])
            if told["identity"] != json.dumps(identity, sort_keys=True):
                return None
            parts: dict[str, dict[str, Any]] = {}
            for key in file.keys():  # noqa: SIM118  # it has no other way to list them
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
            progress = json.loads(told["progress"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no checkpoint of a training ({error}). Remove it, then run again: the training starts over"
        ) from error
    numbers = {name: {int(step): own for step, own in progress[name].items()} for name in ("validations", "losses")}
    return parts, Progress(progress["step"], progress["seconds"], progress["lost"], **numbers)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Example: the first moment of the third parameter -> {"2.exp_avg": tensor}."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(own) for index, moments in state.items() for name, own in moments.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, own in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = own
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
