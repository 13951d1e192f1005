"""Places that a command takes: paths of this machine, and fsspec's URLs of object stores."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.errors import UserError, did_you_mean

HERE = ("file", "local")  # fsspec's words for this machine's own paths
EXTRA = "pip install 'image-to-prompts-kernel[stores]'"
# scheme: what brings the package that speaks it
STORES = {
    "s3": EXTRA,
    "s3a": EXTRA,
    "gs": "pip install gcsfs",
    "gcs": "pip install gcsfs",
    "az": "pip install adlfs",
    "abfs": "pip install adlfs",
    "memory": EXTRA,
}
VALID = ", ".join(f"{scheme}://" for scheme in (*STORES, *HERE))
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Url:
    """Objects of a store: `path` is the bucket and what every key begins with, without slashes at its ends."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


Place = Path | Url


def place(text: str) -> Place:
    """Example: place("s3://bucket/bank/") == Url("s3", "bucket/bank"); place("file:///data") == Path("/data")

    Raises UserError for a scheme that is none of STORES or HERE, and where no bucket is named.
    """
    found = SCHEME.match(text)
    if not found or not found[2]:
        return Path(text)
    scheme, path = found[1].lower(), found[3].rstrip("/")
    if scheme in HERE:
        return Path(found[3])
    if scheme not in STORES:
        raise UserError(
            f"{text}: {scheme}:// is no store that can be read and written"
            f"{did_you_mean(scheme, STORES)}. Expected one of {VALID}. Fetch it first, and give its path"
        )
    if scheme == "memory":
        path = path.lstrip("/")
    if not path or path.startswith("/"):
        raise UserError(f"{text}: names no bucket; expected such as {scheme}://BUCKET/FOLDER. Give the whole URL")
    return Url(scheme, path)


def require_paths(command: str, values: Iterable[Any]) -> None:
    """Raises UserError for the first path, or text in a list, that is a URL: taken for a path it would lead nowhere."""
    for value in values:
        for own in value if isinstance(value, list) else [value] if isinstance(value, Path) else []:
            if isinstance(own, str | Path) and (found := SCHEME.match(str(own))) and not Path(own).exists():
                raise UserError(
                    f"{found[1]}://{found[3]}: '{command}' takes files and folders of this machine; URLs are read and "
                    "written by 'bank' and 'train' alone. Fetch it first, and give its path"
                )
