"""What is taken from the hub: repositories, revisions, files with sizes and hashes (pins.json).

Each file is pinned by the hash that the hub itself keeps: the sha256 of a large file, the git blob of a small one.
"""

import hashlib
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel.config import Recipe
from kernel.errors import UserError, did_you_mean
from kernel.models.captioners.loading import BY_DEFAULT, SHIPPED, SHIPPED_KINDS, names_in
from kernel.models.image_text_matching import MATCHING, REPOSITORY
from kernel.system.files import file_sha256
from kernel.system.records import read_record

PINS = Path(__file__).with_name("pins.json")
NAMED_REVISION = re.compile(r"[0-9a-f]{40}")
HASHES = {"sha256": re.compile(r"[0-9a-f]{64}"), "blob": re.compile(r"[0-9a-f]{40}")}
MOST_BYTES = 2**40  # a hundred times the largest file that is taken
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")

OF_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                 "spiece.model", "vocab.txt", "vocab.json", "merges.txt")  # fmt: skip
OF_CAPTIONERS = ("generation_config.json", "processor_config.json", "preprocessor_config.json", "chat_template.json",
                 "chat_template.jinja", "video_preprocessor_config.json", *OF_TOKENIZERS)  # fmt: skip


@dataclass(frozen=True)
class FileChoice:
    """Which of a repository's files are needed: `required` ones, `optional` ones, the first of `weights` there is.

    Without `weights` it is the `required` ones exactly, known by name beforehand.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    weights: tuple[str, ...] = ("model.safetensors",)


CHOICES = {
    # the only pickle that is ever taken, for a repository that has nothing else
    "clip": FileChoice(("open_clip_config.json",), (), ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")),
    **{key: FileChoice((kind.config_file,), OF_CAPTIONERS, kind.weights_files) for key, kind in SHIPPED_KINDS.items()},
    "sentences": FileChoice(
        ("config.json", "modules.json", "1_Pooling/config.json"),
        ("config_sentence_transformers.json", "sentence_bert_config.json", *OF_TOKENIZERS),
    ),
    MATCHING: FileChoice(("config.json",), OF_CAPTIONERS),
}


@dataclass(frozen=True)
class Catalogue:
    """One section of the pins file: which repositories it names, of the hub's type `kind`, and what is taken of each.

    `command` is what pins them. Those of `unasked`, repositories by key, it names only once somebody asked for them.
    """

    section: str
    kind: str
    command: str
    choices: dict[str, FileChoice]
    unasked: dict[str, str] = field(default_factory=dict)

    @property
    def named(self) -> list[str]:
        """The keys that every pins file has."""
        return [key for key in self.choices if key not in self.unasked]


MODELS = Catalogue(
    "repositories", "model", "python -m kernel publish weights --pin", CHOICES,
    {MATCHING: REPOSITORY, **{key: own.repository for key, own in SHIPPED.items() if key not in BY_DEFAULT}},
)  # fmt: skip


@dataclass(frozen=True)
class PinnedFile:
    """Size in bytes and one hash: sha256, or git's sha1 of a small file as a blob."""

    bytes: int
    sha256: str | None = None
    blob: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.bytes <= MOST_BYTES:
            raise ValueError(f"{reprlib.repr(self.bytes)} bytes are no size of a file")
        if not HASHES[self.kind].fullmatch(self.hash):
            raise ValueError(f"{reprlib.repr(self.hash)} is no {self.kind}")

    @property
    def kind(self) -> str:
        return "blob" if self.sha256 is None else "sha256"

    @property
    def hash(self) -> str:
        return self.sha256 or self.blob or ""

    def hash_of(self, path: Path) -> str:
        """The same kind of hash of a file here."""
        if self.kind == "sha256":
            return file_sha256(path)
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: digest).hexdigest()

    def record(self) -> dict[str, Any]:
        return {"bytes": self.bytes, self.kind: self.hash}

    def __str__(self) -> str:
        return f"{self.bytes} bytes, {self.kind} {self.hash}"


@dataclass(frozen=True)
class Pin:
    """A repository as it stands in the pins file; without a revision the hub is still to be asked, for files too."""

    repository: str
    revision: str | None
    files: dict[str, PinnedFile]

    def __post_init__(self) -> None:
        if not NAMED_REVISION.fullmatch(self.revision or "") and (self.revision or self.files):
            raise ValueError(f"revision {reprlib.repr(self.revision)} is no commit of 40 hex digits")


@dataclass(frozen=True)
class Pins:
    """pins.json: the repositories of each catalogue by key."""

    repositories: dict[str, Pin] = field(default_factory=dict)
    prompts: dict[str, Pin] = field(default_factory=dict)
    pairs: dict[str, Pin] = field(default_factory=dict)


@dataclass(frozen=True)
class Repository:
    """A repository at one revision, with the files pinned so far; `key` is its name in the pins file.

    An empty revision stands for one that the hub still has to be asked for; `pins` is the pins file.
    """

    key: str
    name: str
    revision: str
    files: dict[str, PinnedFile] = field(default_factory=dict)
    catalogue: Catalogue = MODELS
    pins: Path = PINS

    @property
    def other_revision(self) -> str:
        """What to do where this one cannot be taken."""
        return (
            f'To take another: set "revision" of {self.key} in {self.pins} to a commit of its history on the hub, '
            f"or to null for the newest, empty its \"files\", run '{self.catalogue.command}'"
        )

    def record(self) -> dict[str, Any]:
        """As it stands in the pins file."""
        files = {name: file.record() for name, file in self.files.items()}
        return {"repository": self.name, "revision": self.revision, "files": files}

    def __str__(self) -> str:
        return f"{self.name} at {self.revision[:8] or 'no revision yet'}"


def needed_files(key: str, names: Iterable[str], catalogue: Catalogue = MODELS) -> list[str]:
    """The names of the files that are taken, small ones first. Raises ValueError saying what is lacking."""
    choice, present = catalogue.choices[key], set(names)
    for name in choice.required:
        if name not in present:
            raise ValueError(f"it has no {name}")
    small = [name for name in (*choice.required, *choice.optional) if name in present]
    if not choice.weights:
        return small
    for name in choice.weights:
        if name in present:
            return [*small, name]
    shards = sorted(name for name in present if SHARD.fullmatch(name))
    if not shards:
        raise ValueError(f"it has no {' or '.join(choice.weights)} and no shards of it")
    count = int(shards[0].split("-of-")[1][:5])
    if shards != [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]:
        raise ValueError(f"its shards are incomplete: {', '.join(shards)}")
    return [*small, *shards]


def read_pins(path: Path, catalogue: Catalogue = MODELS, asked: Iterable[str] = ()) -> dict[str, Repository]:
    """The catalogue's repositories by key, as far as they are pinned: those that the file names, and those `asked` for.

    Raises UserError where the file says else.
    """
    put_back = "Nothing says what to download. Put the committed file back"
    named = getattr(read_record(path, Pins, "the pins of the repositories", put_back), catalogue.section)
    lacking = [key for key in catalogue.choices if key not in {**catalogue.unasked, **named}]
    if lacking:
        raise UserError(f"{path}: {catalogue.section} lacks {', '.join(lacking)}. {put_back}")
    pins = {**{key: Pin(catalogue.unasked[key], None, {}) for key in asked if key not in named}, **named}
    return {
        key: Repository(key, pins[key].repository, pins[key].revision or "", pins[key].files, catalogue, path)
        for key in catalogue.choices
        if key in pins
    }


def pinned_repositories(path: Path, keys: Iterable[str], catalogue: Catalogue = MODELS) -> dict[str, Repository]:
    """The repositories named by `keys`, every file pinned. Raises UserError where the hub was not asked yet."""
    keys = list(keys)
    repositories = read_pins(path, catalogue, keys)
    for key in keys:
        repository = repositories[key]
        try:
            needed = needed_files(key, repository.files, catalogue)
        except ValueError as error:
            asking = "--matching" if key == MATCHING else f"--captioners {key}"
            command = f"{catalogue.command} {asking}" if key in catalogue.unasked else catalogue.command
            raise UserError(
                f"{path}: the files of {repository.name} are not pinned ({error}). Run '{command}' first: it "
                "writes their sizes and hashes there; look at the change, commit it"
            ) from error
        if set(needed) != set(repository.files):
            odd = sorted(set(repository.files) - set(needed))
            raise UserError(f"{path}: lists {odd[0]} of {repository.name}, which is not needed. Remove the entry")
    return {key: repositories[key] for key in keys}


def captioners_of(recipe: Recipe) -> list[str]:
    """In the order of fallback; a recipe that names some gets those."""
    if recipe.captioner == "auto":
        return list(BY_DEFAULT)
    names = names_in(recipe, SHIPPED_KINDS)
    for name in names:
        if name not in SHIPPED_KINDS:
            raise UserError(
                f"recipe {recipe.name!r} names the captioner {name!r}; expected auto, {', '.join(SHIPPED_KINDS)}"
            )
    return names


def captioners_asked(names: Sequence[str]) -> list[str]:
    """The names, each once. Raises UserError for one that is no captioner's."""
    for name in names:
        if name not in SHIPPED_KINDS:
            raise UserError(
                f"--captioners {name}: unknown{did_you_mean(name, SHIPPED_KINDS)}; 'python -m kernel captioners' lists "
                f"all: {', '.join(SHIPPED_KINDS)}"
            )
    return list(dict.fromkeys(names))
