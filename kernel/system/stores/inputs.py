"""What a command reads from a store, fetched once: again only what was written there again since."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TypeVar

from kernel.errors import UserError
from kernel.system.files import require_space, write_json, writing
from kernel.system.records import read_record
from kernel.system.stores.seals import SEALS, Content, Seal, read_seals
from kernel.system.stores.store import Listed, Store
from kernel.system.stores.urls import Url
from kernel.system.terminal.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")
ORIGIN = "origin.json"  # what the store said of each object when it was fetched
AT_ONCE = 8  # objects
TELL_SECONDS = 10.0  # between notes of what has come: of what is not noted at a kill, no more is fetched again
READ: dict[Path, IO[str]] = {}  # the locks of what this process reads, by their folders
CURE = "free space there or give --mirror another folder, then run again: what was fetched is kept"


def fetched(url: Url, home: Path) -> Path:
    """The file or folder in `home`, a folder of this URL's own, that holds what the store has under `url` now.

    Raises UserError where there is nothing, where the disk is full, and where an object does not fit its seal.
    """
    store = Store(url)
    objects = store.listing()
    wanted = {name: found for name, found in objects.items() if not name.startswith(SEALS)}
    if "" in wanted:
        wanted = {"": wanted[""]}
    if not wanted:
        raise UserError(
            f"{url}: there is no such object, and none below it; expected a file or a folder of them. Nothing was "
            "fetched. Correct the URL, then run again"
        )
    place = home / url.name
    with writing(home, CURE), alone(home):
        known = what_was_fetched(home)
        missing = {
            name: found
            for name, found in wanted.items()
            if known.get(name) != found or not has_bytes(file_of(place, name), found.bytes)
        }
        with read_until_the_end(url, home, changes=bool(missing or others(place, wanted))):
            if place.exists() and place.is_file() != ("" in wanted):
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            for path in others(place, wanted):
                path.unlink()
            there = {name: found for name, found in wanted.items() if name not in missing}
            if missing:
                needed = sum(found.bytes for found in missing.values())
                cure = "give --mirror a folder on another disk"
                require_space(home, needed, f"{url} takes {needed:,} bytes more", cure)
            tell_origin(home, there)  # before any is replaced
            told = time.monotonic()
            try:
                for name in fetch(store, missing, place, home, read_seals(store, objects)) if missing else ():
                    there[name] = missing[name]
                    if time.monotonic() - told > TELL_SECONDS:
                        tell_origin(home, there)
                        told = time.monotonic()
            finally:
                tell_origin(home, there)
    return place


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """While the block runs no other process fetches there; what one left that was killed is removed first."""
    import fcntl

    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = home / "fetching"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def read_until_the_end(url: Url, home: Path, changes: bool) -> Iterator[None]:
    """Where the block `changes` what lies there, no other process reads it meanwhile; and when it has ended well, none
    changes it until this process ends, which reads it from now on. Raises UserError where another one reads it."""
    import fcntl

    lock = READ.get(home.absolute()) or (home / "readers.lock").open("w")
    try:
        if changes:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{home}: another command reads it, and {url} holds something else by now. Nothing was changed. "
                    "Wait for that one's end, or give --mirror another folder, then run again"
                ) from error
        yield
        READ[home.absolute()] = lock
    finally:
        if home.absolute() in READ:
            fcntl.flock(lock, fcntl.LOCK_SH)
        else:
            lock.close()


def tell_origin(home: Path, objects: Mapping[str, Listed]) -> None:
    write_json(home / ORIGIN, {name: asdict(found) for name, found in objects.items()})


def file_of(place: Path, name: str) -> Path:
    return place / name if name else place


def others(place: Path, wanted: Mapping[str, Listed]) -> list[Path]:
    """Files that the store no longer has."""
    files = [own for own in place.rglob("*") if not own.is_dir()] if place.is_dir() else []
    return [own for own in files if own.relative_to(place).as_posix() not in wanted]


def what_was_fetched(home: Path) -> dict[str, Listed]:
    if not (home / ORIGIN).is_file():
        return {}
    cure = f"Remove {home} and run again: it is fetched anew"
    return read_record(home / ORIGIN, dict[str, Listed], "what was fetched", cure)


def has_bytes(file: Path, count: int) -> bool:
    return file.is_file() and file.stat().st_size == count


def fetch(
    store: Store, missing: Mapping[str, Listed], place: Path, home: Path, seals: Mapping[str, Seal]
) -> Iterator[str]:
    """Yields the name of each object that is there, in their order."""

    def one(numbered: tuple[int, str]) -> int:
        number, name = numbered
        unfinished, file, found = home / "fetching" / str(number), file_of(place, name), missing[name]
        store.fetch(name, unfinished)
        if (size := unfinished.stat().st_size) != found.bytes:
            raise UserError(
                f"{store.url}: {name or 'the object'} came with {size} bytes, and is listed with {found.bytes}: it "
                "is not whole, or was written meanwhile. It was not kept. Run again"
            )
        if name in seals and not seals[name].fits(Content.of(unfinished)):
            raise UserError(
                f"{store.url}: {name} is not what its seal in {SEALS} says: it is damaged, or is still being written. "
                "It was not kept. Run the command that wrote it again, then this one"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.replace(file)
        return found.bytes

    total = sum(found.bytes for found in missing.values())
    with progress_bar(total=total, desc=f"from {store.url.scheme}", unit="B", unit_scale=True) as bar:
        for name, size in zip(missing, at_once(one, enumerate(missing)), strict=True):
            bar.update(size)
            yield name


def at_once(does: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What it returns of each item, in their order, several at a time; after an error no more are begun."""
    threads = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from threads.map(does, items)
    finally:
        threads.shutdown(cancel_futures=True)
