"""One execution of a notebook as Kaggle does it: inputs mounted read-only, no network, Kaggle's environment."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel.notebook.children import RUN_TYPE
from kernel.notebook.session import RERUN
from kernel.publish.rehearsal.mounts import Mounts, mount, snapshot
from kernel.publish.rehearsal.sandbox import Sandbox

NOTEBOOK = "__notebook__.ipynb"
INPUT = "IMAGE_TO_PROMPTS_INPUT"
OWNER = "rehearsal"


@dataclass(frozen=True)
class Killed:
    """A child whose command holds both `words` and `place`, as soon as a `file` stands in `folder`."""

    folder: Path
    file: str
    words: str
    place: str


@dataclass(frozen=True)
class Way:
    """How it is executed: by hand or as a saved version, as the scoring rerun, with a run that is killed, and what else
    its environment holds."""

    run_type: str = "Batch"
    rerun: bool = False
    killed: Killed | None = None
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Executed:
    """What it said, the bytes of its largest process, its seconds, and what went wrong with the execution itself."""

    said: str
    peak_bytes: int
    seconds: float
    problem: str | None


def executed(notebook: str, out: Path, python: Path, image: str, layout: str, folders: Mounts, way: Way) -> Executed:
    """Executes the text of a notebook in `out/working`; `folders` are mounted, and afterwards where they were."""
    root, working = out / "input", out / "working"
    for folder in (root, working):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    mounted = dict(folders)
    mount(layout, root, OWNER, mounted)
    (working / NOTEBOOK).write_text(notebook, encoding="utf-8")
    problem = None
    try:
        before = snapshot(root)
        sandbox = Sandbox(out / "sandbox", root)
        start = time.perf_counter()
        said, code, peak = execute(python, working, root, image, sandbox, way)
        seconds = time.perf_counter() - start
        if code:
            last = next(filter(None, map(str.strip, reversed(said.splitlines()))), "it said nothing")
            problem = f"the notebook ended with exit code {code}: {last}"
        elif snapshot(root) != before:
            problem = "something was written into the mounted folders"
        elif sandbox.attempted():
            problem = f"the network was tried: {sandbox.attempted()[0]}"
    finally:
        for key, place in mounted.items():
            place.rename(folders[key])
    return Executed(said, peak, seconds, problem)


def told(what: str, name: str, layout: str, out: Path, found: Executed, problem: str | None) -> dict[str, Any]:
    """Prints one line for an execution, with its log where there is a problem."""
    print(f"  {what}, {layout} layout".ljust(60), end="")
    print(
        f" {'FAILED' if problem else 'ok':>6} {found.seconds:7.1f} s  {found.peak_bytes / 2**20:6.0f} MiB", flush=True
    )
    if problem:
        log = out / f"{name}-{layout}.log"
        log.write_text(found.said, encoding="utf-8")
        print(f"    {problem}; everything it said: {log}", flush=True)
    seconds = round(found.seconds, 1)
    return {"name": name, "layout": layout, "seconds": seconds, "peak_bytes": found.peak_bytes, "problem": problem}


def execute(python: Path, working: Path, root: Path, image: str, sandbox: Sandbox, way: Way) -> tuple[str, int, int]:
    """Executes the notebook in `working`; what it said, its exit code and the bytes of its largest process."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("KAGGLE", "HF_", "PYTHON"))}
    environment = {
        **own,
        **sandbox.environment(),
        **({RERUN: "1"} if way.rerun else {}),
        RUN_TYPE: way.run_type,
        "KAGGLE_DOCKER_IMAGE": image,
        INPUT: str(root.resolve()),
        "PYTHONNOUSERSITE": "1",
        "IPYTHONDIR": str(sandbox.hook.resolve() / "ipython"),
        "JUPYTER_CONFIG_DIR": str(sandbox.hook.resolve() / "jupyter"),
        "CUDA_VISIBLE_DEVICES": "",
        **way.settings,
    }
    command = [str(python), "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", NOTEBOOK]
    command += ["--ExecutePreprocessor.timeout=-1"]
    log = working.parent / "execution.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            sandbox.command(command), cwd=working, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        if way.killed:
            kill_a_child(process.pid, way.killed)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return log.read_text(errors="replace"), process.returncode, usage.ru_maxrss * unit


def kill_a_child(notebook: int, killed: Killed) -> None:
    """Waits until the file stands, then kills the notebook's child, as the kernel does when memory runs out."""
    while not any(killed.folder.glob(killed.file)):
        if os.waitid(os.P_PID, notebook, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.02)
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, _, command = line.strip().partition(" ")
        if killed.words in command and killed.place in command and "unshare" not in command:
            os.kill(int(pid), signal.SIGKILL)
