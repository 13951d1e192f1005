"""Work shared out among the machines of a Ray cluster, which only hands out the items' numbers.

On each GPU that the cluster has an actor loads the model once and makes item after item, and writes its outputs where
every machine sees them; a cluster without GPUs has one actor a machine. Kept of the rules of this machine's processes:
nothing begins that would not end in time, what hangs is ended, what a lost worker had in hand goes to others. Machines
may be lost and join at any time. Not kept: models load at the same time, as the machines' memories are many.
"""

import math
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernel.errors import UserError, first_line
from kernel.pipeline.workers.sight import Sight, seen_by_command
from kernel.system import files
from kernel.system.deadline import Deadline
from kernel.system.devices import Device, looked_at
from kernel.system.memory import PeakMemory
from kernel.system.offline import stay_offline
from kernel.system.terminal.library_warnings import counted_warnings
from kernel.system.work import Ends, Outcome, Share, Work, packed, reason_of, steps, unpacked

TRIES = 3  # an item on which so many workers ended is left; machines that are taken away count too
BARREN = 3  # so many actors in a row may end on one device without having made anything
LOOK_SECONDS = 1.0  # between looks for machines that joined
WAIT_SECONDS = 60.0  # for a first machine to join
NO_MACHINE = "the cluster has no machine with a GPU or CPU to work on"


@dataclass
class RayCluster:
    """An Engine of a cluster's GPUs, or of its machines' CPUs where `device` is cpu or no machine has a GPU. Asked for
    its `devices`, it works from then on with those of their kinds alone."""

    address: str
    device: str
    found: list[Device] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"the cluster at {self.address}"

    def slots(self) -> "dict[str, Slot]":
        """What can work now, by a name: GPUs where there are any, but none where it began on CPUs."""
        began_on_cpus = bool(self.found) and not self.found[0].is_gpu
        return dict(slots_of("cpu" if began_on_cpus else self.device))

    @property
    def devices(self) -> list[Device]:
        ends = Deadline(time.monotonic() + WAIT_SECONDS)
        while not self.found:
            whys: list[str] = []
            self.found = devices_of(self.slots().values(), ends, whys)
            if not self.found and ends.left() <= 0:
                why = "; ".join(dict.fromkeys(whys)) or NO_MACHINE
                raise UserError(
                    f"{self.title}: {why}. Mend that, or start Ray on a machine ('ray start', docs/cluster.md)"
                )
            if not self.found:
                time.sleep(LOOK_SECONDS)
        return self.found

    def work(self, work: Work, items: Mapping[int, int], ends: Ends, outcome: Outcome) -> Generator[int]:
        if items:
            yield from Dispatch(self, work, items, ends, outcome).run()


@dataclass
class Slot:
    """A GPU of a machine, or its CPUs, with the actor there and the item that it has in hand, None while it loads."""

    node: str
    address: str
    resources: dict[str, float]
    actor: Any = None
    item: int | None = None
    barren: int = 0
    abandoned: bool = False

    @property
    def device(self) -> Device:
        return Device("cuda:0" if "num_gpus" in self.resources else "cpu")


@dataclass
class Dispatch:
    """One work over a cluster."""

    cluster: RayCluster
    made_of: Work
    items: Mapping[int, int]
    ends: Ends
    outcome: Outcome
    slots: dict[str, Slot] = field(default_factory=dict)
    answers: dict[Any, Slot] = field(default_factory=dict)
    tries: Counter[int] = field(default_factory=Counter)
    over: bool = False

    def run(self) -> Generator[int]:
        import ray

        self.waiting = deque(self.items)
        self.actor = ray.remote(max_restarts=0, max_concurrency=1)(Actor)
        self.order = ray.put(packed(self.made_of))  # once for all: of millions of pictures it takes a while
        with seen_by_command(self.made_of, [own.title for own in self.cluster.found]) as self.sight:
            yield from self.over_all()
        self.outcome.left += [*self.waiting, *(own.item for own in self.busy() if own.item is not None)]

    def over_all(self) -> Generator[int]:
        import ray

        looked, seen = -math.inf, time.monotonic()
        try:
            while (self.waiting and not self.over) or self.busy():
                if time.monotonic() - looked >= LOOK_SECONDS or not self.answers:
                    self.fill_slots()
                    looked = time.monotonic()
                if self.answers:
                    timeout = min(LOOK_SECONDS, max(self.ends.hangs.left(), 0.01))
                    answered, _ = ray.wait(list(self.answers), timeout=timeout)
                    for reference in answered:
                        yield from self.take(reference)
                    seen = time.monotonic()
                elif self.slots and all(slot.abandoned for slot in self.slots.values()):
                    break
                elif time.monotonic() - seen > WAIT_SECONDS:
                    self.outcome.reasons.append(NO_MACHINE)
                    break
                else:
                    time.sleep(LOOK_SECONDS)
                if self.ends.hangs.left() <= 0:
                    self.outcome.reasons += [f"the worker on {own.address} hung and was ended" for own in self.busy()]
                    self.outcome.out_of_time = True
                    break
        finally:
            for slot in self.slots.values():
                self.end(slot)

    def busy(self) -> list[Slot]:
        return [slot for slot in self.answers.values() if slot.item is not None]

    def fill_slots(self) -> None:
        """An actor on every device that has none, as far as there are items for them."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        found = self.cluster.slots()
        for name in [own for own in self.slots if own not in found and self.slots[own].actor is None]:
            del self.slots[name]
        for name, slot in found.items():
            self.slots.setdefault(name, slot)
        there = [self.slots[name] for name in found]
        free = [slot for slot in there if slot.actor is None and not slot.abandoned]
        loading = sum(slot.item is None for slot in self.answers.values())
        for slot in free[: 0 if self.over else max(0, len(self.waiting) - loading)]:
            strategy = NodeAffinitySchedulingStrategy(slot.node, soft=False)
            made = self.actor.options(**slot.resources, scheduling_strategy=strategy)
            slot.actor = made.remote(self.order, asdict(slot.device), asdict(self.sight))
            self.answers[slot.actor.load.remote()] = slot

    def take(self, reference: Any) -> Iterator[int]:
        """What an actor answered, and the next item for it."""
        import ray

        slot = self.answers.pop(reference)
        item, slot.item = slot.item, None
        try:
            reply = ray.get(reference)
        except ray.exceptions.RayError as error:
            reply = {"died": f"the worker on {slot.address} ended ({ending_of(error)})"}
        self.outcome.library_warnings.update(reply.get("library_warnings", {}))
        self.outcome.host_bytes = max(self.outcome.host_bytes, reply.get("host", 0))
        memory = (self.outcome.device_bytes, reply.get("device"))
        self.outcome.device_bytes = max(filter(None, memory), default=None)
        if "made" in reply and item is not None:
            slot.barren = 0
            yield self.items[item]
        elif item is not None:
            self.tries[item] += 1
            (self.waiting.appendleft if self.tries[item] < TRIES else self.outcome.left.append)(item)
        if "disk" in reply:
            raise OSError(*reply["disk"])
        if "out_of_time" in reply:
            self.outcome.out_of_time = self.over = True
        if why := reply.get("given_up") or reply.get("died"):
            self.outcome.reasons.append(why)
            slot.barren += 1
            slot.abandoned = slot.barren == BARREN
        if why or not self.waiting or self.over:
            self.end(slot)
            return
        slot.item = self.waiting.popleft()
        seconds = self.ends.begins.left()
        order = (slot.item, self.share(slot.item), None if math.isinf(seconds) else seconds)
        self.answers[slot.actor.make.remote(*order)] = slot

    def share(self, item: int) -> int:
        """About how many images one worker still has before it."""
        left = self.items[item] + sum(self.items[other] for other in self.waiting)
        return max(self.items[item], math.ceil(left / max(len(self.answers) + 1, 1)))

    def end(self, slot: Slot) -> None:
        import ray

        if slot.actor is not None:
            with suppress(ray.exceptions.RayError):
                ray.kill(slot.actor)
            slot.actor = None


def slots_of(device: str) -> Iterator[tuple[str, Slot]]:
    """What the machines that are there now can compute with, by a name."""
    import ray

    machines = [own for own in ray.nodes() if own["Alive"]]
    gpus = device != "cpu" and any(own["Resources"].get("GPU") for own in machines)
    for own in machines:
        node, address, cpus = own["NodeID"], own["NodeManagerAddress"], int(own["Resources"].get("CPU", 0))
        for number in range(int(own["Resources"].get("GPU", 0)) if gpus else 0):
            yield f"{node} {number}", Slot(node, address, {"num_gpus": 1, "num_cpus": 0})
        if not gpus and cpus:
            yield node, Slot(node, address, {"num_cpus": cpus})


def devices_of(slots: Iterable[Slot], ends: Deadline, whys: list[str]) -> list[Device]:
    """Their titles and memory, as each of them says until the deadline; of those that do not, `whys` get the reason."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = []
    for slot in slots:
        strategy = NodeAffinitySchedulingStrategy(slot.node, soft=False)
        needs = slot.resources if slot.device.is_gpu else {"num_cpus": 0}  # a CPU may be asked while others use it
        ask = ray.remote(max_retries=0)(device_here).options(**needs, scheduling_strategy=strategy)
        asked.append((slot, ask.remote(slot.device.name)))
    found = []
    for slot, reference in asked:
        try:
            title, memory = ray.get(reference, timeout=max(ends.left(), LOOK_SECONDS))
            found.append(Device(slot.device.name, title, memory, slot.address))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference)
            whys.append(f"{slot.address} gave no answer: others may work on its {slot.device.name}")
        except ray.exceptions.RayError as error:
            whys.append(f"{slot.address}: {ending_of(error)}")
    return found


def device_here(name: str) -> tuple[str, int]:
    """In a process that Ray started."""
    stay_offline()
    return looked_at(name)


def ending_of(error: Exception) -> str:
    """Ray's own words as far as they go on a line, without those that every error of its begins with."""
    if "low on memory" in str(error):  # a page of advice on Ray's settings
        return "Ray's memory monitor ended it, as the machine runs low on memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("Task was killed", "The actor died", "The actor is dead"))]
    return first_line(Exception((told or lines or [type(error).__name__])[-1]))


class Actor:
    """One device's worker, in a process that Ray started on its machine; answers as workers/worker.py does."""

    def __init__(self, work: dict[str, str], device: dict[str, Any], sight: dict[str, Any]) -> None:
        stay_offline()
        files.write_as(f"{socket.gethostname()}-{os.getpid()}")
        self.work, self.device, self.sight = work, Device(**device), sight

    def load(self) -> dict[str, Any]:
        return self.measured(self.loaded)

    def loaded(self) -> dict[str, Any]:
        try:
            sight, title = Sight(**self.sight), ""
            if sight.titles:
                title, _ = looked_at(self.device.name)
            if why := sight.differs(title):
                return {"given_up": why}
            files.write_while(Path(sight.marks[0]))
            self.maker = unpacked(self.work).load(self.device)
        except Exception as error:
            return {"given_up": reason_of(error)}
        return {"loaded": True}

    def make(self, item: int, images: int, seconds: float | None) -> dict[str, Any]:
        ends = Deadline() if seconds is None else Deadline(time.monotonic() + seconds)
        return self.measured(lambda: list(steps(self.maker, item, Share(images, ends)))[-1])

    def measured(self, does: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Its answer, with what libraries warned of meanwhile and the most memory that it took."""
        with PeakMemory(self.device.name) as memory, counted_warnings() as counted:
            reply = does()
        return {**reply, "library_warnings": dict(counted), "host": memory.host, "device": memory.device}
