"""Shares the items of a work out among devices, to one fresh process each.

Each worker takes the next item when it is done with one, so faster devices do more. What a worker had in hand when it
died, hung or gave up goes to the others.
"""

import json
import math
import queue
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from kernel.system.devices import Device, worker_environment
from kernel.system.processes import ending
from kernel.system.work import Ends, Outcome, Work, packed

TRIES = 2  # an item on which two workers ended is not given to a third
BARREN_ROUNDS = 3  # so often are workers started anew that die without having made anything


@dataclass(frozen=True)
class Processes:
    """An Engine of one process a device."""

    devices: list[Device]

    @property
    def title(self) -> str:
        return ", ".join(device.name for device in self.devices)

    def work(self, work: Work, items: Mapping[int, int], ends: Ends, outcome: Outcome) -> Generator[int]:
        return Dispatch(work, self.devices, items, ends, outcome).run()


class Dispatch:
    """One work over several processes: a thread for each, which gives it an item and reads what comes of it."""

    def __init__(
        self, work: Work, devices: list[Device], items: Mapping[int, int], ends: Ends, outcome: Outcome
    ) -> None:
        self.work, self.devices, self.items, self.ends = work, devices, items, ends
        self.outcome = outcome
        self.waiting = deque(items)
        self.in_hand = 0
        self.tries: Counter[int] = Counter()
        # what the threads have to tell; whoever reads it does so in his own
        self.told: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.living = 0
        self.over = False  # no time, or no disk: nothing more is begun
        self.hung = False
        self.died = False
        self.disk: OSError | None = None
        self.changed = threading.Condition()
        # two models on their way through the host at once may be more than it holds
        self.loading = threading.Lock()

    def run(self) -> Generator[int]:
        """Starts workers, and anew for what is left when the last one died: another process may well do it."""
        barren = 0
        while self.waiting and barren < BARREN_ROUNDS:
            self.died, unmade = False, len(self.waiting) + len(self.outcome.left)
            yield from self.round()
            if self.over or self.hung or not self.died:
                break
            barren = 0 if len(self.waiting) + len(self.outcome.left) < unmade else barren + 1
        if self.disk:
            raise self.disk
        self.outcome.left += self.waiting

    def round(self) -> Iterator[int]:
        wanted = self.devices[: len(self.waiting)]
        workers = [WorkerProcess(self.work, device, len(self.devices)) for device in wanted]
        self.living = len(workers)
        threads = [threading.Thread(target=self.drive, args=(worker,), daemon=True) for worker in workers]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                with suppress(queue.Empty):
                    yield self.told.get(timeout=min(1.0, max(self.ends.hangs.left(), 0.01)))
                if self.ends.hangs.left() <= 0 and not self.hung:
                    self.hung = True
                    for worker in workers:
                        worker.process.kill()
        finally:
            for worker in workers:
                worker.process.kill()
        while not self.told.empty():
            yield self.told.get()

    def drive(self, worker: "WorkerProcess") -> None:
        """Takes items to one worker until there are none, or it ends."""
        with self.loading:
            reply = worker.ask(self.told.put, load=True)
        while ("loaded" in reply or "made" in reply) and (item := self.take()) is not None:
            seconds = self.ends.begins.left()
            order = {"item": item, "images": self.share(item), "seconds": None if math.isinf(seconds) else seconds}
            reply = worker.ask(self.told.put, **order)
            self.put_down(item, reply)
        last = worker.ask(self.told.put)
        worker.process.wait()  # only then its memory is free for the next one
        with self.changed:
            if why := reply.get("given_up") or reply.get("died"):
                self.living -= 1
                self.died |= "died" in reply
                self.outcome.reasons.append(
                    f"the worker on {worker.device.name} hung and was ended" if self.hung else why
                )
                self.outcome.out_of_time |= self.hung
            self.outcome.library_warnings += worker.library_warnings
            self.outcome.host_bytes = max(self.outcome.host_bytes, last.get("host", 0))
            self.outcome.device_bytes = max(filter(None, (self.outcome.device_bytes, last.get("device"))), default=None)
        self.told.put(0)  # so that this one's end is noticed at once

    def take(self) -> int | None:
        """The next item; None when there is none, nor one in another worker's hands that might come back."""
        with self.changed:
            while not self.waiting and self.in_hand and not self.over:
                self.changed.wait()
            if self.over or not self.waiting:
                return None
            self.in_hand += 1
            return self.waiting.popleft()

    def put_down(self, item: int, reply: dict[str, Any]) -> None:
        """Gives back an item that was not made, unless that was the last try; ends all where time or disk is out."""
        with self.changed:
            self.in_hand -= 1
            self.tries[item] += 1
            if "made" not in reply:
                (self.waiting.appendleft if self.tries[item] < TRIES else self.outcome.left.append)(item)
            if "disk" in reply:
                self.disk = OSError(*reply["disk"])
            self.outcome.out_of_time |= "out_of_time" in reply
            self.over |= "out_of_time" in reply or "disk" in reply
            self.changed.notify_all()

    def share(self, item: int) -> int:
        """About how many images this worker still has before it."""
        with self.changed:
            own = self.items[item]
            waiting = sum(self.items[other] for other in self.waiting)
            return max(own, math.ceil((own + waiting) / max(self.living, 1)))


class WorkerProcess:
    """kernel/pipeline/workers/worker.py on one device, and what it answers."""

    def __init__(self, work: Work, device: Device, workers: int) -> None:
        self.device = device
        self.library_warnings: Counter[str] = Counter()
        environment, seen = worker_environment(device, workers)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kernel.pipeline.workers.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment,
        )  # fmt: skip
        self.send(work=packed(work), device=asdict(seen))

    def send(self, **order: Any) -> None:
        """Nothing is said to a process that has ended: that is seen where it should answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def ask(self, tell: Callable[[int], None], **order: Any) -> dict[str, Any]:
        """What comes of the order: of `steps`, `loaded`, or, of an order without an item, the most memory of
        `host` and `device`; `died` where the process has ended."""
        self.send(**order)
        assert self.process.stdout is not None
        with suppress(ValueError):  # a killed one may leave half a line
            for line in self.process.stdout:
                reply = json.loads(line)
                self.library_warnings.update(reply.pop("library_warnings", {}))
                if "progress" not in reply:
                    return reply
                tell(reply["progress"])
        return {"died": f"the worker on {self.device.name} ended ({ending(self.process.wait())})"}
