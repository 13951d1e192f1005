"""Prompts in files to a prompt bank: cleaned, guarded, without near duplicates, encoded by MiniLM and CLIP.

Stage by stage over shards of prompts, one model at a time on every device. Everything under way lies in OUT/building,
each shard whole or not there, so that a killed build goes on with what is missing; bank.json is written last.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.cleaning import Reason, clean_prompts
from kernel.banks.cost import text_tower_cost
from kernel.banks.encoding import (
    BATCH,
    CLIP,
    REMOVE,
    SENTENCES,
    Encoding,
    chosen_prompts,
    encode_shards,
    read_choice,
    read_prompts,
    read_rows,
    rows_path,
    write_prompts,
)
from kernel.banks.prompt_bank import RECORD, BankRecord, PromptBank, read_bank_record, write_bank
from kernel.banks.prompt_files import count_prompts, read_prompts_from
from kernel.banks.selection import ROUND, scored_prompts, select_shards
from kernel.config import EMBEDDING_DIMENSIONS, BankSettings
from kernel.errors import UserError
from kernel.models.clip import model_without_weights
from kernel.models.linear_head import IMAGE_NOISE, fit_head, stream_grams
from kernel.models.weights_folder import Weights, open_weights
from kernel.system.files import file_sha256, write_json, writing
from kernel.system.records import read_record
from kernel.system.stores.outputs import Order
from kernel.system.work import Engine

SHARD = 8192  # prompts; the most that a killed build encodes again
BUILDING, IDENTITY, CLEANED = "building", "identity.json", "cleaned.json"
# into a store: rows of a choice that is made again before that choice, and what counts shards after them
ORDER = Order((f"{BUILDING}/{IDENTITY}", "*", f"{BUILDING}/choice-*.json", f"{BUILDING}/{CLEANED}", RECORD))


def build_bank(settings: BankSettings, weights_folder: Path, out: Path, engine: Engine) -> BankRecord:
    """Builds the bank `out`, or goes on building it, or finds it whole, and returns its record.

    Raises UserError for bad files and settings before anything is encoded, and for what cannot be written.
    """
    read = count_prompts(settings.sources, settings.column)
    if settings.exclude is not None:
        scored_prompts(settings.exclude)
    weights = open_weights(weights_folder)
    build = identity(settings, weights)
    if (out / RECORD).is_file() and read_bank_record(out).get("build") == build:
        PromptBank.open(out, weights.sha256("clip"), weights.sha256("sentences"))
        print(f"{out}: this very bank, whole; nothing to do", file=sys.stderr)
        return read_bank_record(out)
    with writing(out, "free space or give --out another folder, then run again: finished shards are kept"):
        building = open_building(out, build)
        shards, dropped = clean_stage(settings, building)
        encode_shards(Encoding(building, SENTENCES, weights), shards, engine)
        select_shards(settings, building, building / IDENTITY, shards, weights, engine)
        count, excluded = told(settings, building, shards, dropped)
        clip_stage(building, shards, weights, engine)
        width = read_rows(rows_path(building, CLIP, shards[0])).shape[1]
        head = fit_head(*stream_grams(pairs(building, shards), width, EMBEDDING_DIMENSIONS), IMAGE_NOISE)
        write_bank(
            out,
            count=count,
            prompts=(chosen_prompts(building, shard) for shard in shards),
            features=(features for features, _ in pairs(building, shards)),
            embeddings=(embeddings for _, embeddings in pairs(building, shards)),
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
    return read_bank_record(out)


def identity(settings: BankSettings, weights: Weights) -> dict[str, Any]:
    return {
        "sources": [[path.name, file_sha256(path)] for path in settings.sources],
        "column": settings.column,
        "exclude": settings.exclude and file_sha256(settings.exclude),
        "near": settings.near,
        "models": [weights.sha256("clip"), weights.sha256("sentences")],
        "shard": [SHARD, BATCH, ROUND],
        "image_noise": IMAGE_NOISE,
    }


def open_building(out: Path, identity: dict[str, Any]) -> Path:
    """OUT/building, emptied when it belongs to another build. Raises UserError when `out` holds something else."""
    building = out / BUILDING
    record = building / IDENTITY
    if out.is_dir() and any(out.iterdir()) and not (record.is_file() or (out / RECORD).is_file()):
        raise UserError(f"{out}: holds files but no bank. Give --out an empty or a new folder")
    if not record.is_file() or read_record(record, dict[str, Any], "what a build is of", REMOVE) != identity:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        write_json(record, identity)
    else:
        print(f"{building}: going on with the last build", file=sys.stderr)
    return building


@dataclass(frozen=True)
class Cleaned:
    """cleaned.json: how many shards of prompts there are, and what was dropped by its reason."""

    shards: int
    dropped: dict[str, int]


def clean_stage(settings: BankSettings, building: Path) -> tuple[range, dict[str, int]]:
    """Files to shards of clean prompts, each text once; the shards' numbers and what was dropped."""
    done = building / CLEANED
    if not done.is_file():
        counts: Counter[str] = Counter({reason.value: 0 for reason in Reason})
        prompts = clean_prompts(read_prompts_from(settings.sources, settings.column), counts)
        number = -1
        for number, shard in enumerate(batches(prompts)):
            write_prompts(building, number, shard)
        if number < 0:
            raise UserError(
                f"{', '.join(map(str, settings.sources))}: no usable prompt ({dict(counts)}); expected at least one"
            )
        write_json(done, asdict(Cleaned(number + 1, dict(counts))))
    content = read_record(done, Cleaned, "what was cleaned", REMOVE)
    return range(content.shards), content.dropped


def batches(prompts: Iterator[str]) -> Iterator[list[str]]:
    while shard := list(islice(prompts, SHARD)):
        yield shard


def told(
    settings: BankSettings, building: Path, shards: range, dropped: dict[str, int]
) -> tuple[int, dict[str, Any] | None]:
    """How many prompts stay, and the record of what was excluded, None where nothing was to be. Fills in `dropped`."""
    counts: Counter[str] = Counter()
    for shard in shards:
        choice = read_choice(building, shard)
        counts.update(read=len(read_prompts(building, shard)), stays=len(choice.stays))
        counts.update(equal=choice.equal, near=choice.near)
    if not counts["stays"]:
        raise UserError(f"no prompt is left: every one is among the scored prompts of {settings.exclude}. Give others")
    dropped["near duplicate"] = counts["read"] - counts["stays"] - counts["equal"] - counts["near"]
    if settings.exclude is None:
        return counts["stays"], None
    name, sha256 = settings.exclude.name, file_sha256(settings.exclude)
    prompts = len(scored_prompts(settings.exclude))
    scored = {"name": name, "sha256": sha256, "prompts": prompts, "equal": counts["equal"], "near": counts["near"]}
    return counts["stays"], scored


def clip_stage(building: Path, shards: range, weights: Weights, engine: Engine) -> None:
    """CLIP's text features of the chosen prompts; says beforehand what that costs."""
    encoding = Encoding(building, CLIP, weights)
    count = sum(len(read_choice(building, shard).stays) for shard in encoding.missing(shards))
    if count:
        gflops = text_tower_gflops(model_without_weights(weights.model_folder("clip")))
        print(f"{text_tower_cost(count, gflops)} on {engine.title}", file=sys.stderr)
    encode_shards(encoding, shards, engine)


def text_tower_gflops(clip: Any) -> float:
    """Multiply-adds of one text: each parameter of the blocks once a token, as in open_clip's model_profile.csv.

    Source: ViT-g-14's text tower, 302 M parameters in its blocks x 77 tokens x 2 = 47 GFLOPs.
    """
    parameters = sum(parameter.numel() for parameter in clip.transformer.parameters())
    return 2 * parameters * clip.context_length / 1e9


def pairs(building: Path, shards: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and embeddings of the chosen prompts of each shard, float32 unit rows."""
    for shard in shards:
        stays = read_choice(building, shard).stays
        yield read_rows(rows_path(building, CLIP, shard)), read_rows(rows_path(building, SENTENCES, shard))[stays]
