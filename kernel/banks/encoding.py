"""A bank under way, OUT/building: shards of prompts, which of them are chosen, and their rows of either model.

Every file is whole or not there, so a killed build goes on with those that are missing. Shards go through one model:
here where a CPU is all there is, else in one fresh process a device. Each worker takes the next shard when it is done
with one, so faster devices do more. It answers with the shard's rows, or with why it has none, and ends when its parent
does.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np

from kernel.errors import UserError, kind_and_line
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device, worker_environment
from kernel.system.files import write_json, write_whole
from kernel.system.offline import refuse_network
from kernel.system.processes import ending
from kernel.system.records import read_record

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
    """What every worker must know: where the shards lie, and which model of which weights they go through."""

    building: Path
    model: str
    weights: Weights

    def load(self, device: Device) -> Encode:
        if self.model == SENTENCES:
            encoder = SentenceEncoder.load(self.weights, device)
            return lambda prompts: encoder.encode(prompts, BATCH)
        clip = ClipEncoder.load(self.weights, device)
        none = np.zeros((0, clip.model.text_projection.shape[-1]), dtype=np.float32)
        return lambda prompts: clip.encode_texts(prompts, BATCH) if prompts else none

    def prompts(self, shard: int) -> list[str]:
        """MiniLM reads all prompts of a shard, CLIP those that are chosen."""
        return (read_prompts if self.model == SENTENCES else chosen_prompts)(self.building, shard)

    def write(self, shard: int, rows: np.ndarray) -> None:
        write_rows(rows_path(self.building, self.model, shard), rows)

    def missing(self, shards: range) -> list[int]:
        return [shard for shard in shards if not rows_path(self.building, self.model, shard).is_file()]


def encode_shards(encoding: Encoding, shards: range, devices: list[Device]) -> None:
    """Makes the shards that are missing. Raises OSError when the disk refuses one, UserError when no worker can."""
    from tqdm.auto import tqdm

    missing = encoding.missing(shards)
    with tqdm(initial=len(shards) - len(missing), total=len(shards), desc=encoding.model, unit="shard",
              file=sys.stderr, disable=not missing) as bar:  # fmt: skip
        if len(devices) == 1 and not devices[0].is_gpu and missing:
            encode = encoding.load(devices[0])
            for shard in missing:
                encoding.write(shard, encode(encoding.prompts(shard)))
                bar.update()
            return
        while missing:
            reasons = "; ".join(Round(encoding, deque(missing), bar.update).run(devices[: len(missing)]))
            left = encoding.missing(shards)
            if len(left) == len(missing):
                raise UserError(
                    f"{encoding.building.parent}: {len(left)} shards of {encoding.model} rows could not be made "
                    f"({reasons}). Finished shards are kept: run again to go on there, or with --device cpu"
                )
            if left:
                print(f"{reasons}; {len(left)} shards are begun again", file=sys.stderr)
            missing = left


@dataclass
class Round:
    """One process a device, until every shard was given out once; what one that ended had in hand stays missing."""

    encoding: Encoding
    waiting: deque[int]
    progress: Callable[[], Any]
    processes: list[SpawnProcess] = field(default_factory=list)

    def run(self, devices: list[Device]) -> list[str]:
        """How those workers ended that did so before they should. Raises OSError when the disk refuses a shard."""
        with ThreadPoolExecutor(len(devices)) as pool:
            try:
                ends = [pool.submit(self.drive, device, len(devices)) for device in devices]
                return [said for end in ends if (said := end.result())]
            finally:
                self.waiting.clear()
                for process in self.processes:
                    process.kill()

    def drive(self, device: Device, workers: int) -> str | None:
        """Gives shard after shard to a worker until there are none, or it ends: then says how."""
        environment, seen = worker_environment(device, workers)
        fresh = get_context("spawn")  # as CUDA demands it
        ours, its = fresh.Pipe()
        process = fresh.Process(target=work, args=(its, self.encoding, seen, environment), daemon=True)
        process.start()
        its.close()  # so that its end shows in ours
        self.processes.append(process)
        with ours, suppress(IndexError):  # no shard is waiting
            while True:
                shard = self.waiting.popleft()
                try:
                    ours.send(shard)
                    made = ours.recv()
                except (OSError, EOFError):
                    process.join()
                    return f"the worker on {device.name} ended ({ending(process.exitcode or 0)})"
                if isinstance(made, str):
                    return made
                self.encoding.write(shard, made)
                self.progress()
        return None


def work(parent: Connection, encoding: Encoding, device: Device, environment: dict[str, str]) -> None:
    """In a process of its own: rows of the shards whose numbers come, or why there are none."""
    os.environ.update(environment)  # before anything imports torch
    refuse_network()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the parent decides
    threading.Thread(target=end_with_parent, daemon=True).start()
    encode: Encode | None = None
    while True:
        shard = parent.recv()
        try:
            encode = encode or encoding.load(device)
            made: np.ndarray | str = encode(encoding.prompts(shard))
        except Exception as error:
            made = kind_and_line(error)
        parent.send(made)


def end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)  # whatever this process is at, nobody waits for it
