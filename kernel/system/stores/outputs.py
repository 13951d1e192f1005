"""What a command writes to a store: a folder of this machine, each of whose files is put there as soon as it is whole.

At the start the store decides: where it holds what this folder does not, another machine went on, and the folder
becomes what the store has; else the folder is as far or further, and what is missing there is put.
"""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from kernel.errors import UserError
from kernel.system.files import write_json, writing
from kernel.system.records import read_record
from kernel.system.stores.inputs import CURE, at_once
from kernel.system.stores.seals import SEALS, Content, Seal, is_as_listed, read_seals
from kernel.system.stores.store import Listed, Store
from kernel.system.stores.urls import Url

PUT_SECONDS = 2.0  # between looks for files that are new
PROBE = f"{SEALS}.can-be-written"
KNOWN = "known.json"  # beside the folder
LOOKS = 100  # for a moment in which no file comes or goes
Signs = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Order:
    """In which order files come to a store, by patterns of their names: "*" for all others, and last of all the record
    that says that all is there. So what the store has can be gone on with, whenever putting ends. Those of `never` stay
    on this machine."""

    patterns: tuple[str, ...]
    never: tuple[str, ...] = ()

    @property
    def record(self) -> str:
        return self.patterns[-1]

    def place(self, name: str) -> int:
        named = (place for place, own in enumerate(self.patterns) if own != "*" and fnmatch(name, own))
        return next(named, self.patterns.index("*"))

    def holds(self, name: str) -> bool:
        """Names that begin with a dot are of unfinished files."""
        return not any(part.startswith(".") for part in name.split("/")) and not any(
            fnmatch(name, own) for own in self.never
        )


@contextmanager
def mirrored(url: Url, home: Path, order: Order) -> Iterator[Path]:
    """A folder in `home`, which is this URL's own: at the start what the store holds under `url`, and what the block
    writes there is put into the store meanwhile, all of it by the end.

    Raises UserError where the store refuses, where what lies there is not of such a command, and where another command
    of this machine writes to the same URL.
    """
    mirror = Mirror(Store(url), home, order)
    with only_one(home, url):
        with writing(home, CURE):
            mirror.pull()
        ended = threading.Event()
        thread = threading.Thread(target=mirror.keep_putting, args=(ended,), daemon=True)
        thread.start()
        try:
            yield mirror.folder
        except UserError:
            stop(thread, ended)
            mirror.put_what_can_be()  # another machine may do better
            raise
        finally:
            ended.set()
        thread.join()
        mirror.put()


def stop(thread: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    thread.join()


@contextmanager
def only_one(home: Path, url: Url) -> Iterator[None]:
    import fcntl

    with writing(home, CURE):
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{url}: another command of this machine writes there, in {home}; expected one at a time. Nothing was "
                "begun. Wait for it to end, or give --out another URL"
            ) from error
        yield


class Mirror:
    """A folder and what the store has of it: `stored` holds every object that has a seal, with what it holds, None
    where it is missing or does not fit."""

    def __init__(self, store: Store, home: Path, order: Order) -> None:
        self.store, self.home, self.order = store, home, order
        self.folder = home / (store.url.name or "objects")
        self.stored: dict[str, Content | None] = {}
        self.put_as: Signs = {}  # how each file looked when it was put

    def pull(self) -> None:
        """Makes the folder what the store has, where that is further."""
        objects = {name: found for name, found in self.store.listing().items() if name != PROBE}
        seals = read_seals(self.store, objects)
        others = sorted(name for name in objects if name not in seals and not name.startswith(SEALS))
        if objects and not seals:
            raise UserError(
                f"{self.store.url}: holds {len(objects)} objects that no such command wrote, the first is "
                f"{others[0] if others else SEALS}. Expected none, or those of this command. Nothing was touched. Give "
                "--out an empty or a new place"
            )
        self.store.write(PROBE, b"")  # who may only read is told now, and not after hours of work
        self.store.remove(PROBE)
        if others:
            print(
                f"{self.store.url}: {len(others)} objects there are somebody else's and stay as they are, the first is "
                f"{others[0]}",
                file=sys.stderr,
            )
        aside = self.home / "fetching"
        shutil.rmtree(aside, ignore_errors=True)
        sealed = {name: seal for name, seal in seals.items() if self.order.holds(name)}
        self.stored = dict.fromkeys(sealed)
        further, known = False, self.known()
        whole = self.order.record not in objects and (self.folder / self.order.record).is_file()
        names = [name for name in sealed if name in objects]
        for name, content, here in at_once(lambda name: self.compared(name, sealed[name], objects[name], aside), names):
            self.stored[name] = content
            # what this machine itself put there last, and has made anew or is through with since
            ours = known.get(name) == content and (whole or (self.folder / name).is_file())
            further |= content is not None and not here and not ours
            if content is None:
                print(f"{self.store.url}: {name} does not fit its seal; it is made again", file=sys.stderr)
        if further:
            self.take_over(aside)
        shutil.rmtree(aside, ignore_errors=True)
        self.remember()

    def known(self) -> dict[str, Content]:
        """What this machine knew the store to hold when it last looked or put."""
        if not (self.home / KNOWN).is_file():
            return {}
        cure = "Remove it and run again: the folder becomes what the store has"
        return read_record(self.home / KNOWN, dict[str, Content], "what a store held", cure)

    def remember(self) -> None:
        write_json(self.home / KNOWN, {name: asdict(own) for name, own in self.stored.items() if own is not None})

    def compared(self, name: str, seal: Seal, found: Listed, aside: Path) -> tuple[str, Content | None, bool]:
        """What an object holds, None where that does not fit its seal, and whether the folder has the same. Where it
        was read it lies in `aside`."""
        own = self.folder / name
        here = Content.of(own) if own.is_file() else None
        if here and seal.fits(here) and is_as_listed(own, found):
            return name, here, True
        if not seal.may_fit(found):
            return name, None, False
        file = aside / name
        file.parent.mkdir(parents=True, exist_ok=True)
        self.store.fetch(name, file)
        content = Content.of(file)
        if not seal.fits(content):
            file.unlink()
            return name, None, False
        return name, content, here in (content, seal.object)  # the latter: what was being put when this machine ended

    def take_over(self, aside: Path) -> None:
        """The folder becomes what the store has: what two machines made does not go together."""
        for name in (name for name, content in self.stored.items() if content is not None):
            file = aside / name
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).replace(file)
        shutil.rmtree(self.folder, ignore_errors=True)
        aside.replace(self.folder)
        print(f"{self.store.url}: going on with what is there", file=sys.stderr)

    def keep_putting(self, ended: threading.Event) -> None:
        """A store that fails for a while stops nothing: what is put last decides."""
        told = False
        while not ended.wait(PUT_SECONDS):
            told = not self.put_what_can_be(quiet=told)

    def put_what_can_be(self, quiet: bool = False) -> bool:
        try:
            self.put()
        except (UserError, OSError) as error:
            if not quiet:
                print(f"not all that is finished is in the store yet: {error}", file=sys.stderr)
            return False
        return True

    def put(self) -> None:
        """Makes the store what the folder is. Raises UserError where the store refuses, or holds somebody else's
        object under a name of ours."""
        try:
            self.put_all()
        finally:
            self.remember()

    def put_all(self) -> None:
        found = self.settled()
        new = {name: sign for name, sign in found.items() if self.put_as.get(name) != sign}
        contents = {name: self.content_of(name) for name in new}
        changed = {name: own for name, own in contents.items() if own and self.stored.get(name) != own}
        gone = [name for name in self.stored if name not in found]
        finished = self.order.record in changed
        # what a finished whole was made of goes when that is there; else what is gone here may no longer count there
        if finished:
            self.remove([own for own in (self.order.record,) if own in self.stored])
        else:
            self.remove(gone)
        for name in sorted(changed, key=lambda name: (self.order.place(name), found[name][0], name)):
            content = changed[name]
            assert content is not None
            if not self.put_one(name, content, found[name]):
                return  # what comes behind it may hang on it: all that at the next look
        self.put_as |= {name: sign for name, sign in new.items() if contents[name]}
        if finished:
            self.remove(gone)

    def settled(self) -> Signs:
        """The files of one moment: two looks that see the same."""
        found = self.look()
        for _ in range(LOOKS):
            before, found = found, self.look()
            if before == found:
                return found
        raise UserError(f"{self.folder}: files come and go without end. Look after what else writes there")

    def look(self) -> Signs:
        found: Signs = {}
        for folder, _, files in os.walk(self.folder):  # which passes over a folder that is gone by now
            for path in (Path(folder, file) for file in files):
                name = path.relative_to(self.folder).as_posix()
                if self.order.holds(name):
                    with suppress(FileNotFoundError):
                        found[name] = sign_of(path)
        return found

    def content_of(self, name: str) -> Content | None:
        """None where the file is gone by now."""
        try:
            return Content.of(self.folder / name)
        except FileNotFoundError:
            return None

    def put_one(self, name: str, content: Content, sign: tuple[int, int, int]) -> bool:
        """False where the file is gone by now, or another one has come under its name."""
        pinned = self.home / "putting"  # the very file that was read, whatever comes under its name meanwhile
        pinned.unlink(missing_ok=True)
        try:
            os.link(self.folder / name, pinned)
        except FileNotFoundError:
            return False
        if sign_of(pinned) != sign:
            return False
        if name not in self.stored and self.store.has(name):
            raise UserError(
                f"{self.store.url}: {name} there is somebody else's, as it has no seal in {SEALS}, and this command "
                f"has one of the same name. It was left as it is; what is made lies in {self.folder}. Move the object "
                "away and run again, or give --out another place"
            )
        self.store.write(f"{SEALS}{name}", Seal(content, self.stored.get(name)).as_bytes())
        self.stored.setdefault(name, None)
        self.store.put(name, pinned)
        pinned.unlink()
        self.stored[name] = content
        return True

    def remove(self, names: list[str]) -> None:
        """The object first: a seal alone is still ours."""
        for name in names:
            self.store.remove(name)
            self.store.remove(f"{SEALS}{name}")
            del self.stored[name]
            self.put_as.pop(name, None)


def sign_of(path: Path) -> tuple[int, int, int]:
    told = path.stat()
    return told.st_mtime_ns, told.st_size, told.st_ino
