"""A bank under way, OUT/building: shards of prompts, which of them are chosen, and their rows of either model.

Every file is whole or not there, so a killed build goes on with those that are missing. An Engine shares the shards
out; who makes one reads its prompts there and writes its rows.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kernel.errors import UserError
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device
from kernel.system.files import write_json, write_whole
from kernel.system.records import read_record
from kernel.system.terminal.progress import progress_bar
from kernel.system.work import Ends, Engine, Outcome, Share, plain

SENTENCES, CLIP = "sentences", "clip"
REMOVE = "Remove the folder in which it lies and run again: the build begins anew"


@dataclass(frozen=True)
class Choice:
    """The places of a shard's prompts that stay, and how many went as `equal` or `near` to a scored prompt.

    `seal` is a sha256 of all that the choice was made of: another one means that it must be made again.
    """

    seal: str
    stays: list[int]
    equal: int
    near: int


def write_prompts(building: Path, shard: int, prompts: list[str]) -> None:
    write_json(building / f"{shard:05d}.json", prompts)


def read_prompts(building: Path, shard: int) -> list[str]:
    return read_record(building / f"{shard:05d}.json", list[str], "a shard of prompts", REMOVE)


def chosen_prompts(building: Path, shard: int) -> list[str]:
    prompts = read_prompts(building, shard)
    return [prompts[place] for place in read_choice(building, shard).stays]


def choice_path(building: Path, shard: int) -> Path:
    return building / f"choice-{shard:05d}.json"


def write_choice(building: Path, shard: int, choice: Choice) -> None:
    """The shard's CLIP rows go first: they are of the prompts that were chosen before."""
    rows_path(building, CLIP, shard).unlink(missing_ok=True)
    write_json(choice_path(building, shard), asdict(choice))


def read_choice(building: Path, shard: int) -> Choice:
    return read_record(choice_path(building, shard), Choice, "a choice of a shard's prompts", REMOVE)


def rows_path(building: Path, model: str, shard: int) -> Path:
    return building / f"{model}-{shard:05d}.safetensors"


def write_rows(path: Path, rows: np.ndarray) -> None:
    from safetensors.numpy import save

    write_whole(path, save({"rows": rows.astype(np.float16)}))


def read_rows(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(path)["rows"].astype(np.float32)


BATCH = 256
Encode = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Encoding:
    """Work: the shards that lie in `building` through one model of the weights, each as its rows."""

    building: Path
    model: str
    weights: Weights

    def load(self, device: Device) -> "Encoder":
        return Encoder(self, self.encode_on(device))

    def encode_on(self, device: Device) -> Encode:
        if self.model == SENTENCES:
            encoder = SentenceEncoder.load(self.weights, device)
            return lambda prompts: encoder.encode(prompts, BATCH)
        clip = ClipEncoder.load(self.weights, device)
        none = np.zeros((0, clip.model.text_projection.shape[-1]), dtype=np.float32)
        return lambda prompts: clip.encode_texts(prompts, BATCH) if prompts else none

    def folders(self) -> list[Path]:
        return [self.building]

    def inputs(self) -> list[Path]:
        return [self.weights.manifest]

    def as_json(self) -> str:
        return plain(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Encoding":
        content = json.loads(text)
        return cls(Path(content["building"]), content["model"], Weights.from_plain(content["weights"]))

    def prompts(self, shard: int) -> list[str]:
        """MiniLM reads all prompts of a shard, CLIP those that are chosen."""
        return (read_prompts if self.model == SENTENCES else chosen_prompts)(self.building, shard)

    def missing(self, shards: range) -> list[int]:
        return [shard for shard in shards if not rows_path(self.building, self.model, shard).is_file()]


@dataclass(frozen=True)
class Encoder:
    """A Maker of the rows of shards."""

    encoding: Encoding
    encode: Encode

    def make(self, item: int, share: Share) -> Iterator[int]:
        path = rows_path(self.encoding.building, self.encoding.model, item)
        write_rows(path, self.encode(self.encoding.prompts(item)))
        yield 1


def encode_shards(encoding: Encoding, shards: range, engine: Engine) -> None:
    """Makes the shards that are missing. Raises OSError when the disk refuses one, UserError when no worker can."""
    missing, outcome = encoding.missing(shards), Outcome()
    working = closing(engine.work(encoding, dict.fromkeys(missing, 1), Ends(), outcome))
    title, done = f"bank {encoding.model}", len(shards) - len(missing)
    bar = progress_bar(initial=done, total=len(shards), desc=title, unit="shard", disable=not missing)
    with working as steps, bar:
        for count in steps:
            bar.update(count)
    if outcome.left:
        raise UserError(
            f"{encoding.building.parent}: {len(outcome.left)} shards of {encoding.model} rows could not be made "
            f"({outcome.why}). Finished shards are kept: run again to go on there, or with --device cpu"
        )
    if outcome.reasons:
        print(f"{outcome.why}: what was in hand there was made by others", file=sys.stderr)
