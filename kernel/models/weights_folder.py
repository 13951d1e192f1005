"""The weights folder: its manifest, its checks, and what may lie in it. All is checked before any loader runs.

A finished folder is added to as kernel/models/additions.py says.
"""

import hashlib
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, NotRequired

from typing_extensions import TypedDict

from kernel.errors import UserError, kind_and_line, others_beside
from kernel.system.files import file_sha256, hashing, write_json
from kernel.system.memory import is_out_of_memory
from kernel.system.records import read_record
from kernel.system.tensor_files import Tensor, read_header

FORMAT = 1
MANIFEST = "manifest.json"
# what a finished folder can be added to
FEATURES_FOLDER, BANK_FOLDER = "word_banks/features", "prompt_bank"
ENCODERS_FOLDER, ENCODER = "encoders", "encoder.json"
# Pickles run code when they are read, so only these are ever opened; a chat's .jinja is rendered in jinja2's sandbox.
SAFE_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".parquet", ".jinja"}
ADVICE = "Make it again: 'make miniature' (build/weights) or 'make weights' (the real ones)"


@dataclass(frozen=True)
class FileEntry:
    """A file that a record lists: its path in the record's folder, its bytes, its sha256."""

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if len(self.sha256) != 64:
            raise ValueError(f"sha256 {reprlib.repr(self.sha256)} of {self.path!r} has not 64 digits")
        if PurePosixPath(self.path).is_absolute() or ".." in PurePosixPath(self.path).parts:
            raise ValueError(f"lists {self.path!r}, which lies outside the folder")

    @classmethod
    def of(cls, file: Path, path: str) -> "FileEntry":
        return cls(path, file.stat().st_size, file_sha256(file))

    def check(self, file: Path, record: str, advice: str, hashes: bool = True) -> None:
        """Raises UserError when `file` is not as `record` says; without `hashes` only its size is looked at."""
        if not file.is_file():
            raise UserError(f"{file}: missing, though {record} lists it: the folder is incomplete. {advice}")
        size = file.stat().st_size
        if size != self.bytes:
            raise UserError(f"{file}: {size} bytes, {record} says {self.bytes}: the file is incomplete. {advice}")
        if hashes:
            self.check_sha256(file_sha256(file), file, record, advice)

    def check_sha256(self, found: str, file: Path, record: str, advice: str) -> None:
        """Raises UserError when `found`, of all of `file`, is not what `record` says."""
        if found != self.sha256:
            raise UserError(
                f"{file}: sha256 {found[:8]}... differs from {record}'s {self.sha256[:8]}...: "
                f"the file is damaged or was changed. {advice}"
            )


class TokenizerRecord(TypedDict, total=False):
    """See kernel/models/tokenizers.py."""

    size: int
    special_ids: dict[str, int | None]
    sentence: str
    ids: list[int]


Model = TypedDict(
    "Model",
    {
        "class": str,
        "source": str,
        "revision": str,
        "sha256": str,
        "tokenizer": NotRequired[TokenizerRecord],
        "languages": NotRequired[list[str]],  # of a captioner; English where none are named
        "tower_of": NotRequired[str],  # the model whose files have its vision tower, and what that is: shared_tower.py
        "tower_sha256": NotRequired[str],
    },
)


@dataclass(frozen=True)
class Manifest:
    """manifest.json; the order of `captioners` is that of fallback."""

    format: int
    models: dict[str, Model]
    captioners: list[str]
    files: list[FileEntry]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}")
        if not set(self.captioners) <= set(self.models):
            raise ValueError(f"captioners {self.captioners} are not all among the models")
        towers = {model["tower_of"] for model in self.models.values() if "tower_of" in model}
        if not towers <= set(self.models):
            raise ValueError(f"vision towers of {reprlib.repr(sorted(towers))}, which are not all among the models")
        outside = [name for name in self.models if PurePosixPath(name).name != name or name in ("", "..")]
        if outside:
            raise ValueError(f"models {reprlib.repr(outside)} are no names of folders")


@dataclass(frozen=True)
class Weights:
    """A weights folder whose files are exactly the manifest's, byte for byte; each of `models` is a `Model`.

    `encoders` are its image encoders by name, each with the sha256 of its encoder.json, which names its files' own.
    """

    folder: Path
    models: dict[str, Any]
    captioners: list[str]
    encoders: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> "Weights":
        """The same of what `asdict` gave, on its way as JSON."""
        return cls(**{**content, "folder": Path(content["folder"])})

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST

    def encoder_folder(self, name: str) -> Path:
        return self.folder / ENCODERS_FOLDER / name

    def model_folder(self, name: str) -> Path:
        parent = self.folder / "captioners" if name in self.captioners else self.folder
        return parent / name

    def sha256(self, name: str) -> str:
        return self.models[name]["sha256"]


def open_weights(
    folder: Path,
    parts: tuple[str, ...] | None = None,
    hashes: bool = True,
    meanwhile: Callable[[], None] = lambda: None,
) -> Weights:
    """Checks every file against the manifest. Raises UserError naming the first file that is wrong.

    With `parts`, only files in these top-level folders (or of these names) are checked, and nothing else may be read.
    Without `hashes`, a changed byte is not seen, as no file is read whole: for a look at a folder, not for a run.
    `meanwhile` is done while files are hashed, and must read none of them.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{path}: not found; expected a weights folder with a manifest{others_beside(folder, MANIFEST)}. "
            "'make miniature' makes the miniature one, 'make weights' the real one"
        )
    manifest = read_manifest(path)
    listed = {entry.path: entry for entry in manifest.files if is_part(entry.path, parts)}
    # rglob does not look behind a link to a folder, so the link itself counts as a file that nothing lists
    files = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    present = {p.relative_to(folder).as_posix() for p in files} - {MANIFEST}
    present = {name for name in present if is_part(name, parts)}
    try:
        check_files(folder, listed, present, hashes, meanwhile)
    except UserError as error:
        cut = decided_additions(folder)
        if not cut:
            raise
        raise UserError(
            f"{folder}: a command was ended while it put files there, and left {addition_path(folder, cut[0])} beside "
            f"it: they do not fit {MANIFEST} yet. Run that command again, such as 'python -m kernel publish weights': "
            "it ends in a moment"
        ) from error
    return Weights(folder, manifest.models, manifest.captioners, encoders_of(manifest.files))


def encoders_of(files: list[FileEntry]) -> dict[str, str]:
    """Example: the entry encoders/vit/encoder.json with its sha256 -> {"vit": sha256}"""
    places = [(PurePosixPath(entry.path).parts, entry.sha256) for entry in files]
    return {
        parts[1]: sha256
        for parts, sha256 in places
        if len(parts) == 3 and (parts[0], parts[2]) == (ENCODERS_FOLDER, ENCODER)
    }


def check_files(
    folder: Path,
    listed: dict[str, FileEntry],
    present: set[str],
    hashes: bool,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Raises UserError for the first file that is not as `listed` or, being `present`, is not listed at all.

    `meanwhile` is done while files are hashed.
    """
    for name in sorted(present | set(listed)):
        if PurePosixPath(name).suffix not in SAFE_SUFFIXES:
            raise UserError(
                f"{folder / name}: this kind of file can hold a pickle, which runs code when it is read; expected "
                f"only {', '.join(sorted(SAFE_SUFFIXES))}. Remove it, or convert it to safetensors"
            )
    for name in sorted(present - set(listed)):
        raise UserError(f"{folder / name}: not listed in {MANIFEST}, so nothing vouches for it. Remove it. {ADVICE}")
    # what is missing or cut is told before gigabytes are read
    for name in sorted(listed):
        listed[name].check(folder / name, "the manifest", ADVICE, hashes=False)
    with hashing(folder / name for name in listed if hashes) as sha256_of:
        meanwhile()
        for name in sorted(listed) if hashes else ():
            listed[name].check_sha256(sha256_of(folder / name), folder / name, "the manifest", ADVICE)
    for name in sorted(listed):
        if name.endswith(".safetensors"):
            check_header(folder / name)


def addition_path(folder: Path, part: str) -> Path:
    """The folder beside a weights folder in which an addition to `part` of it is put together.

    Example: build/weights, encoders/vit -> build/.weights.adding.encoders.vit
    """
    whole = folder.resolve()  # where `folder` is a link: files can be renamed only on the disk of the folder itself
    return whole.with_name(f".{whole.name}.adding.{part.replace('/', '.')}")


def decided_additions(folder: Path) -> list[str]:
    """The parts of which all that is added is there: its manifest is the last file to come."""
    start = addition_path(folder, "")
    found = sorted(start.parent.glob(f"{escape(start.name)}*/{MANIFEST}"))
    # a part is a folder, or one in a folder without a dot
    return [path.parent.name.removeprefix(start.name).replace(".", "/", 1) for path in found]


def is_part(name: str, parts: tuple[str, ...] | None) -> bool:
    return parts is None or PurePosixPath(name).parts[0] in parts


def read_manifest(path: Path) -> Manifest:
    return read_record(path, Manifest, f"a weights manifest of format {FORMAT}", ADVICE)


def check_header(path: Path, advice: str = ADVICE) -> list[Tensor]:
    """The tensors of a safetensors file; raises UserError where it is none."""
    try:
        return read_header(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}. {advice}") from error


@contextmanager
def loading(folder: Path, library: str) -> Iterator[None]:
    """Whatever a library raises over a model's folder is a UserError, but where memory is full: with less to do at
    once, or a smaller model, a run goes on."""
    try:
        yield
    except BaseException as error:
        # what the Rust in some of them calls a panic is no Exception
        refused = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if not refused or isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f"{folder}: {library} cannot load it ({kind_and_line(error)}). {ADVICE}") from error


def write_manifest(folder: Path, models: dict[str, Any], captioners: list[str]) -> None:
    """Lists every file of `folder` and names each model by the sha256 over its files' paths and sha256s,
    and that of a tower which it takes of another.

    For a folder that nobody reads yet; a finished one is added to as kernel/models/additions.py says.
    """
    files = [
        FileEntry.of(path, path.relative_to(folder).as_posix())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    ]
    weights = Weights(folder, models, captioners)
    named: dict[str, Any] = {}
    for name, model in models.items():
        prefix = weights.model_folder(name).relative_to(folder).as_posix() + "/"
        own = [f"{entry.path.removeprefix(prefix)} {entry.sha256}" for entry in files if entry.path.startswith(prefix)]
        own += [f"tower {model['tower_sha256']}"] if "tower_sha256" in model else []
        named[name] = {**model, "sha256": hashlib.sha256("\n".join(own).encode()).hexdigest()}
    write_json(folder / MANIFEST, asdict(Manifest(FORMAT, named, captioners, files)))
