"""A small image encoder made by hand, in a folder as `train` leaves it."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import (
    FORMAT,
    RECORD,
    SPLIT,
    WEIGHTS,
    EncoderRecord,
    HeldOut,
    Tower,
    TrainedOn,
)
from kernel.models.weights_folder import FileEntry, Weights
from kernel.system.files import write_json

WIDTH = 128  # of the miniature CLIP's features


def save_encoder(folder: Path, weights: Weights, seed: int = 0, tower: Tower | None = None) -> Path:
    """One layer on the features of CLIP, drawn by the seed, for the models of `weights`."""
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "features.safetensors").write_bytes(b"of its maker")
    layer = np.random.default_rng(seed).normal(size=(EMBEDDING_DIMENSIONS, WIDTH + 1)).astype(np.float32)
    save_file(OutputHead(((layer[:, :-1], layer[:, -1]),)).tensors(), folder / WEIGHTS)
    write_json(folder / SPLIT, {"format": 1, "pairs": "0" * 64, "near": 0.7, "validation": ["a"], "held_out": ["b"]})
    record_files(
        folder,
        EncoderRecord(
            format=FORMAT,
            towers=[tower or Tower("clip", WIDTH, sha256=weights.sha256("clip"))],
            tier="ridge",
            sentences=weights.sha256("sentences"),
            trained_on=TrainedOn("0" * 64, pictures=8, prompts=8, licence="not stated"),
            held_out=HeldOut(pictures=2, prompts=2, mean=0.8125, ci95=(0.75, 0.875)),
            files=[FileEntry(name, 0, "0" * 64) for name in (WEIGHTS, SPLIT)],
        ),
    )
    return folder


def record_files(folder: Path, record: EncoderRecord) -> None:
    """Writes encoder.json over the files that are there."""
    files = [asdict(FileEntry.of(folder / entry.path, entry.path)) for entry in record.files]
    write_json(folder / RECORD, {**asdict(record), "files": files})
