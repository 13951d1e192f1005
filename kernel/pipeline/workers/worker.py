"""One device's process: loads one work's model and makes the items that its parent sends, one JSON line each way.

processes.py starts it fresh, never forked, so that whatever happens to a device happens to it alone. It ends when its
parent does.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any, TextIO

from kernel.system.deadline import Deadline
from kernel.system.devices import Device
from kernel.system.memory import PeakMemory
from kernel.system.offline import refuse_network
from kernel.system.terminal.library_warnings import counted_warnings
from kernel.system.work import Share, Work, reason_of, steps, unpacked

Orders = queue.SimpleQueue[dict[str, Any]]


def main() -> int:
    refuse_network()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the parent decides
    # whatever a library prints must not stand among the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders: Orders = queue.SimpleQueue()
    threading.Thread(target=read_orders, args=(sys.stdin, orders), daemon=True).start()
    first = orders.get()
    work, device = unpacked(first["work"]), Device(**first["device"])
    with PeakMemory(device.name) as memory, counted_warnings() as counted:
        serve(work, device, orders, answers, counted)
    answer(answers, host=memory.host, device=memory.device)
    return 0


def serve(work: Work, device: Device, orders: Orders, answers: TextIO, counted: Counter[str]) -> None:
    """Loads when told to, then makes items until an order has none; each answer but progress carries what libraries
    warned of since the last."""
    import torch  # noqa: F401 - takes seconds, and several workers may do it at once; loading comes one after the other

    orders.get()
    try:
        maker = work.load(device)
    except Exception as error:
        return answer(answers, given_up=reason_of(error), library_warnings=taken(counted))
    answer(answers, loaded=True, library_warnings=taken(counted))
    while "item" in (order := orders.get()):
        ends = Deadline() if order["seconds"] is None else Deadline(time.monotonic() + order["seconds"])
        for step in steps(maker, order["item"], Share(order["images"], ends)):
            answer(answers, **step, **({} if "progress" in step else {"library_warnings": taken(counted)}))
        if "disk" in step or "given_up" in step:
            return


def taken(counted: Counter[str]) -> dict[str, int]:
    """What was counted since this was asked last."""
    found = dict(counted)
    counted.clear()
    return found


def read_orders(lines: TextIO, orders: Orders) -> None:
    for line in lines:
        orders.put(json.loads(line))
    os._exit(1)  # the parent is gone: whatever this process is at, nobody waits for it


def answer(answers: TextIO, **content: Any) -> None:
    print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    sys.exit(main())
