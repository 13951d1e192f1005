"""`publish prompts`: public prompts from the hub, filtered and sampled, as a file that `python -m kernel bank` reads.

Beside OUT lies OUT.json, which says where every prompt can come from and what was dropped. Downloads stay in the
scratch folder, so that other filters and seeds need no second one.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kernel.banks.prompt_bank import write_prompts
from kernel.banks.prompt_files import find_column, parquet_rows, parquet_text_columns, readable
from kernel.errors import UserError
from kernel.publish.hub.captions import captions_in
from kernel.publish.hub.download import bytes_to_come, fetch
from kernel.publish.hub.pins import Repository, pinned_repositories
from kernel.publish.hub.prompt_filters import REASONS, PromptSettings, passed
from kernel.publish.hub.prompt_sources import PROMPTS, PromptSource, chosen_sources
from kernel.system.files import file_sha256, require_space, whole_file, write_json
from kernel.system.records import read_record
from kernel.system.terminal.progress import progress_bar

FORMAT = 1
NOT_DRAWN = "duplicate or not drawn"


class Counts(TypedDict):
    """Of rows: those read, those dropped by reason, those written."""

    read: int
    dropped: dict[str, int]
    written: int


class Sample(TypedDict):
    """OUT.json, but for what was asked."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    format: int
    sources: list[dict[str, Any]]
    counts: Counts
    bytes: int
    sha256: str


def publish_prompts(settings: PromptSettings, out: Path, scratch: Path, pins: Path) -> dict[str, Any]:
    """Makes `out` the sample that `settings` ask for, or finds that it is, and returns its record.

    A download that was cut goes on where it was. Raises UserError for anything about sources, licences, pins, hub,
    tables or disk, and when no prompt passes; `out` then stays as it was.
    """
    sources = chosen_sources(settings.sources, settings.accepted)
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: expected a name that ends in .parquet, by which the bank knows how to read it")
    on_hub = [source.name for source in sources if not source.address]
    repositories = pinned_repositories(pins, on_hub, PROMPTS)
    # what decides which prompts come out; the same again is the same file
    asked = {
        "format": FORMAT,
        "sources": [
            {"name": source.name, "licence": source.licence} | origin(source, repositories, scratch)
            for source in sources
        ],
        "mix": settings.mix,
        "filters": {name: getattr(settings, name) for name in ("min_words", "max_words", "language", "max_nsfw")},
        "seed": settings.seed,
        "count": settings.count,
    }
    record = left_record(out)
    if out.exists() and record is None:
        raise UserError(f"{out}: exists, and no {record_path(out).name} says that this made it. Give --out a new file")
    made = record is not None and out.is_file() and all(record.get(key) == asked[key] for key in asked)
    if record is not None and made and file_sha256(out) == record["sha256"]:
        print(f"{out}: this very sample, whole; nothing to do", file=sys.stderr)
        return record
    try:
        counts: Counter[str] = Counter()
        texts: dict[str, set[str]] = {name: set() for name in settings.mix or ["all"]}
        for source, path in downloaded(sources, repositories, scratch):
            read_into(texts[source.name if settings.mix else "all"], source, path, settings, counts)
        return written(out, drawn(texts, settings), asked, counts)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}). Free space there, or give --out "
            "or --scratch another disk, then run again: what was downloaded is kept"
        ) from error


def record_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def left_record(out: Path) -> dict[str, Any] | None:
    """What stands beside `out`; None when nothing does, or nothing that this command wrote."""
    with suppress(UserError):
        record = read_record(record_path(out), Sample, "the record of a sample", "Give --out a new file")
        return dict(record) if record["format"] == FORMAT else None
    return None


def origin(source: PromptSource, repositories: dict[str, Repository], scratch: Path) -> dict[str, Any]:
    """Where a source's files are from, with their sizes and hashes."""
    if not source.address:
        return repositories[source.name].record()
    path = source.fetched_by_hand(scratch)
    file = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    return {"credit": source.credit, "address": source.address, "files": {path.name: file}}


def downloaded(
    sources: list[PromptSource], repositories: dict[str, Repository], scratch: Path
) -> list[tuple[PromptSource, Path]]:
    """The files of every source, checked by size and hash. Raises UserError before the first when they cannot fit."""
    scratch.mkdir(parents=True, exist_ok=True)
    files = [
        (source, repositories[source.name], name) for source in sources if not source.address for name in source.files
    ]
    need = sum(bytes_to_come(repository, name, scratch) for _, repository, name in files)
    require_space(scratch, need, f"{need / 1e9:.2f} GB are to be downloaded", "give --scratch another disk")
    found = []
    for source in sources:
        if source.address:
            found.append((source, source.fetched_by_hand(scratch)))
            continue
        repository = repositories[source.name]
        print(f"{source.name}: {repository}, licence {source.licence}", file=sys.stderr)
        found += [(source, fetch(repository, name, scratch)) for name in source.files]
    return found


def read_into(
    texts: set[str], source: PromptSource, path: Path, settings: PromptSettings, counts: Counter[str]
) -> None:
    """Adds the prompts of one file that pass; `counts` takes what was read, and what was dropped by its reason."""
    with readable(path):
        total, rows = rows_of(source, path)
        for text, *scores in progress_bar(rows, total=total, desc=source.name, unit="row", unit_scale=True):
            text = source.noise.sub(" ", text or "") if source.noise else text or ""
            verdict = passed(text, scores[0] if scores else None, source.nsfw is not None, settings)
            counts["read"] += 1
            if isinstance(verdict, str):
                counts["passed"] += 1
                texts.add(verdict)
            else:
                counts[verdict.value] += 1


def rows_of(source: PromptSource, path: Path) -> tuple[int | None, Iterable[tuple[Any, ...]]]:
    """How many rows a file has, where that is known, and the rows: text, and its NSFW score where the source has any.

    Memory is that of one row group's columns, or of one JSON of captions.
    """
    if source.members:
        return None, ((caption,) for caption in captions_in(path, source.members))
    columns = [source.prompt or find_column(path, None), *([source.nsfw] if source.nsfw else [])]
    return check_columns(source, path, columns[0]), parquet_rows(path, columns)


def check_columns(source: PromptSource, path: Path, prompt: str) -> int:
    """The table's number of rows. Raises UserError when a column is not there or holds something else."""
    import pyarrow.parquet
    from pyarrow import types

    with pyarrow.parquet.ParquetFile(path) as file:
        total, schema = file.metadata.num_rows, file.schema_arrow
    numbers = [field.name for field in schema if types.is_floating(field.type) or types.is_integer(field.type)]
    for name, kind, fitting in (
        (prompt, "text", parquet_text_columns(path)),
        (source.nsfw, "numbers", [*numbers, None]),
    ):
        if name not in fitting:
            raise UserError(
                f"{path}: has no column {name!r} of {kind}; its columns are {', '.join(schema.names) or 'none'}. The "
                f"source {source.name} is another than this program knows: take an older revision of it, or another "
                "source"
            )
    return total


def drawn(texts: dict[str, set[str]], settings: PromptSettings) -> list[str]:
    """The sample of all texts, or of each source's by its share in the mix: the source that has too few makes the
    others give less too. A text of several sources is the first one's. Raises UserError where one has none."""
    if not settings.mix:
        return sample(texts["all"], settings.count, settings.seed)
    taken: set[str] = set()
    total, parts = float(settings.count), {}
    for name, share in settings.mix.items():
        parts[name] = texts[name] - taken
        taken |= parts[name]
        total = min(total, len(parts[name]) / share)
    shares = {name: int(total * share + 1e-6) for name, share in settings.mix.items()}
    if not all(shares.values()):
        told = ", ".join(f"{name} has {len(own):,}" for name, own in parts.items())
        raise UserError(
            f"--mix: of prompts that pass {told}: too few for these shares of {settings.count:,}, so nothing was "
            "written. Give other shares, or a larger --count"
        )
    return sample(
        [text for name, count in shares.items() for text in sample(parts[name], count, settings.seed)],
        settings.count,
        settings.seed,
    )


def sample(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """The `count` of the different `texts` with the smallest hashes, in their order, which is random to a reader.

    It depends on texts and seed alone, not on their order. All have the same odds, and a smaller sample of the same
    seed is the beginning of a larger one. Of 10 million texts two share a hash with odds below 1e-24.
    """
    return sorted(texts, key=lambda text: hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=16).digest())[:count]


def written(out: Path, prompts: list[str], asked: dict[str, Any], counts: Counter[str]) -> dict[str, Any]:
    """Writes `out` and its record, each whole or not at all, and returns the record."""
    dropped = {reason: counts[reason] for reason in REASONS}
    names = ", ".join(source["name"] for source in asked["sources"])
    if not prompts:
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        raise UserError(
            f"{names}: none of {counts['read']:,} prompts passes the filters ({why or 'the table is empty'}), so "
            f"{out} was not written. Loosen them: --min-words, --max-words, --language any, --max-nsfw"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as unfinished:
        write_prompts(unfinished, len(prompts), [prompts])
        dropped[NOT_DRAWN] = counts["passed"] - len(prompts)
        record = {
            **asked,
            "counts": {"read": counts["read"], "dropped": dropped, "written": len(prompts)},
            "bytes": unfinished.stat().st_size,
            "sha256": file_sha256(unfinished),
        }
        # the record first: without it a file that stands there is taken for someone else's
        write_json(record_path(out), record)
    return record
