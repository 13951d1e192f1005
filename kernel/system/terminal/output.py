"""What a command prints: results on stdout, which somebody waits for, and notes on stderr, which must stop nothing."""

import _thread
import codecs
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


class Results(io.FileIO):
    """The bytes of stdout. The first that cannot be written ends the command as SIGTERM does: from whatever thread it
    was printed, and past every place that takes an exception for the failure of a model, a worker or a disk."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
                _thread.interrupt_main(signal.SIGTERM)
        return len(data)  # dropped: what buffers still hold must not fail again when the process ends


class Notes(io.FileIO):
    """The bytes of stderr: dropped where nobody can read them, and once stdout has failed, which ends quietly."""

    results: Results

    def write(self, data: Any) -> int:
        if self.results.error is None:
            with suppress(OSError):
                return super().write(data)
        return len(data)


def printing(command: Callable[[], int]) -> int:
    """Runs a command in a process of its own and returns its exit code; 1 when stdout could not take what it printed.

    A pipe that its reader has closed ends it without a word, any other failure of stdout with one line on stderr. A
    letter that the encoding of stdout lacks is printed as an escape (`\\xe9`), so that nothing is lost. Before it,
    `end_when_interrupted` made KeyboardInterrupt of SIGTERM.
    """
    results, notes = Results(1, "w", closefd=False), Notes(2, "w", closefd=False)
    notes.results = results
    sys.stdout, sys.stderr = text_of(results, sys.stdout), text_of(notes, sys.stderr)
    try:
        code = command()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:
        code = 1
    with suppress(KeyboardInterrupt):
        sys.stdout.flush()
    if results.error is None:
        return code
    if results.error.errno != errno.EPIPE:
        said = f"error: stdout cannot be written ({results.error.strerror}): results are missing there. Run again into "
        os.write(2, f"{said}a file that can be written\n".encode())
    return 1


def text_of(raw: io.FileIO, stream: TextIO) -> TextIO:
    """`raw` with the encoding of a standard stream, a line at a time where that was so."""
    at_once = getattr(stream, "line_buffering", True) or getattr(stream, "write_through", True)
    encoding = getattr(stream, "encoding", "utf-8")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=at_once)


def json_text(content: Any) -> str:
    """One line of JSON for stdout: letters as they are where its encoding has them all, else JSON's own escapes."""
    return json.dumps(content, ensure_ascii=codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8")
