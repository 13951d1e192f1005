"""Workers of a cluster that tell what they begin, and wait where a test asks them to."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

# a folder's sitecustomize.py: before each item a worker tells of it in the file KIND-ITEM-PROCESS of `told`, and where
# there is wait-KIND-ITEM it waits for `go`
SITE = """
import os, sys, time
from pathlib import Path
told = Path({told!r})
if "default_worker.py" in " ".join(sys.orig_argv):
    from kernel.system import work
    steps = work.steps
    def disturbed(maker, item, share):
        own = f"{{type(maker).__name__}}-{{item}}"
        (told / f"{{own}}-{{os.getpid()}}").touch()
        while (told / f"wait-{{own}}").exists() and not (told / "go").exists():
            time.sleep(0.01)
        yield from steps(maker, item, share)
    work.steps = disturbed
"""


class Told:
    """What the workers of a cluster that begins with `site` tell."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder / "told", folder / "site"
        self.folder.mkdir()
        self.site.mkdir()
        (self.site / "sitecustomize.py").write_text(SITE.format(told=str(self.folder)))

    def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def wait_at(self, kind: str, item: int) -> None:
        (self.folder / f"wait-{kind}-{item}").touch()

    def go(self) -> None:
        (self.folder / "go").touch()

    def began(self, kind: str, item: int) -> list[int]:
        """The processes that began an item."""
        return [int(path.name.rsplit("-", 1)[1]) for path in self.folder.glob(f"{kind}-{item}-*")]


def gone(processes: list[int]) -> None:
    """Waits until Ray has ended workers whose command or machine is no more."""
    while any(Path(f"/proc/{process}").exists() for process in processes):
        time.sleep(0.01)


def awaited(condition: Callable[[], object], command: Popen) -> None:
    while not condition():
        assert command.poll() is None, command.communicate()
        time.sleep(0.01)  # waits for an event, not for a time


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
