"""The processes that a notebook starts: they find this package and the packages of the wheels, and write nothing into
what is mounted."""

import os
import shutil
import sys
from pathlib import Path

from kernel.errors import UserError
from kernel.system.processes import CODE, ending, stream

RUN_TYPE = "KAGGLE_KERNEL_RUN_TYPE"
# A saved log need not hold ten progress lines a second for nine hours.
SECONDS_BETWEEN_PROGRESS_LINES = "15"
SAVED_BYTES = 20 * 1000**3  # of the working folder


def environment_with(packages: Path) -> dict[str, str]:
    """This process's, with the folder into which packages are installed."""
    paths = [str(CODE), str(packages), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if os.environ.get(RUN_TYPE) != "Interactive":
        environment["TQDM_MININTERVAL"] = SECONDS_BETWEEN_PROGRESS_LINES
    return environment


def install(wheels: Path | None, packages: Path, environment: dict[str, str]) -> str | None:
    """Puts the dataset's wheels beside the image's packages, every one named in its requirements.txt, by hash; returns
    what went wrong."""
    if wheels is None:
        return "no wheels are mounted: publish them with the weights ('make wheels', 'make dataset')"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--require-hashes"]
    source = ["--find-links", str(wheels), "-r", str(wheels / "requirements.txt")]
    code = stream([*pip, *source, "--target", str(packages)], environment)
    if code:
        return f"installing the wheels failed ({ending(code)}). Run 'make wheels' and publish the dataset again"
    return None


def check_saved(working: Path, advice: str) -> None:
    """Says what there is to be saved; raises UserError when Kaggle would not save all of it."""
    files = [path for path in working.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    print(f"{working}: {len(files)} files, {total / 1e9:.1f} GB of the {SAVED_BYTES / 1e9:.0f} GB that are saved")
    if total > SAVED_BYTES:
        raise UserError(f"{working}: more than Kaggle saves. {advice}")


def copied(source: Path, target: Path) -> None:
    """A folder's files, whole, as files that may be changed: what is mounted is read-only, and may say so of each."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            own = target / path.relative_to(source)
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, own)
