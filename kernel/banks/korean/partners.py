"""Korean phrases with their English partners: the package's own banks, and files of a user's."""

from dataclasses import dataclass
from pathlib import Path

from kernel.banks.word_banks import read_phrases
from kernel.errors import UserError

BANKS = ("mediums", "movements", "flavors")
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Partners:
    """The Korean phrases of one bank, in order; each has its English partner, or None where a user's file has none."""

    name: str
    english: dict[str, str | None]


def read_partners(name: str, path: Path | None = None) -> Partners:
    """A bank of the package, or a file of lines KOREAN, or KOREAN, a tab, ENGLISH.

    Of a phrase that comes twice the first counts. Raises UserError for a file that is no list, and for a line that
    holds more than that.
    """
    path = path or FOLDER / f"{name}.tsv"
    english: dict[str, str | None] = {}
    for line in read_phrases(path).phrases:
        phrase, *others = (part.strip() for part in line.split("\t"))
        # a prompt's terms stand between commas, by which they are told apart
        if len(others) > 1 or not phrase or "," in line:
            raise UserError(
                f"{path}: {line!r}; expected a phrase without commas, or that, a tab and its English partner. "
                "Write it like that"
            )
        english.setdefault(phrase, others[0] if others else None)
    return Partners(name, english)
