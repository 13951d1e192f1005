"""Finds a Ray cluster, first in a process of its own: where none answers, Ray's own wait takes five minutes and ends
the process that waits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from kernel.errors import UserError, first_line
from kernel.system.processes import child_environment

ANSWER_SECONDS = 25.0
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
START = "Start one with 'ray start --head' or 'ray up' (docs/cluster.md), or give its address"


@contextmanager
def joined(address: str | None) -> Iterator[str]:
    """For the block this process is one of the cluster at `address`, or of the one that RAY_ADDRESS names or that runs
    here; gives its address. Nothing may be printed to stdout meanwhile: what Ray says there of its machines, a lost
    one's whole log among it, is for its own developers.

    Raises UserError where Ray is not installed, where no cluster answers, and where it runs another Ray or Python.
    """
    require_ray()
    import ray

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            yield connect(address)
        finally:
            ray.shutdown()


def connect(address: str | None) -> str:
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    os.environ.update(QUIET)
    if address != "auto":
        os.environ["RAY_ADDRESS"] = address  # Ray takes this one before any that it is given
    require_answer(address)
    join(address)
    return address


def require_ray() -> None:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--engine ray: Ray cannot be imported ({first_line(error)}). Run "
            "pip install 'image-to-prompts-kernel[cluster]', or leave --engine out to work on this machine"
        ) from error


def require_answer(address: str) -> None:
    """Raises UserError unless a process of its own has joined the cluster within ANSWER_SECONDS."""
    command = [sys.executable, "-m", "kernel.pipeline.workers.ray_connection", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=child_environment(), timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"--address {address}: no Ray cluster answers within {ANSWER_SECONDS:.0f} s. {START}") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    said = json.loads(answers[-1])["said"] if answers else f"the process that asked ended with {done.returncode}"
    if "ersion mismatch" in said:
        raise UserError(
            f"--address {address}: the cluster runs another Ray or Python than this machine ({said}). Install the same "
            "versions on all of its machines and here"
        )
    if said:
        raise UserError(f"--address {address}: no Ray cluster can be joined there ({said}). {START}")


def join(address: str) -> None:
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False)


def main(address: str) -> int:
    """Prints as JSON what Ray says where the cluster cannot be joined, nothing where it can."""
    said = ""
    try:
        join(address)
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split()) or type(error).__name__
    print(json.dumps({"said": said[:300]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
