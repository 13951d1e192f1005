"""`train`: an image encoder of pairs, as a folder with encoder.json, model.safetensors and split.json.

Whatever takes long is kept in ENCODER/training/, so that a killed training goes on.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernel.errors import UserError
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.models.clip import ClipEncoder
from kernel.models.encoders import record as records
from kernel.models.encoders.encoder import TOWER, on_device
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.record import EncoderRecord, HeldOut, Tower, TrainedOn
from kernel.models.encoders.towers import read_timm_tower
from kernel.models.weights_folder import FileEntry, Weights, open_weights
from kernel.system.devices import Device, find_device
from kernel.system.files import file_sha256, write_json, write_whole, writing
from kernel.training.features import Encode, Features, features_of
from kernel.training.heads import Rows, Tried, fit_ridge, fit_two_layers
from kernel.training.intervals import interval_over_groups
from kernel.training.pairs import PairSet, open_pairs
from kernel.training.prompts import prompt_rows
from kernel.training.split import Parts, parts_of, split_pairs

WORK = "training"
CLIP = "clip"  # the tower's name that stands for the weights folder's own


@dataclass(frozen=True)
class OpenedTower:
    """What a record says of the tower, its name in ENCODER/training/features, its weights where they are not CLIP's."""

    record: Tower
    key: str
    load: Callable[[], Encode]
    state: Callable[[], dict[str, Any]]


def train(
    pairs: Path, weights: Path, out: Path, tower: str = CLIP, device: str = "auto", batch: int = 64
) -> dict[str, Any]:
    """Trains on the pairs, judges on the groups that were held out, writes the encoder; returns encoder.json's content.

    Raises UserError for whatever is wrong with pairs, weights, tower or `out`.
    """
    opened = open_weights(weights, parts=("clip", "sentences"))
    where = find_device(device)
    found = open_pairs(pairs)
    seen = open_tower(tower, opened, where)
    with writing(out, "free space there or give --out another folder, then run again: what is made is kept"):
        require_own_folder(out)
        work = out / WORK
        (work / found.sha256[:16]).mkdir(parents=True, exist_ok=True)
        kept = work / found.sha256[:16]
        rows = prompt_rows(
            found.prompts, kept / f"prompts-{opened.sha256('sentences')[:16]}.safetensors", opened, where
        )
        split = split_pairs(found, rows)
        split.write(out)
        features = features_of(found.pictures, kept / seen.key, seen.load, batch, f"features of {tower}")
        parts = good_parts(found, parts_of(found, split), features)
        tried = fit_heads(features.rows, rows, parts)
        best = max(tried, key=lambda own: own.validation)
        return write_encoder(out, seen, opened, found, parts, features.rows, rows, tried, best)


def open_tower(name: str, weights: Weights, device: Device) -> OpenedTower:
    """Raises UserError for what is neither `clip` nor a folder with a model of timm."""
    if name == CLIP:
        sha256 = weights.sha256("clip")
        width = clip_width(weights)
        return OpenedTower(
            Tower("clip", width, sha256=sha256),
            f"clip-{sha256[:16]}",
            lambda: ClipEncoder.load(weights, device).encode_images,
            dict,
        )
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(f"--tower {name}: no such folder; expected {CLIP}, or a folder with a model of timm")
    told, model = read_timm_tower(folder)
    assert told.pixels is not None
    on = on_device(model, told.pixels, device)
    key = f"timm-{file_sha256(folder / 'model.safetensors')[:16]}"
    return OpenedTower(told, key, lambda: on.encode_images, lambda: model.float().cpu().state_dict())


def clip_width(weights: Weights) -> int:
    from kernel.models.clip import CONFIG, Configuration
    from kernel.models.configurations import read_configuration

    return read_configuration(weights.model_folder("clip") / CONFIG, Configuration)["model_cfg"]["embed_dim"]


def require_own_folder(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
        raise UserError(f"{out}: holds files, and no training wrote them. Give --out an empty or a new folder")


def good_parts(pairs: PairSet, parts: Parts, features: Features) -> Parts:
    """Without the bad pictures, which are told on stderr."""
    bad = {place for place, picture in enumerate(pairs.pictures) if picture.id in features.bad}
    kept = [np.array([own for own in part.tolist() if own not in bad], dtype=np.intp) for part in
            (parts.train, parts.validation, parts.held_out)]  # fmt: skip
    if not all(map(len, kept)):
        raise UserError(
            f"{pairs.folder}: {len(bad)} of {len(pairs.pictures)} pictures cannot be used, the first is "
            f"{next(iter(features.bad.items()))}: too few are left to train on and to judge by. Give more pairs"
        )
    return Parts(*kept)


def fit_heads(features: np.ndarray, rows: np.ndarray, parts: Parts) -> list[Tried]:
    train, validation = (Rows(features[own], rows[own]) for own in (parts.train, parts.validation))
    return [fit_ridge(train, validation), fit_two_layers(train, validation)]


def write_encoder(
    out: Path,
    seen: OpenedTower,
    weights: Weights,
    pairs: PairSet,
    parts: Parts,
    features: np.ndarray,
    rows: np.ndarray,
    tried: list[Tried],
    best: Tried,
) -> dict[str, Any]:
    """encoder.json last: without it nothing takes the folder for an encoder."""
    from safetensors.numpy import save

    (out / records.RECORD).unlink(missing_ok=True)
    tensors = best.head.tensors() | {f"{TOWER}{name}": own.numpy() for name, own in seen.state().items()}
    write_whole(out / records.WEIGHTS, save(tensors))
    record = EncoderRecord(
        format=records.FORMAT,
        tower=seen.record,
        tier=best.name,
        sentences=weights.sha256("sentences"),
        trained_on=TrainedOn(pairs.sha256, *counted(pairs, parts.train), licence="not stated"),
        held_out=judged(best.head, pairs, parts.held_out, features, rows),
        files=[FileEntry.of(out / name, name) for name in (records.WEIGHTS, records.SPLIT)],
        validation={own.name: own.validation for own in tried},
    )
    content = asdict(record)
    write_json(out / records.RECORD, content)
    return content


def counted(pairs: PairSet, places: np.ndarray) -> tuple[int, int]:
    """Pictures, and distinct prompts of them."""
    return len(places), len({pairs.prompts[place] for place in places.tolist()})


def judged(head: OutputHead, pairs: PairSet, places: np.ndarray, features: np.ndarray, rows: np.ndarray) -> HeldOut:
    cosines = pairwise_cosine(head.apply(features[places]), rows[places])
    prompts = [pairs.prompts[place] for place in places.tolist()]
    return HeldOut(*counted(pairs, places), float(cosines.mean()), interval_over_groups(cosines, prompts))
