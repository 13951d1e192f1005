"""Child processes: they find this very package, what they say is passed on, how they end is told in words."""

import os
import signal
import subprocess
from pathlib import Path

CODE = Path(__file__).parents[2]  # the folder that holds the package


def stream(command: list[str], environment: dict[str, str], folder: Path | None = None) -> int:
    """Prints the command, runs it, prints what it says, and returns its exit code (negative: its signal)."""
    print("$", *command, flush=True)
    child = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    with child.stdout as output:
        for data in iter(lambda: os.read(output.fileno(), 65536), b""):
            print(data.decode(errors="replace"), end="", flush=True)
    return child.wait()


def ending(code: int) -> str:
    """Example: ending(-9) == "killed by SIGKILL; out of memory does that", ending(1) == "exit code 1"."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + ("; out of memory does that" if name == "SIGKILL" else "")


def child_environment() -> dict[str, str]:
    """This process's, in which a child finds this very package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))}
