"""Runs one contender, answers in JSON: `python -m tests.bench.contenders NAME JOB FOLDER OUT STARTED IMAGES`"""

import importlib
import json
import os
import re
import resource
import sys
import warnings
from pathlib import Path


def main(name: str, job: str, folder: str, out: str, started: str, images: str) -> None:
    from kernel.system.offline import refuse_network

    # a library's advice would stand among the answers, and a model that it fetches would not be the bench's
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    refuse_network()
    from tests.bench.jobs import JOBS
    from tests.bench.material import Material
    from tests.bench.stopwatch import Stopwatch

    watch = Stopwatch(float(started))
    contender = importlib.import_module(f"tests.bench.contenders.{name}")
    contender.run(Material(Path(folder)), JOBS[job], int(images), watch, Path(out))
    result = watch.result(int(images), bare=name == "floor")
    # weights that are run as they lie in their mapped file count, the code of libraries does not
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - bytes_of_code()
    print(json.dumps(result), file=answers, flush=True)
    os._exit(0)  # giving gigabytes back piece by piece takes a second or two


def bytes_of_code() -> int:
    """Bytes of mapped libraries that are resident now: code and constants, which every process of a machine shares."""
    code, resident = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            code = re.search(r"\.so[.0-9]*$", line) is not None
        elif code and (found := re.match(r"Rss: +(\d+) kB", line)):
            resident += int(found[1]) * 1024
    return resident


if __name__ == "__main__":
    main(*sys.argv[1:])
