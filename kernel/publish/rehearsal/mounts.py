"""What Kaggle makes of an upload and where it mounts it, played on this machine.

From people's reports (none of it is documented): zips are unpacked into a folder of their name, a single top folder
in them is dropped, `.gz` is gunzipped even inside zips, and `+`, `~` and non-ASCII are stripped from names.
"""

import gzip
import shutil
import tempfile
from pathlib import Path

from kernel.publish.kaggle.staging import DATASET_METADATA, STRIPPED
from kernel.system.files import unfinished_path

# where the mounts of one owner lie under /kaggle/input
LAYOUTS = {
    "old": {"competition": "{slug}", "dataset": "{slug}", "notebook": "{slug}"},
    "new": {
        "competition": "competitions/{slug}",
        "dataset": "datasets/{owner}/{slug}",
        "notebook": "notebooks/{owner}/{slug}",
    },
}
Mounts = dict[tuple[str, str], Path]  # {(kind, slug): folder}


def upload_and_unpack(staged: Path, out: Path) -> None:
    """Zips each folder of `staged` as the client's `--dir-mode zip` does, and unpacks it into `out` as Kaggle does."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(staged.iterdir()):
            if path.name == DATASET_METADATA:
                continue
            if path.is_dir():
                archive = shutil.make_archive(f"{scratch}/{path.name}", "zip", path)
                shutil.unpack_archive(archive, out / stripped(path.name))
                drop_single_folder(out / stripped(path.name))
            else:
                shutil.copy(path, out / stripped(path.name))
    for path in sorted(out.rglob("*"), reverse=True):  # contents before their folders
        arrive(path)


def stripped(name: str) -> str:
    return STRIPPED.sub("", name)


def drop_single_folder(folder: Path) -> None:
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        kept = unfinished_path(folder)
        inside[0].rename(kept)
        folder.rmdir()
        kept.rename(folder)


def arrive(path: Path) -> None:
    """Renames and gunzips one file or folder in place."""
    name = stripped(path.name)
    if path.suffix == ".gz" and path.is_file():
        with gzip.open(path) as packed, path.with_name(name.removesuffix(".gz")).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        path.unlink()
    elif name != path.name:
        path.rename(path.with_name(name))


def mount(layout: str, root: Path, owner: str, folders: Mounts) -> None:
    """Moves each folder to where `layout` has it under `root`; and says so in `folders`."""
    for (kind, slug), folder in folders.items():
        place = root / LAYOUTS[layout][kind].format(owner=owner, slug=slug)
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        folders[kind, slug] = place


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Path -> (bytes, time of change) of everything under `root`: equal before and after when nobody wrote there."""
    return {
        path.relative_to(root).as_posix(): (path.lstat().st_size if path.is_file() else 0, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
    }
