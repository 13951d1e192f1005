"""Prompt banks: prompts with their CLIP text features and MiniLM embeddings, as files.

A bank is a folder, row i of every file belonging to prompt i:
prompts.parquet       column `prompt`
clip.safetensors      `features` (N, d) float16 unit rows
sentences.safetensors `embeddings` (N, 384) float16 unit rows
head.safetensors      the text-only head fitted on them
fusion.json           only where `fit` was run: the estimates' shares fitted on images with known prompts
bank.json             see BankRecord
The two matrices are memory-mapped and never read whole. Rounding to float16 moves a cosine by at most 5e-4.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from kernel.config import BANK, EMBEDDING_DIMENSIONS, ENCODERS, ESTIMATES, NEAREST, RECIPES, Recipe
from kernel.errors import UserError, others_beside
from kernel.models.linear_head import ADVICE, Head, load_head
from kernel.models.vectors import check_unit_rows
from kernel.models.weights_folder import FileEntry, Weights
from kernel.system.files import whole_file, write_json, writing
from kernel.system.records import read_record
from kernel.system.tensor_files import Tensor, read_header, write_tensors

FORMAT = 1
RECORD = "bank.json"
PROMPTS, HEAD = "prompts.parquet", "head.safetensors"
SHARES, SHARES_FORMAT = "fusion.json", 2
MATRICES = {"clip.safetensors": "features", "sentences.safetensors": "embeddings"}


class BankRecord(TypedDict):
    """bank.json: the models' sha256, the number of prompts, and what they were built of."""

    format: int
    clip: str
    sentences: str
    count: int
    files: list[FileEntry]
    dropped: dict[str, int]
    excluded: dict[str, Any] | None
    read: NotRequired[int]
    build: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Fusion:
    """fusion.json: the models' sha256, the image encoders' by name, and by recipe the estimates' shares."""

    format: int
    clip: str
    sentences: str
    encoders: dict[str, str]
    shares: dict[str, dict[str, float]]

    def __post_init__(self) -> None:
        if self.format != SHARES_FORMAT:
            raise ValueError(f"format {self.format}")
        for recipe, shares in self.shares.items():
            if not set(shares) <= set(ESTIMATES):
                raise ValueError(f"shares of {', '.join(shares)}")
            if not all(share >= 0 for share in shares.values()) or not abs(sum(shares.values()) - 1) <= 1e-6:
                raise ValueError(f"the shares {shares} of recipe {recipe} sum to {sum(shares.values()):g}, not to 1")


@dataclass(frozen=True)
class PromptBank:
    """An opened bank. features (N, d) and embeddings (N, 384) are float16 memory maps."""

    folder: Path
    record: BankRecord
    features: np.memmap
    embeddings: np.memmap
    head: Head

    @classmethod
    def open(cls, folder: Path, clip_sha256: str, sentences_sha256: str) -> "PromptBank":
        """Raises UserError naming the first file that is wrong, or the model that the bank was not made with.

        The matrices are checked by size and header, for reading gigabytes to hash them would cost minutes; the
        other files by sha256. The prompts' file is not opened: a run needs no word of it.
        """
        record = read_bank_record(folder)
        own, given = (record["clip"], record["sentences"]), (clip_sha256, sentences_sha256)
        for name, made_with, sha256 in zip(("CLIP", "MiniLM"), own, given, strict=True):
            if made_with != sha256:
                raise UserError(
                    f"{folder / RECORD}: made with the {name} model {made_with[:8]}..., the weights folder holds "
                    f"{sha256[:8]}...: their vectors cannot be compared. Give the bank's own weights, or {ADVICE}"
                )
        for entry in record["files"]:
            entry.check(folder / entry.path, RECORD, ADVICE, hashes=entry.path not in MATRICES)
        features, embeddings = (
            open_matrix(folder / name, tensor, record["count"]) for name, tensor in MATRICES.items()
        )
        bank = cls(folder, record, features, embeddings, load_head(folder / HEAD))
        shape = (features.shape[1], EMBEDDING_DIMENSIONS)
        if bank.head.weights.shape != shape:
            raise UserError(f"{folder / HEAD}: maps {bank.head.weights.shape}; expected {shape}. {ADVICE}")
        return bank

    def fitted(self) -> Fusion | None:
        """What `fit` left beside the bank; None when it was not fitted. Raises UserError when it is damaged, or of
        other models than the bank's."""
        path, refit = self.folder / SHARES, "Remove it, or run 'python -m kernel fit' again"
        if not path.is_file():
            return None
        fusion = read_record(path, Fusion, f"fitted shares of format {SHARES_FORMAT}", refit)
        if (fusion.clip, fusion.sentences) != (self.record["clip"], self.record["sentences"]):
            raise UserError(
                f"{path}: fitted with other models than the bank's, so its shares mean nothing here. {refit}"
            )
        return fusion

    def prompts(self, indices: Iterable[int]) -> list[str]:
        """The prompts of these rows, in the order asked for: about 100 MB are read for a million.

        Raises UserError for a damaged file, IndexError for a row that the bank does not have.
        """
        import pyarrow
        from pyarrow.parquet import ParquetFile

        path, count = self.folder / PROMPTS, self.record["count"]
        try:
            table = ParquetFile(path).read()
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: not a readable parquet file ({error}). {ADVICE}") from error
        if table.column_names != ["prompt"]:
            raise UserError(f"{path}: columns {table.column_names}; expected 'prompt'. {ADVICE}")
        if len(table) != count:
            raise UserError(f"{path}: {len(table)} rows; {RECORD} says {count}. {ADVICE}")
        return table["prompt"].take(np.fromiter(indices, dtype=np.int64)).to_pylist()


def read_bank_record(folder: Path) -> BankRecord:
    path, expected = folder / RECORD, f"a prompt bank's record of format {FORMAT}"
    if not path.is_file():
        raise UserError(f"{path}: not found; expected a finished prompt bank{others_beside(folder, RECORD)}. {ADVICE}")
    record = read_record(path, BankRecord, expected, ADVICE)
    listed = sorted(entry.path for entry in record["files"])
    if record["format"] != FORMAT or listed != sorted([PROMPTS, HEAD, *MATRICES]):
        raise UserError(f"{path}: not {expected} (format is {record['format']}, lists the files {listed}). {ADVICE}")
    if record["count"] < 1:
        raise UserError(f"{path}: the bank holds no prompt, so no image has a neighbour in it. {ADVICE}")
    return record


def open_matrix(path: Path, tensor: str, count: int) -> np.memmap:
    """Maps the only tensor of a safetensors file, (count, d) float16. Raises UserError for any other."""
    try:
        listed = read_header(path)
        if [(own.name, own.dtype) for own in listed] != [(tensor, "F16")]:
            raise ValueError(f"holds {[f'{own.dtype} {own.name}' for own in listed]}; expected {tensor} alone, in F16")
        rows, dimensions = listed[0].shape
        matrix = np.memmap(path, dtype="<f2", mode="r", offset=listed[0].start, shape=(rows, dimensions))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a matrix named {tensor} ({error!r}): the file is damaged. {ADVICE}") from error
    if rows != count:
        raise UserError(f"{path}: {rows} rows; {RECORD} says {count}. {ADVICE}")
    return matrix


def write_bank(
    folder: Path,
    count: int,
    prompts: Iterable[list[str]],
    features: Iterable[np.ndarray],
    embeddings: Iterable[np.ndarray],
    head: Head,
    record: dict[str, Any],
) -> None:
    """Writes a bank of `count` prompts from batches of prompts, of (b, d) and of (b, 384) unit rows.

    `record` holds the keys clip, sentences, sources, dropped and excluded of bank.json. Each iterable is gone
    through once, batch by batch. Every file is written under a temporary name and renamed; bank.json is removed
    first and written last, so a bank cut short is no bank.
    Raises ValueError when the batches do not add up to `count`, UserError for rows that are not unit rows and for
    a folder that cannot be written.
    """
    cure = (
        f"no {RECORD} was left, so nothing takes it for a bank. Free space or give --out another folder, then run the "
        "same command again"
    )
    with writing(folder, cure):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        write_prompts(folder / PROMPTS, count, prompts)
        write_matrix(folder / "clip.safetensors", (count, head.weights.shape[0]), features)
        write_matrix(folder / "sentences.safetensors", (count, head.weights.shape[1]), embeddings)
        head.save(folder / HEAD)
        paths = [folder / name for name in (PROMPTS, *MATRICES, HEAD)]
        files = [asdict(FileEntry.of(path, path.name)) for path in paths]
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(folder / RECORD, {"format": FORMAT, "count": count, **record, "created": created, "files": files})


def write_prompts(path: Path, count: int, batches: Iterable[list[str]]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([("prompt", pyarrow.string())])
    written = 0
    with whole_file(path) as unfinished:
        with ParquetWriter(unfinished, schema) as writer:
            for batch in batches:
                writer.write_table(pyarrow.table({"prompt": batch}, schema=schema))
                written += len(batch)
        if written != count:
            raise ValueError(f"{path}: {written} prompts; expected {count}")


def write_matrix(path: Path, shape: tuple[int, int], batches: Iterable[np.ndarray]) -> None:
    """The safetensors file of one float16 matrix, written row by row: a memory map dies on a full disk, a file says so.

    Raises UserError for rows that are no unit rows, ValueError for another shape.
    """

    def blocks(tensor: Tensor) -> Iterator[bytes]:
        for rows in batches:
            check_unit_rows(str(path), rows)
            yield rows.astype("<f2").tobytes()

    write_tensors(path, [Tensor(MATRICES[path.name], "F16", shape)], blocks, metadata={})


def opened_bank(recipe: Recipe, given: Path | None, weights: Weights) -> PromptBank | None:
    """The bank given, or the weights folder's, when the recipe has a share for it. Raises UserError without one."""
    if not recipe.needs(BANK):
        return None
    folder = given or weights.folder / "prompt_bank"
    if given is None and not (folder / RECORD).is_file():
        raise UserError(
            f"recipe {recipe.name!r} asks a prompt bank, and none was given. Make one with 'python -m kernel bank "
            "PROMPTS --weights DIR --out BANK' and give --bank BANK, or run --recipe baseline, which needs none"
        )
    bank = PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))
    if recipe.needs(NEAREST) and recipe.neighbours > len(bank.features):
        raise UserError(
            f"{folder}: holds {len(bank.features)} prompts, recipe setting neighbours is {recipe.neighbours}. Set it "
            f"to {len(bank.features)} or less, or build a larger bank with 'python -m kernel bank'"
        )
    return bank


def with_fitted_shares(recipe: Recipe, bank: PromptBank | None, encoders: Mapping[str, str]) -> tuple[Recipe, str]:
    """The recipe with the shares fitted for this bank and these `encoders`, {name: sha256}, where there are any and no
    others were set; and their origin."""
    preset = RECIPES.get(recipe.name)
    if bank is None or preset is None or recipe.estimates != preset.estimates:
        return recipe, "recipe"
    fitted = bank.fitted()
    shares = fitted.shares.get(recipe.name) if fitted else None
    if fitted is None or shares is None or (recipe.needs(ENCODERS) and fitted.encoders != encoders):
        return recipe, "published"
    return replace(recipe, estimates=shares), "fitted"
