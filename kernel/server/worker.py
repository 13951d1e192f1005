"""The one process that holds the models: makes the answers that its parent asks for, one JSON line each way.

describing.py starts it. It ends when its parent does, and then leaves no uploaded picture behind.
"""

import json
import os
import queue
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from kernel.errors import UserError
from kernel.server.resident import Cancelled, Resident
from kernel.system.devices import find_device
from kernel.system.memory import long_lived
from kernel.system.offline import refuse_network
from kernel.system.terminal.library_warnings import counted_warnings
from kernel.system.work import reason_of


class Orders:
    """What the parent says: what to describe, in turn, and the numbers of what nobody waits for any more."""

    def __init__(self, lines: TextIO, scratch: Path) -> None:
        self.lines, self.scratch = lines, scratch
        self.waiting, self.cancelled = queue.SimpleQueue[dict[str, Any]](), set[int]()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        for line in self.lines:
            order = json.loads(line)
            if "cancel" in order:
                self.cancelled.add(order["cancel"])
            else:
                self.waiting.put(order)
        shutil.rmtree(self.scratch, ignore_errors=True)
        os._exit(1)  # the parent is gone: whatever this process is at, nobody waits for it


def main(scratch: Path) -> int:
    """Answers until its parent ends; then the folder `scratch`, in which the uploads lie, is removed."""
    refuse_network()
    # whatever a library prints must not stand among the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders = Orders(sys.stdin, scratch)
    first = orders.waiting.get()
    models: Resident | None = None
    while True:
        order = orders.waiting.get()
        answer(answers, said="loading the models" if models is None else "", made=0, of=0)
        try:
            if models is None:
                device, features = find_device(first["device"]), Path(first["features"])
                models = Resident(Path(first["weights"]), device, features, first["one_at_a_time"])
            with counted_warnings(), long_lived():
                answer(answers, records=records_of(models, order, orders, answers))
        except UserError as error:  # without models the device or the weights are to blame, and no request
            answer(answers, **{"unusable" if models is None else "refused": str(error)})
        except Cancelled:
            answer(answers, cancelled=True)
        except Exception as error:  # whatever a model raises: the next request may well go
            answer(answers, failed=reason_of(error))


def records_of(models: Resident, order: dict[str, Any], orders: Orders, answers: TextIO) -> list[dict[str, Any]]:
    def tell(said: str, made: int, of: int) -> None:
        answer(answers, said=said, made=made, of=of)

    def cancelled() -> bool:
        return order["number"] in orders.cancelled

    return models.describe(order["images"], order["asked"], Path(order["scratch"]), tell, cancelled)


def answer(answers: TextIO, **content: Any) -> None:
    with suppress(BrokenPipeError):  # the parent is gone: who reads its orders ends this process
        print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
