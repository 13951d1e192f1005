"""A bank's shards through one model: here where a CPU is all there is, else in one fresh process a device.

Each worker takes the next shard when it is done with one, so faster devices do more. It is this very module, started
anew, that reads one JSON line a shard and answers with one. It ends when its parent does.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.shards import SENTENCES, chosen_prompts, read_prompts, rows_path, write_rows
from kernel.errors import UserError, kind_and_line
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device, worker_environment
from kernel.system.offline import refuse_network
from kernel.system.processes import ending

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

    def as_json(self) -> str:
        weights = [str(self.weights.folder), self.weights.models, self.weights.captioners]
        return json.dumps({"building": str(self.building), "model": self.model, "weights": weights})

    @classmethod
    def from_json(cls, text: str) -> "Encoding":
        content = json.loads(text)
        folder, models, captioners = content["weights"]
        return cls(Path(content["building"]), content["model"], Weights(Path(folder), models, captioners))


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
            given = Round(encoding, deque(missing), bar.update)
            given.run(devices)
            left = encoding.missing(shards)
            if given.disk:
                raise given.disk
            if len(left) == len(missing):
                raise UserError(
                    f"{encoding.building.parent}: {len(left)} shards of {encoding.model} rows could not be made "
                    f"({'; '.join(given.reasons)}). Finished shards are kept: run again to go on there, or with "
                    "--device cpu"
                )
            if left:
                print(f"{'; '.join(given.reasons)}; {len(left)} shards are begun again", file=sys.stderr)
            missing = left


@dataclass
class Round:
    """One process a device, until every shard was given out once. What a worker that ended had in hand stays missing;
    `reasons` says how it ended."""

    encoding: Encoding
    waiting: deque[int]
    progress: Callable[[], Any]
    reasons: list[str] = field(default_factory=list)
    disk: OSError | None = None

    def run(self, devices: list[Device]) -> None:
        devices = devices[: len(self.waiting)]
        workers = [(device, start(device, len(devices))) for device in devices]
        threads = [threading.Thread(target=self.drive, args=worker, daemon=True) for worker in workers]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for _, process in workers:
                process.kill()
                process.communicate()

    def drive(self, device: Device, process: subprocess.Popen[str]) -> None:
        """Gives shard after shard to one worker until there are none, or it ends."""
        assert process.stdin is not None and process.stdout is not None
        try:
            print(self.encoding.as_json(), file=process.stdin, flush=True)
            while self.waiting and not self.disk:
                print(self.waiting.popleft(), file=process.stdin, flush=True)
                answer = json.loads(process.stdout.readline())
                if "disk" in answer:
                    self.disk = OSError(*answer["disk"])
                if "failed" in answer:
                    self.reasons.append(answer["failed"])
                    break
                self.progress()
        except IndexError:
            pass  # another worker took the last shard in between
        except (OSError, ValueError):  # nobody reads, or the answer is empty
            self.reasons.append(f"the worker on {device.name} ended ({ending(process.wait())})")


def start(device: Device, workers: int) -> subprocess.Popen[str]:
    environment, seen = worker_environment(device, workers)
    return subprocess.Popen(
        [sys.executable, "-m", "kernel.banks.encoding", seen.name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment,
    )  # fmt: skip


def main(device_name: str) -> int:
    refuse_network()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the parent decides
    # whatever a library prints must not stand among the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read_lines, args=(lines,), daemon=True).start()
    encoding = Encoding.from_json(lines.get())
    encode: Encode | None = None
    while True:
        shard = int(lines.get())
        answer: dict[str, Any] = {"made": shard}
        try:
            encode = encode or encoding.load(Device(device_name))
            rows = encode(encoding.prompts(shard))
        except Exception as error:
            answer = {"failed": kind_and_line(error)}
        else:
            try:
                encoding.write(shard, rows)
            except OSError as error:
                answer = {"disk": [error.errno, error.strerror or str(error)]}
        print(json.dumps(answer), file=answers, flush=True)


def read_lines(lines: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # there is no more to do, or the parent is gone: whatever this process is at, nobody waits for it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
