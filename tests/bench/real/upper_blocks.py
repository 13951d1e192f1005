"""Tier `blocks` on two cores: what a tower's lower blocks make of each picture is kept, and the product's own loop
trains the upper ones on that. So no picture is augmented."""

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernel.config import TrainingSettings
from kernel.models.encoders.encoder import TowerEncoder, on_device
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import Pixels
from kernel.models.encoders.towers import read_timm_tower
from kernel.system.deadline import NEVER
from kernel.system.devices import Device
from kernel.training.split import Parts
from kernel.training.tower.loop import Loop, Pictured
from kernel.training.tower.processes import Processes
from kernel.training.tower.trained import Trained

TRAINED, UPPER = "lite0", 2  # blocks
MAP = (192, 7, 7)  # what the blocks before them make of 224 x 224 pixels
PIXELS = Pixels(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")  # which the loop asks for, and nobody decodes
SETTINGS = TrainingSettings(epochs=4, batch=128, learning_rate=1e-4, head_factor=1, average=0.98)


def parted(folder: Path, device: Device) -> tuple[TowerEncoder, Any]:
    """The lower blocks of an EfficientNet, pictures to rows; and the same model with nothing where these were, from
    such maps to its features: with its own names, by which layers are told apart."""
    told, model = read_timm_tower(folder)
    assert told.pixels is not None
    model.eval()
    upper = copy.deepcopy(model)
    upper.conv_stem = upper.bn1 = torch.nn.Identity()
    places = [(stage, place) for stage, blocks in enumerate(model.blocks) for place in range(len(blocks))][:-UPPER]
    for stage, place in places:
        upper.blocks[stage][place] = torch.nn.Identity()
    blocks = [model.blocks[stage][place] for stage, place in places]
    lower = torch.nn.Sequential(model.conv_stem, model.bn1, *blocks, torch.nn.Flatten())
    return on_device(lower, told.pixels, device), upper


@dataclass(frozen=True)
class Kept:
    """Batches of maps that lie in memory, as often as they are asked for."""

    maps: np.ndarray
    asked: Any

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self.asked:
            places = [place for _, place in batch]
            yield torch.from_numpy(self.maps[places]), torch.tensor(places)


class KeptLoop(Loop):
    """Trains on maps in place of pictures."""

    maps: np.ndarray

    def loader(self, pictures: Any, batches: Any) -> Kept:
        return Kept(self.maps, batches)


def train_upper(upper: Any, begun: OutputHead, maps: np.ndarray, truth: np.ndarray, train: np.ndarray,
                validation: np.ndarray) -> Trained:  # fmt: skip
    """The upper blocks (n, c, h, w) -> (n, 384), trained from the head `begun` on; what it began with where no epoch
    was better on the validation places."""
    model = Trained(copy.deepcopy(upper), begun)
    pictured = Pictured([], truth, Parts(train, validation, np.arange(0)), PIXELS)
    with tempfile.TemporaryDirectory() as scratch:
        loop = KeptLoop(model, pictured, SETTINGS, Processes(0, 1, Device("cpu")), Path(scratch), {}, NEVER)
        loop.maps = maps
        loop.run()
    return model


@torch.inference_mode()
def answers_of(model: Trained, maps: np.ndarray) -> np.ndarray:
    """(n, 384) unit rows."""
    return np.concatenate([model(part).numpy() for part in torch.from_numpy(maps).split(256)])
