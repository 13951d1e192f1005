"""`python -m tests.fuzz.one TARGET [libFuzzer's options]`: bytes into one target until something breaks."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kernel", "json", "csv"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    # a folder in memory where there is one: a file is written anew for every case
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        atheris.Setup([sys.argv[0], *options], lambda content: TARGETS[name](Path(folder), content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
