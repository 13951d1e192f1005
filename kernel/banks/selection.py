"""Which prompts of a bank under way stay: no scored ones, and of near duplicates the first.

Shards are chosen ROUND at a time. Their rows are compared with what was kept of each earlier round, which an Engine
shares out, and what is near to none of it with each other, in order. A choice hangs on all before it, so all that is
made of a round is sealed by the build's identity and by every row up to its end: what a killed build has chosen stands,
and where rows were made anew, every choice from there on is made again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.cleaning import Reason, clean
from kernel.banks.encoding import (
    BATCH,
    SENTENCES,
    Choice,
    choice_path,
    read_choice,
    read_prompts,
    read_rows,
    rows_path,
    write_choice,
)
from kernel.banks.near_duplicates import NearDuplicates, drop_scored, near_any
from kernel.banks.prompt_files import read_prompts_from
from kernel.config import BankSettings
from kernel.errors import UserError
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device
from kernel.system.files import file_sha256, write_whole
from kernel.system.terminal.progress import progress_bar
from kernel.system.work import Ends, Engine, Outcome, Share, plain

ROUND = 32  # shards whose rows are held and compared together: 250 MB of a worker's memory
Guard = Callable[[list[str], np.ndarray], tuple[np.ndarray, dict[str, int]]]


def select_shards(
    settings: BankSettings, building: Path, identity: Path, shards: range, weights: Weights, engine: Engine
) -> None:
    """Chooses the prompts of each shard that stay; `identity` is the file that says what the build is of.

    Raises OSError when the disk refuses a file, UserError when no worker can compare.
    """
    guard: Guard | None = None
    seal = file_sha256(identity)
    with progress_bar(total=len(shards), desc="duplicates", unit="shard") as bar:
        for number, start in enumerate(range(0, len(shards), ROUND)):
            own = shards[start : start + ROUND]
            for shard in own:
                row_hash = file_sha256(rows_path(building, SENTENCES, shard))
                seal = hashlib.sha256(f"{seal} {row_hash}".encode()).hexdigest()
            if not all(is_chosen(building, shard, seal) for shard in own):
                guard = guard or scored_guard(settings, weights)
                choose_round(Round(building, number, own, seal, settings.near), guard, engine)
            bar.update(len(own))


def is_chosen(building: Path, shard: int, seal: str) -> bool:
    return choice_path(building, shard).is_file() and read_choice(building, shard).seal == seal


@dataclass(frozen=True)
class Round:
    """Work: the rows of some shards beside what was kept of the earlier rounds, by their numbers, and at last, as this
    round's own number, beside each other."""

    building: Path
    number: int
    shards: range
    seal: str
    near: float

    def load(self, device: Device) -> "Comparer":
        return Comparer(self, device)

    def folders(self) -> list[Path]:
        return [self.building]

    def inputs(self) -> list[Path]:
        return []

    def as_json(self) -> str:
        return plain(asdict(self) | {"shards": [self.shards.start, self.shards.stop]})

    @classmethod
    def from_json(cls, text: str) -> "Round":
        content: dict[str, Any] = json.loads(text)
        own = {"building": Path(content["building"]), "shards": range(*content["shards"])}
        return cls(**content | own)

    def earlier_shards(self, number: int) -> range:
        size = self.shards.start // self.number
        return range(number * size, (number + 1) * size)

    def answer_path(self, item: int) -> Path:
        """Of each row that the guard let stay whether it is near to what an earlier round kept; of the round's own
        number whether it stays."""
        return self.building / f"near-{self.number:05d}-{item:05d}-{self.seal[:16]}.safetensors"

    @property
    def guarded_path(self) -> Path:
        """Of each row whether the guard lets it stay."""
        return self.building / f"guarded-{self.number:05d}-{self.seal[:16]}.safetensors"

    def missing(self, items: range) -> list[int]:
        return [item for item in items if not self.answer_path(item).is_file()]


@dataclass(frozen=True)
class Comparer:
    """A Maker of a round's answers."""

    round: Round
    device: Device

    @cached_property
    def rows(self) -> np.ndarray:
        """Of the prompts that the guard let stay, float16: a row is compared as that."""
        paths = [rows_path(self.round.building, SENTENCES, shard) for shard in self.round.shards]
        every = np.concatenate([read_rows(path).astype(np.float16) for path in paths])
        return every[read_answers(self.round.guarded_path)]

    def make(self, item: int, share: Share) -> Iterator[int]:
        if item < self.round.number:
            answers = near_any(self.rows, self.kept(item), self.round.near, self.device)
        else:
            answers = np.ones(len(self.rows), dtype=bool)
            for earlier in range(self.round.number):
                answers &= ~read_answers(self.round.answer_path(earlier))
            answers[answers] = NearDuplicates(self.round.near, self.device).keep(self.rows[answers].astype(np.float32))
        write_answers(self.round.answer_path(item), answers)
        yield 1

    def kept(self, number: int) -> Iterator[np.ndarray]:
        """What an earlier round kept, shard by shard."""
        for shard in self.round.earlier_shards(number):
            rows = read_rows(rows_path(self.round.building, SENTENCES, shard))
            yield rows[read_choice(self.round.building, shard).stays].astype(np.float16)


def choose_round(own: Round, guard: Guard, engine: Engine) -> None:
    guarded, went = [], []
    for shard in own.shards:
        stays, counts = guard(read_prompts(own.building, shard), read_rows(rows_path(own.building, SENTENCES, shard)))
        guarded.append(stays)
        went.append(counts)
    every = np.concatenate(guarded)
    write_answers(own.guarded_path, every)
    for items in (range(own.number), range(own.number, own.number + 1)):  # the last reads the answers of the others
        compare(own, items, engine)
    every[every] = read_answers(own.answer_path(own.number))
    starts = np.cumsum([len(stays) for stays in guarded])[:-1]
    for shard, stays, counts in zip(own.shards, np.split(every, starts), went, strict=True):
        write_choice(own.building, shard, Choice(own.seal, np.flatnonzero(stays).tolist(), **counts))


def compare(own: Round, items: range, engine: Engine) -> None:
    missing, outcome = own.missing(items), Outcome()
    with closing(engine.work(own, dict.fromkeys(missing, 1), Ends(), outcome)) as steps:
        for _ in steps:
            pass
    if outcome.left:
        raise UserError(
            f"{own.building.parent}: near duplicates of shards {own.shards.start} to {own.shards.stop - 1} could not "
            f"be found ({outcome.why}). What is finished is kept: run again to go on there, or with --device cpu"
        )


def write_answers(path: Path, answers: np.ndarray) -> None:
    from safetensors.numpy import save

    write_whole(path, save({"answers": answers.astype(np.uint8)}))


def read_answers(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["answers"].astype(bool)


def scored_guard(settings: BankSettings, weights: Weights) -> Guard:
    """Says which prompts of a shard may stay, and how many went as equal and as near to a scored one."""
    if settings.exclude is None:
        return lambda prompts, rows: (np.ones(len(prompts), dtype=bool), {"equal": 0, "near": 0})
    scored = scored_prompts(settings.exclude)
    cleaned = {text for text in map(clean, scored) if not isinstance(text, Reason)}
    # also of those too long for a bank; few, so on the CPU, as this process never touches a GPU
    scored_rows = SentenceEncoder.load(weights, Device("cpu")).encode(scored, BATCH)
    return lambda prompts, rows: drop_scored(prompts, rows, cleaned, scored_rows)


def scored_prompts(path: Path) -> list[str]:
    scored = sorted({prompt for prompt in read_prompts_from([path]) if prompt.strip()})
    if not scored:
        raise UserError(f"{path}: no prompt, so nothing would be excluded. Give the scored ones")
    return scored
