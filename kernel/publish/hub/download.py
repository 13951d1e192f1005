"""The hub's files at a pinned revision: what it lists, and downloads that go on where they stopped.

Downloads go into a part file that is ours: the client's `hf_hub_download` throws an interrupted one away when its
process ends, which costs hours with shards of 9 GB.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep
from typing import Annotated, Any, BinaryIO, NotRequired
from urllib.parse import quote

from pydantic import FailFast
from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.publish.answers import one_line, within
from kernel.publish.hub import client
from kernel.publish.hub.client import LEAST_BYTES, answer, asking, content_of, fitting, headers_of, transport_errors
from kernel.publish.hub.pins import MODELS, Catalogue, Pin, Repository, needed_files, read_pins
from kernel.system.files import json_bytes, write_json
from kernel.system.terminal.progress import progress_bar

# each attempt goes on where the last one stopped; so many in a row may bring next to nothing
IDLE_ATTEMPTS = 5
KEPT = "What was downloaded is kept: run again to go on"


class Sibling(TypedDict):
    """A file of a listing; what is needed of it is checked as a pin."""

    rfilename: str
    size: NotRequired[Any]
    blobId: NotRequired[Any]
    lfs: NotRequired[dict[str, Any] | None]


class Listing(TypedDict):
    sha: str
    tags: NotRequired[Any]
    siblings: Annotated[list[Sibling], FailFast()]  # or each of a million wrong ones would be told


def pin_repositories(pins: Path, catalogue: Catalogue = MODELS, keys: Iterable[str] | None = None) -> list[Repository]:
    """Asks the hub for the needed files of the repositories (those that every pins file names, or of `keys`) and writes
    sizes and hashes into `pins`, and the newest revision where none is named there.

    Raises UserError, writing nothing, when a repository is not there or a pinned file has changed.
    """
    found = []
    asked = catalogue.named if keys is None else list(keys)
    listed_there = read_pins(pins, catalogue, asked)
    for repository in [listed_there[key] for key in asked]:
        with asking(repository, f"{pins} stays as it was: run again"):
            pinned_there = pinned_by_hub(repository)
        files = pinned_there.files
        for name, pinned in repository.files.items():
            there = files.get(name)
            if there != pinned:
                raise UserError(
                    f"{repository}: of {name} the hub says {there or 'no such file among the needed ones'}; pinned are "
                    f"{pinned}: a revision cannot change, so one of the two is wrong. {pins} stays as it was; "
                    "remove the entry there only if you know why it differs"
                )
        size = sum(file.bytes for file in files.values())
        print(f"{pinned_there}: {len(files)} files, {size / 1e9:.2f} GB", file=sys.stderr)
        found.append(pinned_there)
    content = json.loads(pins.read_text(encoding="utf-8"))  # all else in the file stays
    for repository in found:
        content[catalogue.section].setdefault(repository.key, {}).update(repository.record())
    write_json(pins, content)
    return found


def pinned_by_hub(repository: Repository) -> Repository:
    """What the hub says, as it may stand in the pins file. Raises ValueError for anything else."""
    choice = repository.catalogue.choices[repository.key]
    revision, listed = (
        listed_files(listing_of(repository)) if choice.weights else asked_files(repository, choice.required)
    )
    try:
        needed = needed_files(repository.key, listed, repository.catalogue)
    except ValueError as error:
        raise UserError(
            f"{repository}: {one_line(str(error))}: nothing can be pinned. {repository.other_revision}"
        ) from error
    said = {"repository": repository.name, "revision": revision, "files": {name: listed[name] for name in needed}}
    pin = fitting(Pin, json_bytes(said))
    if repository.revision not in ("", pin.revision):
        raise ValueError(f"it tells of revision {pin.revision}")
    return replace(repository, revision=revision, files=pin.files)


def listing_of(repository: Repository) -> Listing:
    """What the hub tells of a repository at its revision."""
    from huggingface_hub import constants

    revision = f"/revision/{repository.revision}" if repository.revision else ""
    address = f"{constants.ENDPOINT}/api/{repository.catalogue.kind}s/{quote(repository.name)}{revision}?blobs=true"
    return fitting(Listing, content_of(address))


def listed_files(listing: Listing) -> tuple[str, dict[str, Any]]:
    """The revision, and all its files, with size and hash as the hub keeps them."""
    files = {}
    for own in listing["siblings"]:
        lfs = own.get("lfs")
        large = lfs and {"bytes": lfs.get("size"), "sha256": lfs.get("sha256")}
        files[own["rfilename"]] = large or {"bytes": own.get("size"), "blob": own.get("blobId")}
    return listing["sha"], files


def asked_files(repository: Repository, names: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """As listed_files, each file asked for alone: a repository of data can list 16,000 others (archives of images)."""
    revision, files = repository.revision, {}
    for name in names:
        headers, redirected = headers_of(address_of(replace(repository, revision=revision), name))
        revision = revision or headers.get("X-Repo-Commit", "")
        size = headers.get("X-Linked-Size") or ("" if redirected else headers.get("Content-Length", ""))
        tag = (headers.get("X-Linked-ETag") or headers.get("ETag", "")).removeprefix("W/").strip('"')
        hash_kind = "sha256" if len(tag) == 64 else "blob"
        files[name] = {"bytes": int(size) if size.isdecimal() else size, hash_kind: tag}
    return revision, files


def address_of(repository: Repository, name: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository.name, name, repo_type=repository.catalogue.kind, revision=repository.revision or None)


def local_path(repository: Repository, name: str, scratch: Path) -> Path:
    return scratch / repository.name.replace("/", "--") / repository.revision / name


def part_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def bytes_to_come(repository: Repository, name: str, scratch: Path) -> int:
    """How many bytes of the file are not in scratch yet."""
    path = local_path(repository, name, scratch)
    here = next((p.stat().st_size for p in (path, part_path(path)) if p.is_file()), 0)
    return max(repository.files[name].bytes - here, 0)


def fetch(repository: Repository, name: str, scratch: Path) -> Path:
    """The pinned file under `scratch`, downloaded as far as it is not there, with its size and hash checked.

    Raises UserError when the hub does not give it (what came is kept) or gives another file (that is deleted).
    """
    path = local_path(repository, name, scratch)
    pinned = repository.files[name]
    if not path.is_file():
        part = part_path(path)
        with asking(repository, KEPT, part):
            path.parent.mkdir(parents=True, exist_ok=True)
            download(repository, name, part)
        part.replace(path)
    size = path.stat().st_size
    found = pinned.hash_of(path) if size == pinned.bytes else None
    if found != pinned.hash:
        path.unlink()
        says = f"{pinned.kind} {found}" if found else f"{size} bytes{' or more' if size > pinned.bytes else ''}"
        expected = f"{pinned.kind} {pinned.hash}" if found else f"{pinned.bytes}"
        raise UserError(
            f"{repository}: {name} came with {says}, pinned is {expected}: it is damaged or another file. It was "
            "deleted unread; run again to download it anew. If that differs too, compare "
            f"{repository.pins} with the repository's page"
        )
    return path


def download(repository: Repository, name: str, part: Path) -> None:
    """Appends to `part` what is missing of the file, and no more. Raises what `answer` raises when no more comes."""
    size, address = repository.files[name].bytes, address_of(repository, name)
    part.touch()
    idle = 0
    with progress_bar(total=size, initial=part.stat().st_size, desc=name, unit="B", unit_scale=True) as bar:
        while (here := part.stat().st_size) < size:
            try:
                with part.open("ab") as file:  # closed, it takes nothing of an attempt that was given up
                    within(partial(append_rest, address, size, file, bar), client.SECONDS[1], file.tell, LEAST_BYTES)
                return
            except transport_errors():
                idle = 0 if part.stat().st_size >= here + LEAST_BYTES else idle + 1
                if idle == IDLE_ATTEMPTS:
                    raise
                sleep(2**idle)


def append_rest(address: str, size: int, file: BinaryIO, bar: Any) -> None:
    """One attempt: to the end of the answer, which can be another length, or just beyond `size` bytes."""
    here = file.tell()
    with answer("GET", address, **({"Range": f"bytes={here}-"} if here else {})) as response:
        if here and not response.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            # the range was overlooked: taken only if it is surely the file, for what is here may be hours of download
            if response.status_code != 200 or response.headers.get("Content-Length") != str(size):
                raise ValueError(f"asked for what follows byte {here:,}, it sent something else")
            file.seek(0)
            file.truncate()
        for chunk in response.iter_raw():
            file.write(chunk)
            bar.update(file.tell() - bar.n)
            if file.tell() > size:
                return
