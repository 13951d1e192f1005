"""A real Ray cluster on this machine, in a process of its own: `python -m tests.cluster.nodes`.

Told over stdin, a JSON line each, answered likewise: {"add": CPUS} joins a machine, with "full" one whose memory Ray
takes for full from the start, {} ends all. Its first answer is the cluster's address; every answer names the machines'
raylets by process.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
# a machine that is gone is noticed within seconds, and nobody is told of it
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
FULL = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}


class Nodes:
    """The process, and what it is told; `site` is a folder with a sitecustomize.py for every process of the cluster."""

    def __init__(self, site: Path | None = None, within: tuple[str, ...] = ()) -> None:
        path = os.pathsep.join(str(own) for own in (site, ROOT) if own)
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.cluster.nodes"], cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **SETTINGS, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.read()

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.tell()
        self.process.communicate()

    def tell(self, **order: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def read(self) -> None:
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.address, self.raylets = told["address"], told["raylets"]

    def add(self, cpus: int = 1, full: bool = False) -> int:
        """The raylet of a machine that joins; on a full one Ray's memory monitor ends every worker."""
        self.tell(add=cpus, full=full)
        self.read()
        return self.raylets[-1]

    def kill(self, raylet: int) -> None:
        os.kill(raylet, signal.SIGKILL)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from ray.cluster_utils import Cluster

    settings = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **settings})
    raylets: list[int] = []

    def answer() -> None:
        print(json.dumps({"address": cluster.address, "raylets": raylets}), file=answers, flush=True)

    answer()
    for line in sys.stdin:
        told = json.loads(line)
        if not told:
            break
        os.environ.update(FULL if told["full"] else {})  # a raylet reads its settings there
        node = cluster.add_node(num_cpus=told["add"], **settings)
        for name in FULL:
            os.environ.pop(name, None)
        raylets.append(node.all_processes["raylet"][0].process.pid)
        answer()
    cluster.shutdown()


if __name__ == "__main__":
    main()
