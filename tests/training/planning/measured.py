"""Trains a tower with random weights in this process for three steps, and prints the most that it took, in bytes.

What the libraries take before is left out; `python -m tests.training.planning.measured FOLDER TIER BATCH`.
"""

import resource
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from kernel.config import TrainingSettings
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import Pixels
from kernel.models.vectors import unit_rows
from kernel.pipeline.images import ImageFile
from kernel.system.deadline import NEVER
from kernel.system.devices import Device
from kernel.training.heads import HIDDEN
from kernel.training.split import Parts
from kernel.training.tower.loop import Loop, Pictured
from kernel.training.tower.processes import Processes
from kernel.training.tower.trained import Trained, freeze_lower_layers

ARCHITECTURE, SIZE, STEPS = "vit_small_patch16_224", 224, 3


def layer(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((outputs, inputs), 0.01, np.float32), np.zeros(outputs, np.float32)


def main(folder: Path, tier: str, batch: int) -> None:
    count = batch * STEPS + 2
    picture = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    files = [ImageFile(str(index), folder / "picture.png") for index in range(count)]
    places = np.arange(count)
    rows = unit_rows(np.random.default_rng(1).normal(size=(count, 384)))
    material = Pictured(
        files, rows, Parts(places[2:], places[:2], places[:0]), Pixels(SIZE, *[(0.5,) * 3] * 2, "bicubic")
    )
    settings = TrainingSettings(epochs=1, batch=batch, workers=0)
    # what autograd and the optimizer themselves take, once
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(2, 2) @ torch.ones(2, 2))]).step()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    tower = timm.create_model(ARCHITECTURE, num_classes=0)
    if tier == "blocks":
        freeze_lower_layers(tower, settings.trained_layers)
    head = OutputHead((layer(tower.num_features, HIDDEN), layer(HIDDEN, 384)))
    model = Trained(tower, head)
    Loop(model, material, settings, Processes(0, 1, Device("cpu")), folder, {}, NEVER).run()
    # not getrusage's, which takes over what the process that started this one had
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024 - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
