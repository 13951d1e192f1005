"""What of a prompt is kept: one clean line, or the reason for which it is dropped."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum

# MiniLM reads 254 word pieces and CLIP 75; real prompts have 4.4 and 4.7 characters a piece, so about 1,120 and 350
# characters are read. Of a longer prompt even MiniLM does not see the end: its row would stand for another text.
MAX_CHARACTERS = 1000


# No character decomposes into more than 4 (Unicode, NFD), so composing never shortens a text by more.
MAX_DECOMPOSED = 4 * MAX_CHARACTERS


class Reason(Enum):
    """Why a prompt is dropped; the value is its name in the counts."""

    EMPTY = "empty"
    NO_LETTER = "no letter"
    UNDECODABLE = "undecodable"
    TOO_LONG = "too long"
    DUPLICATE = "duplicate"


def clean(text: str) -> str | Reason:
    """The prompt as the bank keeps it, or why it does not: Unicode composed (NFC), each run of whitespace, line
    breaks and control characters one space, none at the ends. What is clean stays as it is.

    Example: "a\\tcat \\n on  a mat " -> "a cat on a mat"; "1 + 1" -> Reason.NO_LETTER
    """
    spaced = "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)
    collapsed = " ".join(spaced.split())
    if not collapsed:
        return Reason.EMPTY
    # U+FFFD stands where another program could not decode; a lone surrogate has no UTF-8 and breaks every tokenizer
    if any(character == "\ufffd" or "\ud800" <= character <= "\udfff" for character in collapsed):
        return Reason.UNDECODABLE
    # before composing, whose cost grows with the square of a run of combining marks
    if len(collapsed) > MAX_DECOMPOSED:
        return Reason.TOO_LONG
    composed = unicodedata.normalize("NFC", collapsed)
    if len(composed) > MAX_CHARACTERS:
        return Reason.TOO_LONG
    return composed if has_letter(composed) else Reason.NO_LETTER


def clean_prompts(prompts: Iterable[str], dropped: Counter[str]) -> Iterator[str]:
    """The clean prompts, each text at its first place only; `dropped` counts the others by reason as they pass.

    Texts are told apart by 16-byte BLAKE2b digests, not kept: about 100 bytes a prompt in Python's set, whatever
    its length. Among 10 million prompts the odds that two share a digest are below 1e-24.

    Example: ["a cat", "", "a  cat"] -> "a cat", and dropped == {"empty": 1, "duplicate": 1}
    """
    seen: set[bytes] = set()
    for prompt in prompts:
        cleaned = clean(prompt)
        if isinstance(cleaned, Reason):
            dropped[cleaned.value] += 1
            continue
        digest = hashlib.blake2b(cleaned.encode(), digest_size=16).digest()
        if digest in seen:
            dropped[Reason.DUPLICATE.value] += 1
            continue
        seen.add(digest)
        yield cleaned


def has_letter(text: str) -> bool:
    return any(character.isalpha() for character in text)
