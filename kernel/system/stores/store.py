"""The objects under one URL, by fsspec, with errors in words: no such bucket, no right, no answer, no package."""

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.errors import UserError, first_line, kind_and_line, listed
from kernel.system.files import NO_ROOM
from kernel.system.stores.urls import STORES, Url

# of botocore: two tries of each call, so that a store that does not answer is told within half a minute
S3 = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 15,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}
TRIES = 2  # of s3fs, each with botocore's own
OPTIONS: Mapping[str, Mapping[str, Any]] = {"s3": S3, "s3a": S3}
TAGS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")
NO_RIGHT = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}


@dataclass(frozen=True)
class Listed:
    """An object as the store lists it; `tag` is another one when it was written again."""

    bytes: int
    tag: str


class Store:
    """What lies under `url`: objects by their names from there on, "" for an object at the URL itself."""

    def __init__(self, url: Url) -> None:
        self.url = url
        try:
            import fsspec

            # an instance of before knows the credentials and the address of before
            self.files: Any = fsspec.filesystem(url.scheme, skip_instance_cache=True, **OPTIONS.get(url.scheme, {}))
        except ImportError as error:
            raise UserError(
                f"{url}: the package that speaks {url.scheme}:// is not installed ({first_line(error)}). Expected it "
                f"beside this one: nothing was read or written. {STORES[url.scheme]}, then run again"
            ) from error
        if hasattr(self.files, "retries"):
            self.files.retries = TRIES

    def listing(self) -> dict[str, Listed]:
        """Every object; none where nothing begins with the URL. Raises UserError where there is no such bucket."""
        with self.spoken("listed"):
            found = self.files.find(self.url.path, detail=True)
        # what ends in a slash stands for a folder: the consoles of stores make such
        files = {path: info for path, info in found.items() if info["type"] == "file" and not path.endswith("/")}
        objects = {self.name_of(path): info for path, info in files.items()}
        for name in objects:
            require_inside(self.url, name)
        return {name: Listed(info["size"], tag_of(info)) for name, info in objects.items()}

    def name_of(self, path: str) -> str:
        return path.lstrip("/").removeprefix(self.url.path).removeprefix("/")

    def path(self, name: str) -> str:
        return f"{self.url.path}/{name}" if name else self.url.path

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Small objects, whole."""
        paths = {self.path(name): name for name in names}
        with self.spoken("read"):
            found = self.files.cat(list(paths)) if paths else {}
            found = found if isinstance(found, dict) else dict.fromkeys(paths, found)
        return {self.name_of(path): content for path, content in found.items()}

    def fetch(self, name: str, file: Path) -> None:
        """Raises OSError where the disk refuses it."""
        with self.spoken("read"):
            self.files.get_file(self.path(name), str(file))

    def write(self, name: str, content: bytes) -> None:
        with self.spoken("written"):
            self.files.pipe_file(self.path(name), content)

    def put(self, name: str, file: Path) -> None:
        """Raises FileNotFoundError where the file is gone."""
        with self.spoken("written", file):
            self.files.put_file(str(file), self.path(name))

    def has(self, name: str) -> bool:
        with self.spoken("read"):
            try:
                return self.files.info(self.path(name))["type"] == "file"
            except FileNotFoundError:
                return False

    def remove(self, name: str) -> None:
        with self.spoken("written"):
            try:
                self.files.rm_file(self.path(name))
            except FileNotFoundError:
                pass

    @contextmanager
    def spoken(self, done: str, file: Path | None = None) -> Iterator[None]:
        """Turns what the block raises into one line; what this machine's disk refuses stays an OSError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM):
                raise
            if file is not None and not file.exists():
                raise FileNotFoundError(errno.ENOENT, "gone", str(file)) from error
            raise self.in_words(error, done) from error

    def in_words(self, error: Exception, done: str) -> UserError:
        url, said = self.url, first_line(error)
        bucket = url.path.partition("/")[0]
        kept = f"What is finished on this machine is kept, and nothing in {url} was changed by what failed"
        if isinstance(error, FileNotFoundError):
            return UserError(
                f"{url}: there is no such bucket as {bucket}, or no such object ({said}). Expected one that can be "
                f"{done}. {kept}. Make the bucket, or correct its name, then run again"
            )
        if isinstance(error, PermissionError) or type(error).__name__ in NO_RIGHT:
            return UserError(
                f"{url}: cannot be {done}: no right to ({said}). Expected credentials that may list, read and write "
                f"there. {kept}. Set those of your store (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "~/.aws), then run again"
            )
        return UserError(
            f"{url}: cannot be {done}: the store gives no answer, or none that helps ({kind_and_line(error)}). "
            f"Expected a store that answers. {kept}. Look after the network and the address (for S3 AWS_ENDPOINT_URL), "
            "then run again: it goes on"
        )


def require_inside(url: Url, name: str) -> None:
    """Raises UserError for a name that would be written elsewhere than below its folder."""
    parts = name.split("/")
    if name and (not all(parts) or {".", ".."} & set(parts) or "\0" in name):
        raise UserError(
            f"{url}: an object there is called {listed([name])}, which is no name of a file in a folder. Nothing was "
            "fetched. Rename or remove it, then run again"
        )


def tag_of(info: Mapping[str, Any]) -> str:
    return next((str(info[key]).strip('"') for key in TAGS if info.get(key)), "")
