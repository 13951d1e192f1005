"""`make bench`: every contender on the same job, in turns; medians, ratios, a table and a chart in build/bench/."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from operator import eq
from pathlib import Path
from typing import Any

from kernel.config import DEFAULT_WEIGHTS
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from tests.bench import describing, parts
from tests.bench.blip2_material import prepare_blip2
from tests.bench.jobs import JOBS, Job
from tests.bench.machine import machine_named
from tests.bench.material import Material, prepare, prepare_miniature
from tests.bench.summary import chart, missed, ratios, table

OUT = Path("build/bench")
IMAGES = {"classic": 16, "deck": 8, "blip2": 16}
LONG = 64  # pictures of job `classic`, of which this package's own time between the stages is told
FEW = 3
# the best of these for the floor is found first; ours gets none: its recipe has its own
BATCHES = {"clip": (4, 8, 16), "captions": (4, 8, 16), "sentences": (8, 32, 32)}


def contend(material: Material, name: str, job: Job, images: int, batches: dict[str, int]) -> dict[str, Any]:
    """One contender's figures, of a process of its own."""
    out = material.folder / f"{job.name}-{name}"
    command = [sys.executable, "-m", "tests.bench.contenders", name, job.name, str(material.folder), str(out)]
    done = subprocess.run(
        [*command, str(time.monotonic()), str(images), json.dumps(batches)], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{name} failed on job {job.name} with {done.returncode}")
    return json.loads(done.stdout)


def best_batches(
    material: Material, job: Job, images: int, batches: dict[str, tuple[int, ...]] = BATCHES
) -> dict[str, int]:
    """For each stage of the floor the batch at which an image takes least; kept, so that a next bench need not look."""
    kept = material.folder / f"batches-{job.name}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    best: dict[str, tuple[float, int]] = {}
    for sizes in zip(*batches.values(), strict=True):
        tried = dict(zip(batches, sizes, strict=True))
        for stage, seconds in contend(material, "floor", job, images, tried)["stages"].items():
            best[stage] = min(best.get(stage, (seconds, tried[stage])), (seconds, tried[stage]))
    found = {stage: batch for stage, (_, batch) in best.items()}
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def same_captions(material: Material, job: Job, images: int) -> dict[str, int]:
    """How many of the floor's captions ours says at their place; else their seconds would not be of the same job."""
    floor = json.loads((material.folder / f"{job.name}-floor.json").read_text(encoding="utf-8"))
    files = list_images(material.pictures)[:images]
    captions, _ = results.read_captions(RunFolder(material.folder / f"{job.name}-ours", files, job.recipe.shard_images))
    ours = [caption for own in captions for caption in own]
    return {"identical": sum(map(eq, ours, floor)), "compared": len(floor)}


def largest_model_bytes(material: Material) -> int:
    return max(path.stat().st_size for path in material.weights.rglob("*.safetensors"))


def medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure of several results of one contender the median."""
    first = results[0]
    return {
        key: medians([result[key] for result in results])
        if isinstance(first[key], dict)
        else statistics.median(result[key] for result in results)
        for key in first
    }


def help_cpu_seconds() -> float:
    """User and system seconds of `python -m kernel --help`, the median of five."""
    taken = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "kernel", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT, help="default %(default)s")
    parser.add_argument("--small", action="store_true", help="tiny models and few of everything: that it works")
    options = parser.parse_args()
    out, small = options.out, options.small
    numbers = dict.fromkeys(IMAGES, FEW) if small else IMAGES
    tried = {stage: sizes[:1] for stage, sizes in BATCHES.items()} if small else BATCHES
    long = FEW if small else LONG
    material = prepare(out, DEFAULT_WEIGHTS, max(long, *numbers.values()), small)
    of_blip2 = prepare_blip2(out / "blip2", material, numbers["blip2"], small)
    found: dict[str, Any] = {
        "machine": machine_named(),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": options.rounds,
        "jobs": {},
    }
    for job in JOBS.values():
        images, own = numbers[job.name], of_blip2 if job.name == "blip2" else material
        batches = best_batches(own, job, images, tried)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in job.contenders}
        for turn in range(options.rounds):
            for name in job.contenders:
                print(f"{job.name}: {name}, {turn + 1} of {options.rounds}", file=sys.stderr)
                results[name].append(contend(own, name, job, images, batches if name == "floor" else {}))
        found["jobs"][job.name] = {
            "images": images,
            "floor_batches": batches,
            "contenders": {name: medians(each) for name, each in results.items()},
            "captions": same_captions(own, job, images),
            "largest_model_bytes": largest_model_bytes(own),
        }
    found["long"] = contend(material, "ours", JOBS["classic"], long, {})
    found["parts"] = parts.measured(material.pictures, small)
    if small:
        worded = prepare_miniature(out / "miniature", DEFAULT_WEIGHTS, FEW, every=40)
        few = {mode: dict.fromkeys(own, FEW) for mode, own in describing.IMAGES.items()}
        found["describe"] = describing.beside(worded, 1, few)
    else:
        found["describe"] = describing.beside(prepare_miniature(out / "miniature", DEFAULT_WEIGHTS, 64))
    found["help_cpu_seconds"] = help_cpu_seconds()
    found["ratios"] = ratios(found)
    (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    chart(found, out / "bench.svg")
    print(table(found))
    return 1 if missed(found) and not small else 0


if __name__ == "__main__":
    sys.exit(main())
