"""What is asked of the files that prompts are written into."""

from dataclasses import dataclass
from pathlib import Path

from kernel.errors import UserError, did_you_mean

KINDS = ("txt", "jsonl", "csv")
EXISTING = ("skip", "overwrite", "append", "prepend")
FORMS = ("prompt", "tags", "sentence")
KEYS = ("file_name", "text")  # of Hugging Face's imagefolder


@dataclass(frozen=True)
class Sidecars:
    """`kind` of file, and what is done with captions that are `existing`; `prefix` and `suffix` stand round what is
    new, which is the whole prompt, its terms as `tags`, or the captioner's `sentence` (`form`), in at most `max_tokens`
    of CLIP. `keys` are those of a row of metadata.jsonl, `out` is the CSV.

    Example: Sidecars("txt", existing="append", prefix="sks dog")
    Raises UserError for a name that is none, and for settings that do not go together.
    """

    kind: str
    existing: str = "skip"
    prefix: str = ""
    suffix: str = ""
    form: str = "prompt"
    max_tokens: int | None = None
    keys: tuple[str, str] = KEYS
    out: str | None = None

    def __post_init__(self) -> None:
        for option, name, valid in (
            ("--write", self.kind, KINDS),
            ("--existing", self.existing, EXISTING),
            ("--form", self.form, FORMS),
        ):
            if name not in valid:
                raise UserError(f"unknown {option} {name!r}{did_you_mean(name, valid)}. Valid: {', '.join(valid)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"--max-tokens {self.max_tokens}: expected 1 or more")
        if len(set(self.keys)) != 2 or not all(self.keys):
            raise UserError(f"--keys {','.join(self.keys)}: expected two names, such as {','.join(KEYS)}")
        if self.keys != KEYS and self.kind != "jsonl":
            raise UserError(f"--keys are those of --write jsonl, and --write is {self.kind}. Leave one out")
        if self.out is not None and self.kind != "csv":
            raise UserError(
                f"--out {self.out} is the file of --write csv; with {self.kind} captions lie beside their pictures. "
                "Leave it out"
            )

    @property
    def csv_path(self) -> Path:
        assert self.out is not None
        return Path(self.out)
