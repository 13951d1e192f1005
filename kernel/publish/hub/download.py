"""The hub's files at a pinned revision: what it lists, and downloads that go on where they stopped.

Downloads go through huggingface_hub's own `http_get` into a part file that is ours: `hf_hub_download` throws an
interrupted download away when its process ends, which costs hours with shards of 9 GB.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernel.errors import UserError, first_line
from kernel.publish.hub.pins import HASHES, MODELS, Catalogue, PinnedFile, Repository, needed_files, read_pins
from kernel.system.files import write_json

LISTING_TIMEOUT_SECONDS = 60.0
# each attempt goes on where the last one stopped; so many in a row may bring nothing
IDLE_ATTEMPTS = 3


def pin_repositories(pins: Path, catalogue: Catalogue = MODELS, keys: Iterable[str] | None = None) -> list[Repository]:
    """Asks the hub for the needed files of the repositories (all, or those of `keys`) and writes sizes and hashes
    into `pins`, and the newest revision where none is named there.

    Raises UserError, writing nothing, when a repository is not there or a pinned file has changed.
    """
    found = []
    asked = catalogue.choices if keys is None else keys
    listed_there = read_pins(pins, catalogue)
    for repository in [listed_there[key] for key in asked]:
        revision, listed = list_files(repository)
        pinned_there = replace(repository, revision=revision)
        try:
            needed = needed_files(repository.key, listed, catalogue)
        except ValueError as error:
            raise UserError(f"{pinned_there}: {error}: nothing can be pinned. {repository.other_revision}") from error
        files = {name: listed[name] for name in needed}
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
        found.append(replace(pinned_there, files=files))
    content = json.loads(pins.read_text(encoding="utf-8"))  # all else in the file stays
    for repository in found:
        content[catalogue.section][repository.key] |= repository.record()
    write_json(pins, content)
    return found


def list_files(repository: Repository) -> tuple[str, dict[str, PinnedFile]]:
    """The revision, and its files with size and hash as the hub keeps them: all, or those known by name beforehand."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    catalogue, revision = repository.catalogue, repository.revision
    choice = catalogue.choices[repository.key]
    files = {}
    try:
        if choice.weights:
            info: Any = HfApi().repo_info(
                repository.name,
                repo_type=catalogue.kind,
                revision=revision or None,
                files_metadata=True,
                timeout=LISTING_TIMEOUT_SECONDS,
            )
            for sibling in info.siblings or []:
                lfs = sibling.lfs
                pinned = PinnedFile(lfs.size, lfs.sha256) if lfs else PinnedFile(sibling.size, blob=sibling.blob_id)
                files[sibling.rfilename] = pinned
            return str(info.sha), files
        # each file alone: a repository of data can list 16,000 others (DiffusionDB's archives of images)
        for name in choice.required:
            url = hf_hub_url(repository.name, name, repo_type=catalogue.kind, revision=revision or None)
            found = get_hf_file_metadata(url, timeout=LISTING_TIMEOUT_SECONDS)
            revision = revision or str(found.commit_hash)
            for hash_kind, shape in HASHES.items():
                if found.size is not None and shape.fullmatch(found.etag or ""):
                    files[name] = PinnedFile(found.size, **{hash_kind: str(found.etag)})
        return revision, files
    except (*transport_errors(), OSError) as error:
        raise hub_error(repository, error) from error


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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download(repository, name, part)
        except (*transport_errors(), OSError) as error:
            raise hub_error(repository, error, part) from error
        part.replace(path)
    size = path.stat().st_size
    found = pinned.hash_of(path) if size == pinned.bytes else None
    if found != pinned.hash:
        path.unlink()
        says = f"{pinned.kind} {found}" if found else f"{size} bytes"
        expected = f"{pinned.kind} {pinned.hash}" if found else f"{pinned.bytes}"
        raise UserError(
            f"{repository}: {name} came with {says}, pinned is {expected}: it is damaged or another file. It was "
            "deleted unread; run again to download it anew. If that differs too, compare "
            f"{repository.pins} with the repository's page"
        )
    return path


def download(repository: Repository, name: str, part: Path) -> None:
    """Appends to `part` what is missing of the file. Raises what the client raises when no more comes."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    size = repository.files[name].bytes
    url = hf_hub_url(repository.name, name, repo_type=repository.catalogue.kind, revision=repository.revision)
    # without compression a byte range means bytes of the file
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    idle = 0
    while (here := part.stat().st_size if part.exists() else 0) < size:
        try:
            with part.open("ab") as file:
                http_get(url, file, resume_size=here, headers=headers, expected_size=size, displayed_filename=name)
        except (HfHubHTTPError, OfflineModeIsEnabled):
            raise
        except transport_errors():
            idle = 0 if part.stat().st_size > here else idle + 1
            if idle == IDLE_ATTEMPTS:
                raise
        except OSError as error:
            # the client's word for another length carries no number; the check after the download says which
            if error.errno is not None:
                raise
            return


def transport_errors() -> Any:
    """The exceptions of the client's HTTP library, which is httpx or its successor, by the client's version."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if base.__module__.startswith("httpx"))


def hub_error(repository: Repository, error: Any, part: Path | None = None) -> UserError:
    """The client's error as one line that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    kept = "What was downloaded is kept: run again to go on"
    other = repository.other_revision
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        words: dict[type[Exception], str] = {
            GatedRepoError: "the hub wants its terms accepted first. Log in on its page in the browser and accept "
            "them, then 'hf auth login' here and run again",
            RepositoryNotFoundError: "the hub knows no such repository, or keeps it from those not logged in: it "
            f"answers both alike. Check its name in {repository.pins}, or 'hf auth login' and run again",
            RevisionNotFoundError: f"the hub knows no such revision. {other}",
            RemoteEntryNotFoundError: f"the hub has no such file any more ({error.response.url.path}). {other}",
        }
        login = (
            "it does not accept this login. Make a token that may read on your page of the hub, 'hf auth login' with "
            "it and run again"
        )
        answered = f"the hub answered {status}" + (f": {login}" if status in (401, 403) else f". {kept} a little later")
        said = next((text for kind, text in words.items() if isinstance(error, kind)), answered)
        return UserError(f"{repository}: {said}")
    if isinstance(error, OfflineModeIsEnabled):
        return UserError(f"{repository}: HF_HUB_OFFLINE is set, so the hub is not asked. Unset it and run again")
    if isinstance(error, OSError) and error.errno is not None and part is not None:
        return UserError(
            f"{part}: cannot be written ({error.strerror}). Free space there or give --scratch another disk. {kept}"
        )
    return UserError(f"{repository}: the connection to the hub failed ({first_line(error)}). {kept}")
