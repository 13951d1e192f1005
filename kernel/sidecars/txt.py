"""IMAGE.txt beside its picture, as sd-scripts, musubi, ai-toolkit and SimpleTuner read it: UTF-8, a caption a line."""

from pathlib import Path

from kernel.errors import UserError
from kernel.sidecars.captions import Change
from kernel.system.files import write_whole
from kernel.system.opening import read_whole

MOST_BYTES = 2**24  # a caption takes some hundred
CURE = "Mend or remove it, then run again"


def txt_path(image: Path) -> Path:
    """Example: txt_path(Path("a/b.c.png")) == Path("a/b.c.txt")"""
    return image.with_suffix(".txt")


def txt_bytes(captions: list[str]) -> bytes:
    """Captions, none of which holds a line break, as the content of a .txt."""
    return "".join(f"{caption}\n" for caption in captions).encode("utf-8", "surrogateescape")


def read_txt(path: Path) -> list[str]:
    """The captions of a .txt, none where it is missing or blank; bytes that are not UTF-8 as lone surrogates.

    Raises UserError for what cannot be read.
    """
    try:
        content = read_whole(path, MOST_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a picture's captions. {CURE}") from error
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def require_utf_8(image: Path, captions: list[str]) -> None:
    """Raises UserError for captions with bytes of another encoding: a trainer would stop at what is joined to them."""
    if any("\udc80" <= character <= "\udcff" or character == "\0" for character in "".join(captions)):
        raise UserError(f"{txt_path(image)}: not UTF-8, and what would be joined to it is. {CURE}")


class TextFiles:
    """Every picture's captions in a file of their own."""

    waits = 1  # pictures until the next writing

    def captions(self, images: list[Path]) -> list[list[str]]:
        return [read_txt(txt_path(image)) for image in images]

    def write(self, changes: list[Change]) -> list[Path]:
        """Returns the pictures whose captions somebody else has changed: those stay."""
        left = []
        for image, before, after in changes:
            if read_txt(txt_path(image)) == before:
                write_whole(txt_path(image), txt_bytes(after))
            else:
                left.append(image)
        return left
