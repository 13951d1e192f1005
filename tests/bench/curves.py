"""Time and memory over the number of images and of a bank's prompts: `make curves`, build/bench/curves.json, .svg.

Every point is a process of its own, so that its peak of memory is its own: whole runs over drawn miniature pictures;
ranking 100,952 random phrases; submissions; the nearest 100 of a random prompt bank for 1,000 images.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

IMAGES = (100, 1_000, 4_000, 16_000)
PROMPTS = (1_000, 10_000, 100_000, 1_000_000)
BANK_IMAGES, DIMENSIONS = 1_000, 1024
OUT = Path("build/bench")


def whole_run(images: int, scratch: Path) -> Callable[[], object]:
    from kernel.config import DEFAULT_RECIPE, DEFAULT_WEIGHTS, RECIPES, Paths
    from kernel.miniature.world.folders import ENDURANCE_SEED, draw_folder
    from kernel.pipeline.run import run

    number = max(IMAGES) if images in IMAGES else images
    pictures = Path(f"build/endurance/images-{number}")
    draw_folder(pictures, ENDURANCE_SEED, number)
    paths = Paths(pictures, DEFAULT_WEIGHTS, scratch / "run")
    return lambda: run(RECIPES[DEFAULT_RECIPE], paths, "cpu", images)


def ranking(images: int, scratch: Path) -> Callable[[], object]:
    from kernel.banks.word_banks import rank
    from tests.bench.parts import PHRASES, TOP, unit

    rng = np.random.default_rng(0)
    bank, features = unit(rng, PHRASES), unit(rng, images)
    return lambda: rank(features, bank, TOP)


def submission(images: int, scratch: Path) -> Callable[[], object]:
    from kernel.pipeline.submission import write_submission

    rows = np.random.default_rng(0).standard_normal((images, 384), dtype=np.float32)
    return lambda: write_submission(scratch / "submission.csv", [f"{index:09x}" for index in range(images)], rows)


def bank(prompts: int, scratch: Path) -> Callable[[], object]:
    """The bank lies in a file, as a real one does, and is made a part at a time: no more of it is ever in memory."""
    from kernel.banks.nearest import nearest
    from kernel.system.devices import Device
    from tests.bench.parts import unit

    rng = np.random.default_rng(0)
    path = scratch / "bank.npy"
    features = np.lib.format.open_memmap(path, "w+", np.float16, (prompts, DIMENSIONS))
    for start in range(0, prompts, 10_000):
        features[start : start + 10_000] = unit(rng, len(features[start : start + 10_000]))
    features.flush()
    del features
    images, mapped = unit(rng, BANK_IMAGES), np.load(path, mmap_mode="r")
    return lambda: nearest(images, mapped, 100, Device("cpu"))


CURVES: dict[str, tuple[Callable[[int, Path], Callable[[], object]], tuple[int, ...], str]] = {
    "run": (whole_run, IMAGES, "whole run of so many images, miniature models"),
    "rank": (ranking, IMAGES, "the best of 100,952 phrases for so many images"),
    "submission": (submission, IMAGES, "submission of so many images, written and checked"),
    "bank": (bank, PROMPTS, f"the nearest of so many prompts for {BANK_IMAGES:,} images"),
}


def measure(curve: str, size: int, out: Path) -> dict[str, float]:
    make, _, _ = CURVES[curve]
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        work = make(size, Path(scratch))
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
    return {"size": size, "seconds": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: of every curve the seconds and gigabytes at each size."""
    lines = ["| | size: seconds, peak GB |", "|---|---|"]
    for curve, points in found.items():
        cells = [f"{point['size']:,}: {point['seconds']:.1f} s, {point['peak_bytes'] / 1e9:.2f}" for point in points]
        lines.append(f"| {CURVES[curve][2]} | {'; '.join(cells)} |")
    return "\n".join(lines) + "\n"


def chart(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Time above, memory below; over images on the left, over prompts on the right."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 6), sharex="col")
    for curve, points in found.items():
        column = int(curve == "bank")
        sizes = [point["size"] for point in points]
        title = CURVES[curve][2]
        axes[0][column].loglog(sizes, [point["seconds"] for point in points], marker="o", label=title)
        axes[1][column].semilogx(sizes, [point["peak_bytes"] / 1e9 for point in points], marker="o", label=title)
    for column, what in enumerate(("images", "prompts of the bank")):
        axes[0][column].set_ylabel("seconds")
        axes[1][column].set_ylabel("peak memory, GB")
        axes[1][column].set_ylim(bottom=0)
        axes[1][column].set_xlabel(what)
        axes[0][column].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", nargs=2, metavar=("CURVE", "SIZE"), help="one point, in this process")
    parser.add_argument("--out", type=Path, default=OUT, help="default %(default)s")
    parser.add_argument(
        "--small", action="store_true", help="two points a curve, a tenth of the smallest: that it works"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.point:
        print(json.dumps(measure(options.point[0], int(options.point[1]), options.out)))
        return
    found: dict[str, Any] = {}
    for curve, (_, sizes, _) in CURVES.items():
        for size in [size // 10 for size in sizes[:2]] if options.small else sizes:
            point_of = ["--out", str(options.out), "--point", curve, str(size)]
            command = [sys.executable, "-m", "tests.bench.curves", *point_of]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            point = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(curve, []).append(point)
            print(f"{curve} {size:,}: {point['seconds']:.2f} s, {point['peak_bytes'] / 1e9:.2f} GB")
    (options.out / "curves.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    chart(found, options.out / "curves.svg")


if __name__ == "__main__":
    main()
