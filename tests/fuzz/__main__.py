"""`python -m tests.fuzz [--seconds 600]`: every target for so long; what it found lies in build/fuzz/.

A case that breaks a target, takes more than 60 seconds or 2 GB ends its run: it belongs into tests/fuzz/corpus/TARGET/,
where tests/fuzz/test_corpus.py tries it from then on.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS

FOUND = Path("build/fuzz")
STATISTICS = {
    "number_of_executed_units": "cases",
    "slowest_unit_time_sec": "s the slowest",
    "peak_rss_mb": "MB at most",
}


def fuzz(target: str, seconds: int) -> bool:
    """Whether nothing was found; prints a line of what was done."""
    own = FOUND / target
    (own / "corpus").mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=2048", "-max_len=65536",
               "-print_final_stats=1", f"-artifact_prefix={own}/"]  # fmt: skip
    options += [str(own / "corpus"), str(CORPUS / target)]
    with (own / "log.txt").open("w+", errors="replace") as log:
        done = subprocess.run([sys.executable, "-m", "tests.fuzz.one", target, *options], stdout=log, stderr=log)
        log.seek(0)
        told = dict(re.findall(r"stat::(\w+):\s+(\d+)", log.read()))
    figures = ", ".join(f"{int(told.get(name, 0)):,} {words}" for name, words in STATISTICS.items())
    print(
        f"{target}: {figures}; {'nothing found' if done.returncode == 0 else f'FOUND something: see {own}'}", flush=True
    )
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default %(default)s)")
    seconds = parser.parse_args().seconds
    return 0 if all([fuzz(target, seconds) for target in TARGETS]) else 1


if __name__ == "__main__":
    sys.exit(main())
