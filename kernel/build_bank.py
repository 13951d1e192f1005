"""Prompts in files to a prompt bank: cleaned, guarded, without near duplicates, encoded by MiniLM and CLIP.

Stage by stage over shards of prompts, one model at a time. Everything under way lies in OUT/building, each shard
whole or not there, so that a killed build goes on with what is missing; bank.json is written last.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kernel.bank_cost import text_tower_cost
from kernel.checkpoints import Weights, file_sha256, open_weights
from kernel.clip import ClipEncoder
from kernel.config import EMBEDDING_DIMENSIONS, BankSettings
from kernel.devices import Device, find_device
from kernel.errors import UserError
from kernel.near_duplicates import NearDuplicates, drop_scored
from kernel.progress import progress_bar
from kernel.prompt_bank import RECORD, PromptBank, read_record, write_bank
from kernel.prompt_files import Reason, clean, clean_prompts, count_prompts, read_prompts_from
from kernel.sentences import SentenceEncoder
from kernel.store import write_json, write_whole
from kernel.text_head import IMAGE_NOISE, fit_head, stream_grams

SHARD = 8192  # prompts; the most that a killed build encodes again
BATCH = 256
BUILDING = "building"


def build_bank(settings: BankSettings, weights_folder: Path, out: Path, device_name: str = "auto") -> dict[str, Any]:
    """Builds the bank `out`, or goes on building it, or finds it whole, and returns its record.

    Raises UserError for bad files and settings before anything is encoded, and for what cannot be written.
    """
    read = count_prompts(settings.sources, settings.column)
    weights = open_weights(weights_folder)
    device = find_device(device_name)
    build = identity(settings, weights)
    if (out / RECORD).is_file() and read_record(out / RECORD).get("build") == build:
        PromptBank.open(out, weights.sha256("clip"), weights.sha256("sentences"))
        print(f"{out}: this very bank, whole; nothing to do", file=sys.stderr)
        return read_record(out / RECORD)
    try:
        building = open_building(out, build)
        shards, dropped = clean_stage(settings, building)
        sentences_stage(building, shards, weights, device)
        kept, excluded = select_stage(settings, building, shards, dropped, weights, device)
        clip_stage(building, shards, kept, weights, device)
        head = fit_head(*stream_grams(pairs(building, shards, kept), *dimensions(building, shards)), IMAGE_NOISE)
        write_bank(
            out,
            count=int(sum(mask.sum() for mask in kept)),
            prompts=(kept_prompts(building, shard, kept) for shard in shards),
            features=(features for features, _ in pairs(building, shards, kept)),
            embeddings=(embeddings for _, embeddings in pairs(building, shards, kept)),
            head=head,
            record={
                "clip": weights.sha256("clip"),
                "sentences": weights.sha256("sentences"),
                "sources": [{"name": path.name, "sha256": file_sha256(path)} for path in settings.sources],
                "dropped": dropped,
                "excluded": excluded,
                "read": read,
                "build": build,
            },
        )
        shutil.rmtree(building)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror or error}). Free space or give --out another folder, then run "
            "again: finished shards are kept"
        ) from error
    return read_record(out / RECORD)


def identity(settings: BankSettings, weights: Weights) -> dict[str, Any]:
    return {
        "sources": [[path.name, file_sha256(path)] for path in settings.sources],
        "column": settings.column,
        "exclude": settings.exclude and file_sha256(settings.exclude),
        "near": settings.near,
        "models": [weights.sha256("clip"), weights.sha256("sentences")],
        "shard": [SHARD, BATCH],
        "image_noise": IMAGE_NOISE,
    }


def open_building(out: Path, identity: dict[str, Any]) -> Path:
    """OUT/building, emptied when it belongs to another build. Raises UserError when `out` holds something else."""
    building = out / BUILDING
    record = building / "identity.json"
    if out.is_dir() and any(out.iterdir()) and not (record.is_file() or (out / RECORD).is_file()):
        raise UserError(f"{out}: holds files but no bank. Give --out an empty or a new folder")
    if not record.is_file() or json.loads(record.read_text(encoding="utf-8")) != identity:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        write_json(record, identity)
    else:
        print(f"{building}: going on with the last build", file=sys.stderr)
    return building


def clean_stage(settings: BankSettings, building: Path) -> tuple[range, dict[str, int]]:
    """Files to shards of clean prompts, each text once; the shards' numbers and what was dropped."""
    done = building / "cleaned.json"
    if not done.is_file():
        counts: Counter[str] = Counter({reason.value: 0 for reason in Reason})
        prompts = clean_prompts(read_prompts_from(settings.sources, settings.column), counts)
        number = -1
        for number, shard in enumerate(batches(prompts)):
            write_json(building / f"{number:05d}.json", shard)
        if number < 0:
            raise UserError(
                f"{', '.join(map(str, settings.sources))}: no usable prompt ({dict(counts)}); expected at least one"
            )
        write_json(done, {"shards": number + 1, "dropped": counts})
    content = json.loads(done.read_text(encoding="utf-8"))
    return range(content["shards"]), content["dropped"]


def batches(prompts: Iterator[str]) -> Iterator[list[str]]:
    while shard := list(islice(prompts, SHARD)):
        yield shard


def prompts_of(building: Path, shard: int) -> list[str]:
    return json.loads((building / f"{shard:05d}.json").read_text(encoding="utf-8"))


def kept_prompts(building: Path, shard: int, kept: list[np.ndarray]) -> list[str]:
    return [prompt for prompt, stays in zip(prompts_of(building, shard), kept[shard], strict=True) if stays]


def sentences_stage(building: Path, shards: range, weights: Weights, device: Device) -> None:
    pending = [shard for shard in shards if not rows_path(building, "sentences", shard).is_file()]
    if not pending:
        return
    encoder = SentenceEncoder.load(weights, device)
    for shard in progress(pending, len(shards), "sentences"):
        write_rows(rows_path(building, "sentences", shard), encoder.encode(prompts_of(building, shard), BATCH))


def select_stage(
    settings: BankSettings,
    building: Path,
    shards: range,
    dropped: dict[str, int],
    weights: Weights,
    device: Device,
) -> tuple[list[np.ndarray], dict[str, Any] | None]:
    """Which prompts of each shard are kept: no scored ones, and of near duplicates the first. Fills in `dropped`."""
    guard, excluded = scored_guard(settings, weights, device)
    near = NearDuplicates(EMBEDDING_DIMENSIONS, settings.near)
    kept = []
    for shard in progress(list(shards), len(shards), "duplicates"):
        rows = read_rows(rows_path(building, "sentences", shard))
        stays = guard(prompts_of(building, shard), rows)
        stays[stays] = near.keep(rows[stays])
        kept.append(stays)
    if not any(mask.any() for mask in kept):
        raise UserError(f"no prompt is left: every one is among the scored prompts of {settings.exclude}. Give others")
    total = sum(len(mask) for mask in kept) - sum(int(mask.sum()) for mask in kept)
    dropped["near duplicate"] = total - (excluded["equal"] + excluded["near"] if excluded else 0)
    return kept, excluded


def scored_guard(
    settings: BankSettings, weights: Weights, device: Device
) -> tuple[Callable[[list[str], np.ndarray], np.ndarray], dict[str, Any] | None]:
    """Says which prompts may stay, and the record that it counts into; None when nothing is to be excluded."""
    if settings.exclude is None:
        return lambda prompts, rows: np.ones(len(prompts), dtype=bool), None
    scored = sorted({prompt for prompt in read_prompts_from([settings.exclude]) if prompt.strip()})
    if not scored:
        raise UserError(f"{settings.exclude}: no prompt, so nothing would be excluded. Give the scored ones")
    cleaned = {text for text in map(clean, scored) if not isinstance(text, Reason)}
    scored_rows = SentenceEncoder.load(weights, device).encode(scored, BATCH)  # also of those too long for a bank
    name, sha256 = settings.exclude.name, file_sha256(settings.exclude)
    excluded: dict[str, Any] = {"name": name, "sha256": sha256, "prompts": len(scored), "equal": 0, "near": 0}

    def guard(prompts: list[str], rows: np.ndarray) -> np.ndarray:
        stays, counts = drop_scored(prompts, rows, cleaned, scored_rows)
        for reason, count in counts.items():
            excluded[reason] += count
        return stays

    return guard, excluded


def clip_stage(building: Path, shards: range, kept: list[np.ndarray], weights: Weights, device: Device) -> None:
    """CLIP's text features of the kept prompts; says beforehand what that costs."""
    pending = [shard for shard in shards if not rows_path(building, "clip", shard).is_file()]
    if not pending:
        return
    clip = ClipEncoder.load(weights, device)
    count = sum(int(kept[shard].sum()) for shard in pending)
    print(f"{text_tower_cost(count, text_tower_gflops(clip))} on {device.name}", file=sys.stderr)
    for shard in progress(pending, len(shards), "clip"):
        prompts = kept_prompts(building, shard, kept)
        width = clip.model.text_projection.shape[-1]
        rows = clip.encode_texts(prompts, BATCH) if prompts else np.zeros((0, width), dtype=np.float32)
        write_rows(rows_path(building, "clip", shard), rows)


def text_tower_gflops(clip: ClipEncoder) -> float:
    """Multiply-adds of one text: each parameter of the blocks once a token, as in open_clip's model_profile.csv.

    Source: ViT-g-14's text tower, 302 M parameters in its blocks x 77 tokens x 2 = 47 GFLOPs.
    """
    parameters = sum(parameter.numel() for parameter in clip.model.transformer.parameters())
    return 2 * parameters * clip.model.context_length / 1e9


def pairs(building: Path, shards: range, kept: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and embeddings of the kept prompts of each shard, float32 unit rows."""
    for shard in shards:
        yield (
            read_rows(rows_path(building, "clip", shard)),
            read_rows(rows_path(building, "sentences", shard))[kept[shard]],
        )


def dimensions(building: Path, shards: range) -> tuple[int, int]:
    return read_rows(rows_path(building, "clip", shards[0])).shape[1], EMBEDDING_DIMENSIONS


def rows_path(building: Path, stage: str, shard: int) -> Path:
    return building / f"{stage}-{shard:05d}.safetensors"


def write_rows(path: Path, rows: np.ndarray) -> None:
    from safetensors.numpy import save

    write_whole(path, save({"rows": rows.astype(np.float16)}))


def read_rows(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["rows"].astype(np.float32)


def progress(pending: list[int], shards: int, stage: str) -> Iterator[int]:
    yield from progress_bar(pending, initial=shards - len(pending), total=shards, desc=stage, unit="shard")
