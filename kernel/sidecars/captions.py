"""What a picture's caption is made of: a description's terms, what a user puts round them, what was there before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kernel.sidecars.asked import Sidecars


class Change(NamedTuple):
    """A picture's captions as they were when it was described, and what they become if they still are."""

    image: Path
    before: list[str]
    after: list[str]


def terms_of(record: dict[str, Any], form: str) -> list[str]:
    """A description's parts in the order of their weight, the last of which can be dropped first.

    `record`: as `describe` makes it, with `prompt`, `parts` and, but in mode negative, `caption`.
    """
    if form == "tags":
        return [one_line(part["term"]) for part in record["parts"]]
    text = one_line(record["caption"] if form == "sentence" else record["prompt"])
    return [text] if form == "sentence" else text.split(", ")


def one_line(text: str) -> str:
    """Example: one_line("a fox,\\n by a hill ") == "a fox, by a hill": to most trainers each further line of a .txt is
    another caption."""
    return " ".join(text.split())


def framed(text: str, prefix: str, suffix: str) -> str:
    """A comma comes between, but where prefix or suffix bring a blank of their own.

    Example: framed("a fox", "sks", "") == "sks, a fox"; framed("a fox", "photo of ", " at dusk") ==
    "photo of a fox at dusk"
    """
    before = prefix if prefix[-1:].isspace() or not prefix else f"{prefix.rstrip(',')}, "
    after = suffix if suffix[:1].isspace() or not suffix else f", {suffix.lstrip(',')}"
    return one_line(before + text + after)


def joined(first: str, second: str) -> str:
    """Two captions in one.

    Example: joined("a fox,", "fog") == "a fox, fog", and joined("A fox.", "fog") == "A fox. fog".
    """
    first, second = first.strip().rstrip(", "), second.strip()
    if not first or not second:
        return first or second
    return f"{first} {second}" if first[-1] in ".!?" else f"{first}, {second}"


def new_captions(
    found: list[str], terms: list[str], asked: Sidecars, count_tokens: Callable[[str], int] | None = None
) -> list[str]:
    """A picture's captions with the new one in its place: every one that was `found` gets it at its end or before its
    beginning, or it stands alone.

    With `count_tokens` terms are dropped from the end until a caption as a trainer reads it holds `max_tokens` at most;
    the first of them stays.
    """
    old = found if asked.existing in ("append", "prepend") else []
    return [fitting(before, terms, asked, count_tokens) for before in old or [""]]


def fitting(before: str, terms: list[str], asked: Sidecars, count_tokens: Callable[[str], int] | None) -> str:
    made = ""
    for count in range(len(terms), 0, -1):
        new = framed(", ".join(terms[:count]), asked.prefix, asked.suffix)
        made = joined(new, before) if asked.existing == "prepend" else joined(before, new)
        if count_tokens is None or asked.max_tokens is None or count_tokens(made) <= asked.max_tokens:
            break
    return made
