"""The nearest prompts of a bank that lies on the disk, many prompts beside fewer: `python -m tests.bench.search`.

Random unit rows are written to files part by part, as wide as a bank's, and the system's copies of them in memory are
given back, so that they come from the disk. Each number of prompts is a process of its own: seconds and peak of
anonymous memory of the search and of the estimates from the neighbours' rows. OUT/search.json; the files go again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.system.files import require_space, write_json
from tests.bench.machine import machine_named

PROMPTS, IMAGES, TOP = (1_000_000, 4_000_000), 256, 100
DIMENSIONS = 1024
PART = 16_384  # rows drawn at a time
MOST_GROWTH = 1.05  # of peak memory, from the fewest prompts to the most


def drawn(rows: int, dimensions: int, seed: int) -> np.ndarray:
    """Unit rows, (rows, dimensions) float32."""
    found = np.random.default_rng(seed).standard_normal((rows, dimensions), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def write_rows(path: Path, rows: int, dimensions: int) -> np.memmap:
    """The file of a float16 matrix, mapped, and nothing of it in the system's memory."""
    with path.open("wb") as file:
        for seed, start in enumerate(range(0, rows, PART)):
            file.write(drawn(min(PART, rows - start), dimensions, seed).astype(np.float16).tobytes())
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return np.memmap(path, dtype=np.float16, mode="r", shape=(rows, dimensions))


def measure(prompts: int, images: int, dimensions: int, scratch: Path) -> dict[str, Any]:
    """Seconds, and bytes that the process took beyond what it had before, at most."""
    import torch

    from kernel.banks.nearest import nearest, neighbour_estimate
    from kernel.system.devices import Device

    features = drawn(images, dimensions, seed=2**31)
    bank = write_rows(scratch / "clip", prompts, dimensions)
    embeddings = write_rows(scratch / "sentences", prompts, EMBEDDING_DIMENSIONS)
    torch.ones(2, 2) @ torch.ones(2, 2)  # what torch itself takes, once
    searched = watched(lambda: nearest(features, bank, TOP, Device("cpu")))
    indices, cosines = searched.pop("result")
    estimated = watched(lambda: neighbour_estimate(indices, cosines, embeddings, "published", 1.0))
    del estimated["result"]
    size, threads = bank.nbytes + embeddings.nbytes, torch.get_num_threads()
    return {"prompts": prompts, "bytes": size, "threads": threads, "search": searched, "estimate": estimated}


def watched(work: Callable[[], Any]) -> dict[str, Any]:
    from kernel.system.memory import PeakMemory, return_freed_memory

    return_freed_memory()
    with PeakMemory() as memory:
        begun, computed = time.perf_counter(), time.process_time()
        result = work()
        seconds, computing = time.perf_counter() - begun, time.process_time() - computed
    peak = memory.host - memory.before
    return {"result": result, "seconds": seconds, "core_seconds": computing, "peak_bytes": peak}


def told(point: dict[str, Any], images: int) -> str:
    parts = (f"{what} {own['seconds']:,.1f} s ({own['core_seconds']:,.1f} of a core), {own['peak_bytes'] / 1e6:,.0f} MB"
             for what, own in point.items() if isinstance(own, dict))  # fmt: skip
    return f"{point['prompts']:,} prompts ({point['bytes'] / 1e9:.2f} GB), {images} images: {'; '.join(parts)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search", description=__doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS, metavar="N")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N")
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS, metavar="N", help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/search"), help="default %(default)s")
    parser.add_argument("--point", type=int, metavar="PROMPTS", help="one number, in this process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.point:
        with tempfile.TemporaryDirectory(dir=options.out) as scratch:
            print(json.dumps(measure(options.point, options.images, options.dimensions, Path(scratch))))
        return 0
    need = max(options.prompts) * (options.dimensions + EMBEDDING_DIMENSIONS) * 2
    require_space(options.out, need, f"{need / 1e9:.2f} GB of rows are drawn", "give --out another disk")
    points = []
    for prompts in options.prompts:
        same = ["--images", str(options.images), "--dimensions", str(options.dimensions), "--out", str(options.out)]
        command = [sys.executable, "-m", "tests.bench.search", *same, "--point", str(prompts)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        points.append(json.loads(done.stdout.splitlines()[-1]))
        print(told(points[-1], options.images), flush=True)
    from kernel.banks.nearest import BLOCK

    growth = points[-1]["search"]["peak_bytes"] / points[0]["search"]["peak_bytes"]
    is_judged = points[0]["prompts"] >= BLOCK  # fewer do not fill what is searched at once
    record = {"date": str(date.today()), "machine": machine_named(), "images": options.images, "top": TOP}
    record |= {"dimensions": options.dimensions, "growth": growth, "points": points}
    write_json(options.out / "search.json", record)
    print(f"{machine_named()}, {date.today()}: peak memory of the search grows {growth:.3f} x (at most {MOST_GROWTH})")
    return 1 if is_judged and growth > MOST_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
