"""Runs one contender, answers in JSON: `python -m tests.bench.contenders NAME JOB FOLDER OUT STARTED IMAGES BATCHES`"""

import importlib
import json
import os
import re
import resource
import sys
import warnings
from pathlib import Path


def main(name: str, job: str, folder: str, out: str, started: str, images: str, batches: str) -> None:
    from kernel.offline import refuse_network

    # a library's advice would stand among the answers, and a model that it fetches would not be the bench's
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    refuse_network()
    from tests.bench.jobs import JOBS
    from tests.bench.material import Material
    from tests.bench.stopwatch import Stopwatch

    watch = Stopwatch(float(started))
    code = file_bytes_of_libraries()
    contender = importlib.import_module(f"tests.bench.contenders.{name}")
    contender.run(Material(Path(folder)), JOBS[job], int(images), json.loads(batches), watch, Path(out))
    result = watch.result(int(images), bare=name == "floor")
    # weights that are run as they lie in their mapped file count, the code of libraries does not
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - code
    print(json.dumps(result), file=answers, flush=True)


def file_bytes_of_libraries() -> int:
    """Bytes of mapped files that are resident once every library is imported: their code."""
    import open_clip  # noqa: F401
    import pandas  # noqa: F401
    import sentence_transformers  # noqa: F401
    from transformers import BlipForConditionalGeneration  # noqa: F401

    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


if __name__ == "__main__":
    main(*sys.argv[1:])
