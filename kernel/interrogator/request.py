"""What is asked of `describe`, as plain data that another process can read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kernel.config import DEFAULT_FEATURES
from kernel.errors import UserError, did_you_mean
from kernel.system.records import read_record

NAME = "request.json"
LANGUAGES = {"en": "English", "ko": "Korean"}
# clip-interrogator's order of the merged table, and its list for negative prompts, which stands apart
MERGED = ("artists", "flavors", "mediums", "movements", "trendings")
NEGATIVE = "negative"
MODES = ("classic", "fast", "best", "negative")
# clip-interrogator 0.6.0: three flavors in classic mode, 32 terms at most in the others
TOP = {"classic": 3, "fast": 32, "best": 32, "negative": 32}


@dataclass(frozen=True)
class Request:
    """`top` is the most terms of a prompt (in mode classic the flavors), `without` the banks that are left out, `own`
    a user's files by the bank that they replace or add, `features` the folder for features that the weights lack. No
    term that holds a `banned` word is chosen."""

    mode: str = "fast"
    language: str = field(default="en", kw_only=True)
    top: int | None = None
    without: tuple[str, ...] = ()
    own: dict[str, str] = field(default_factory=dict)
    features: str = str(DEFAULT_FEATURES)
    banned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"unknown mode {self.mode!r}{did_you_mean(self.mode, MODES)}. Valid: {', '.join(MODES)}")
        if self.language not in LANGUAGES:
            raise UserError(f"--language {self.language}: unknown. Valid: {', '.join(LANGUAGES)}")
        if self.top is not None and self.top < 1:
            raise UserError(f"--top {self.top}: expected 1 or more")

    @property
    def most(self) -> int:
        return self.top or TOP[self.mode]

    @property
    def spoken(self) -> str:
        """The language's name, as manifests have it."""
        return LANGUAGES[self.language]

    @property
    def needs_captions(self) -> bool:
        return self.mode != "negative"

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Request":
        return read_record(folder / NAME, cls, "what was asked of describe", "Give the same command again")
