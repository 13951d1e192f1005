"""Work in numbered items: all that whoever shares it out, among processes or machines, must know of it.

An item's output is written whole or not at all, under a name of its own, and what is there is not made again: so it
does not matter who makes an item, or how often it is begun.
"""

import json
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from kernel.errors import UserError, kind_and_line
from kernel.system.deadline import Deadline, OutOfTime
from kernel.system.devices import Device
from kernel.system.terminal.progress import STDERR


@dataclass(frozen=True)
class Share:
    """What a worker has before it: about so many images (or texts) of this work, and when it must be done."""

    images: int
    ends: Deadline


class CannotBeUsed(Exception):
    """A model fails on everything, or has no memory even for one image."""


class Maker(Protocol):
    """A model loaded on a device, and what it makes."""

    def make(self, item: int, share: Share) -> Iterator[int]:
        """Writes the item's outputs; yields how many images (or texts) more are done.

        Raises OutOfTime when there is no time for the item, CannotBeUsed when the model cannot make it here.
        """
        ...


class Work(Protocol):
    """What any process needs to know to make items; plain data, as JSON on its way to another one."""

    def load(self, device: Device) -> Maker: ...

    def folders(self) -> list[Path]:
        """Those that are written, or read what others made, that of the outputs first: on a cluster all machines must
        see the same ones."""
        ...

    def inputs(self) -> list[Path]:
        """Files of which others under the same name would silently give other outputs."""
        ...

    def as_json(self) -> str: ...

    @classmethod
    def from_json(cls, text: str) -> "Work": ...


@dataclass
class Outcome:
    """What came of a work: the items that nobody made, why workers gave up, whether the time was over, and the most
    memory that one worker's process took, in bytes: of the host, anonymous, and of its GPU; and how often libraries
    warned of what in workers' processes."""

    left: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    out_of_time: bool = False
    host_bytes: int = 0
    device_bytes: int | None = None
    library_warnings: Counter[str] = field(default_factory=Counter)

    @property
    def why(self) -> str:
        """The reasons in one line."""
        return "; ".join(dict.fromkeys(self.reasons))


@dataclass(frozen=True)
class Ends:
    """When nothing more is begun, and when a worker that is still at something is ended as hanging."""

    begins: Deadline = Deadline()
    hangs: Deadline = Deadline()


class Engine(Protocol):
    """Who makes the items: this process, one process a device, or the workers of a cluster."""

    @property
    def title(self) -> str:
        """Where it computes, for people."""
        ...

    @property
    def devices(self) -> list[Device]:
        """One for each worker. Raises UserError where there is none."""
        ...

    def work(self, work: Work, items: Mapping[int, int], ends: Ends, outcome: Outcome) -> Generator[int]:
        """Makes the items, {number: its images or texts}; yields how many of these more are done, and fills the
        `outcome`. Closed, it ends workers that are still at it.

        Raises OSError when the disk refuses an output; whatever else goes wrong with a worker is told by the outcome,
        and what goes wrong with whoever reads the steps is no part of the work.
        """
        ...


def packed(work: Work) -> dict[str, str]:
    """The work on its way to another process, as JSON."""
    kind = type(work)
    return {"kind": f"{kind.__module__}:{kind.__qualname__}", "content": work.as_json()}


def unpacked(order: Mapping[str, str]) -> Work:
    module, _, name = order["kind"].partition(":")
    return getattr(import_module(module), name).from_json(order["content"])


def steps(maker: Maker, item: int, share: Share) -> Iterator[dict[str, Any]]:
    """What comes of one item as plain data, the same for this process and for a worker's parent: `{"progress": images}`
    for each step, and last of all how it ended: `made`, `out_of_time`, `disk` with an OSError's number and words, or
    `given_up` with the reason.

    Only what the maker itself raises is told: whoever reads the steps does so outside, and fails by himself.
    """
    try:
        for images in maker.make(item, share):
            yield {"progress": images}
    except OutOfTime:
        yield {"out_of_time": True}
    except OSError as error:
        yield {"disk": [error.errno, error.strerror or str(error)]}
    except Exception as error:
        yield {"given_up": reason_of(error)}
    else:
        yield {"made": item}


def reason_of(error: Exception) -> str:
    """One line for the record; what nobody foresaw is told whole on stderr."""
    if not isinstance(error, UserError | CannotBeUsed):
        traceback.print_exception(error, file=STDERR)
    return kind_and_line(error)


def plain(content: Any) -> str:
    """JSON of what dataclasses hold. Numbers keep every bit: a float32 is a float64 too, which JSON writes exactly."""
    return json.dumps(content, default=str)
