"""Lines of text files that others wrote: UTF-8, of any length, in bounded memory."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kernel.system.opening import open_file

LONGEST = 2**22  # characters of a line that are read; a record can hold a picture in base64
UTF_16 = "UTF-16. Save the file as UTF-8"
# how files begin that are met under the name of a text; no UTF-8 text begins so
FIRST_BYTES = {
    b"\xff\xfe": UTF_16, b"\xfe\xff": UTF_16, b"PAR1\x15": "parquet. Give it the suffix .parquet",
    b"\x1f\x8b": "gzip. Unpack it", b"PK\x03\x04": "a zip archive, or a sheet of Excel. Unpack or convert it",
    b"\xfd7zXZ": "xz. Unpack it", b"\x28\xb5\x2f\xfd": "zstd. Unpack it", b"7z\xbc\xaf": "7z. Unpack it",
}  # fmt: skip


def not_text(head: bytes) -> str | None:
    """What a file is that begins with these bytes, and what to do with it; None where it can be UTF-8 text.

    Example: not_text(b"a\\0 \\0c\\0a\\0t\\0") == "UTF-16. Save the file as UTF-8"
    """
    halves = head[::2], head[1::2]
    if head.strip(b"\0") and any(2 * half.count(0) > len(half) for half in halves):
        return UTF_16
    return next((what for first, what in FIRST_BYTES.items() if head.startswith(first)), None)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, the line with its end); of a line of more than LONGEST characters the first LONGEST + 1.

    LF, CR LF and CR end a line. Byte order marks before a line are no part of it: files put behind one another bring
    one each. Raises OSError for what cannot be read, ValueError with the line's number for what is not UTF-8.
    """
    with open_file(path) as file:
        if (what := not_text(file.peek()[:1024])) is not None:
            raise ValueError(f"line 1: not UTF-8 but {what}")
        # undecoded bytes are kept, so that each line can be decoded by itself and an error can name it
        read = partial(io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="").readline, LONGEST + 1)
        for number, line in enumerate(iter(read, ""), 1):
            try:
                line.isascii() or line.encode("utf-8", "surrogateescape").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number}: not UTF-8 ({error.reason}). Save the file as UTF-8") from error
            rest = line
            while len(rest) > LONGEST and rest[-1] not in "\r\n":
                rest = read()
            yield number, line.lstrip("\ufeff") if len(line) <= LONGEST else line
