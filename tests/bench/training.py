"""What `train` adds to the bare steps of a tower: decoding, augmentation, optimizer, average. In turns, one process."""

import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from kernel.config import EMBEDDING_DIMENSIONS, TrainingSettings
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import Pixels
from kernel.models.vectors import unit_rows
from kernel.pipeline.images import list_images
from kernel.system.deadline import NEVER
from kernel.system.devices import Device
from kernel.training.split import Parts
from tests.bench.stopwatch import in_turns

ARCHITECTURE, SIZE = "vit_small_patch16_224", 224
SAVED = 336  # pixels, as `publish pairs` leaves them
BATCH, STEPS, ROUNDS = 16, 2, 3


def training(rounds: int = ROUNDS, steps: int = STEPS, architecture: str = ARCHITECTURE) -> dict[str, list[float]]:
    """Seconds a picture of tier `full`: the loop's own steps from the pictures' files, and forward and backward passes
    of the same tower over tensors that lie in memory.

    The queue of decoded batches is full when a turn begins and when it ends, as it is all the time in a long training.
    """
    import timm

    from kernel.training.tower.loop import Loop, Pictured, loss_of
    from kernel.training.tower.processes import Processes
    from kernel.training.tower.trained import Trained

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(2 * BATCH):
            noise = rng.integers(0, 256, (SAVED // 8, SAVED // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((SAVED, SAVED)).save(folder / f"{index:02d}.jpg", quality=95)
        files = list_images(folder)
        rows = unit_rows(rng.standard_normal((len(files), EMBEDDING_DIMENSIONS)))
        parts = Parts(np.arange(len(files)), np.arange(len(files)), np.arange(0))
        pictured = Pictured(files, rows, parts, Pixels(SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic"))
        tower = timm.create_model(architecture, num_classes=0, img_size=SIZE)
        head = OutputHead(
            ((rng.standard_normal((384, tower.num_features), dtype=np.float32), np.zeros(384, np.float32)),)
        )
        settings = TrainingSettings(epochs=1000, batch=BATCH)
        loop = Loop(Trained(tower, head), pictured, settings, Processes(0, 1, Device("cpu")), folder, {}, NEVER)
        batches = loop.batches()
        pixels, places = next(batches)
        truth = loop.truth[places]

        def ours() -> None:
            for batch in islice(batches, steps):
                loop.step(*batch)

        def bare() -> None:
            for _ in range(steps):
                loss_of(loop.model(pixels), truth, "cosine").backward()

        return in_turns({"bare": (bare, steps * BATCH), "ours": (ours, steps * BATCH)}, rounds)
