"""What says of an object that it is ours and whole: a small object in .seals/, written before the object itself.

Objects cannot be renamed in one step, so an object counts where it fits its seal: one that was cut off, or is still to
come, does not. Where one is replaced its seal names both, so that at no time none counts. An object without a seal is
somebody else's.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kernel.system.files import file_sha256, json_bytes
from kernel.system.records import schema
from kernel.system.stores.store import Listed, Store

SEALS = ".seals/"


@dataclass(frozen=True)
class Content:
    """What an object holds, by its sha256 and its number of bytes."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, file: Path) -> "Content":
        return cls(file_sha256(file), file.stat().st_size)


@dataclass(frozen=True)
class Seal:
    """`before`: what stands there until the object has come, if anything did."""

    object: Content
    before: Content | None = None

    def fits(self, content: Content) -> bool:
        return content in (self.object, self.before)

    def may_fit(self, found: Listed) -> bool:
        return found.bytes in [own.bytes for own in (self.object, self.before) if own]

    def as_bytes(self) -> bytes:
        return json_bytes(asdict(self))


def read_seals(store: Store, objects: Mapping[str, Listed]) -> dict[str, Seal]:
    """By the name of the object. What lies among them and is no seal is passed over: it vouches for nothing."""
    from pydantic import ValidationError

    found: dict[str, Seal] = {}
    for name, content in store.read(name for name in objects if name.startswith(SEALS)).items():
        try:
            found[name.removeprefix(SEALS)] = schema(Seal).validate_json(content, strict=True)
        except ValidationError:
            continue
    return found


def is_as_listed(file: Path, found: Listed) -> bool:
    """Whether a file surely holds what the store has: by size, and by the md5 that S3 calls an object's tag, where it
    was put in one piece and without a key of its own. Where this is not sure the object has to be read."""
    if not file.is_file() or file.stat().st_size != found.bytes:
        return False
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == found.tag
