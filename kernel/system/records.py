"""Records that people or other machines write: JSON files, each read against the type that describes it.

Nothing is converted on the way: "6" and true are no numbers. Keys that the type does not name are passed over, for a
newer version may have written them; a change that older versions must not overlook takes another `format`.
"""

import reprlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kernel.errors import UserError
from kernel.system.opening import read_whole

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

Kind = TypeVar("Kind")
MOST_BYTES = 64 * 2**20  # 200 bytes for each of 300,000 bad images in run.json
MOST_SAID = 3  # wrong keys that one line can tell


def read_record(path: Path, kind: type[Kind], expected: str, advice: str) -> Kind:
    """What the JSON file `path` holds, as a `kind`: a dataclass, a TypedDict, or a type such as dict[str, Any].

    `expected` says what it is, such as "a weights manifest of format 1", `advice` what to do where it is not.
    Raises UserError, in one line, for a file that cannot be read, and for each key what was found and expected there.
    """
    from pydantic import ValidationError

    try:
        content = read_whole(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected {expected}. {advice}") from error
    try:
        return schema(kind).validate_json(content, strict=True)  # type: ignore[arg-type]  # types can be hashed
    except ValidationError as error:
        raise UserError(f"{path}: not {expected} ({problems(error)}). {advice}") from error


@cache
def schema(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def problems(error: "ValidationError") -> str:
    """The first of what is wrong, in one line."""
    found = [problem(own) for own in error.errors(include_url=False)]
    more = [f"and {len(found) - MOST_SAID} more"] if len(found) > MOST_SAID else []
    return " ".join("; ".join([*found[:MOST_SAID], *more]).split())  # keys and values can hold line breaks


def problem(error: Any) -> str:
    """Example: "files.0.bytes is '6': input should be a valid integer"."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "value_error":
        return ": ".join(filter(None, (where, str(error["ctx"]["error"]))))
    if error["type"] == "json_invalid":
        return f"{error['msg']}, in what begins with {error['input'][:30]!r}"
    return f"{where or 'it'} is {reprlib.repr(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"
