"""What the stage of an own encoder adds to its tower's forward passes: decoding, pixels, the head, the shard."""

import tempfile
from pathlib import Path

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS, RECIPES
from kernel.models.encoders.encoder import ImageEncoder, on_device, preprocessing
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import FORMAT, SPLIT, WEIGHTS, EncoderRecord, HeldOut, Pixels, Tower, TrainedOn
from kernel.models.weights_folder import FileEntry, Weights
from kernel.pipeline.decoding import decode_file
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from kernel.pipeline.job import Job
from kernel.pipeline.stages.batches import BatchSize
from kernel.pipeline.stages.encoders import EncodersStage
from kernel.system.deadline import NEVER
from kernel.system.devices import Device
from kernel.system.work import Share
from tests.bench.stopwatch import in_turns
from tests.bench.training import ARCHITECTURE, SIZE

PICTURES, ROUNDS = 32, 3
BATCH = 4  # nothing runs while the first one is decoded, which of 16,000 pictures would be nothing


def encoding(
    pictures: Path, rounds: int = ROUNDS, count: int = PICTURES, architecture: str = ARCHITECTURE
) -> dict[str, list[float]]:
    """Seconds a picture: the stage's rows from the pictures' files, and forward passes of the same tower over pixels
    that lie in memory. Raises AssertionError unless the rows are the head's of these passes."""
    import timm
    import torch

    tower = timm.create_model(architecture, num_classes=0, img_size=SIZE)
    layer = np.random.default_rng(0).standard_normal((EMBEDDING_DIMENSIONS, tower.num_features), dtype=np.float32)
    head = OutputHead(((layer, np.zeros(EMBEDDING_DIMENSIONS, np.float32)),))
    pixels = Pixels(SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    seen = Tower("timm", tower.num_features, architecture=architecture, pixels=pixels)
    entries = [FileEntry(name, 0, "0" * 64) for name in (WEIGHTS, SPLIT)]
    trained_on, held_out = TrainedOn("0" * 64, 9, 9, "none"), HeldOut(1, 1, 0.5, (0.4, 0.6))
    record = EncoderRecord(FORMAT, [seen], "full", "0" * 64, trained_on, held_out, entries)
    files = list_images(pictures)[:count]
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name), files, len(files))
        shards = results.encoded("0" * 64)
        (folder.folder / shards.stage).mkdir()
        stage = EncodersStage.__new__(EncodersStage)  # an encoder that no weights folder holds
        stage.job = Job(RECIPES["pairs"], Weights(Path(name), {}, []), folder, None, [])
        stage.shards, stage.size = shards, BatchSize(BATCH)
        stage.encoder = ImageEncoder(record, [on_device(tower, pixels, Device("cpu"))], head)
        made = torch.stack([preprocessing(pixels)(decode_file(file)) for file in files])

        def ours() -> None:
            for _ in stage.make(0, Share(len(files), NEVER)):
                pass

        def bare() -> np.ndarray:
            with torch.inference_mode():
                return np.concatenate([tower(part).numpy() for part in made.split(BATCH)])

        seconds = in_turns({"bare": (bare, len(files)), "ours": (ours, len(files))}, rounds)
        rows, _, _ = results.read_rows(folder, shards, 0)
        np.testing.assert_allclose(rows, head.apply(bare()), atol=1e-5)
    return seconds
