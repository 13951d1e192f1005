"""`make bench`: every contender on the same job, in turns; medians, ratios, a table and a chart in build/bench/."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

from kernel.config import DEFAULT_WEIGHTS
from kernel.miniature.world.grammar import scene_stream
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from tests.bench import describing, parts
from tests.bench.blip2_material import prepare_blip2
from tests.bench.jobs import JOBS, Job
from tests.bench.machine import machine_named
from tests.bench.material import Material, prepare, prepare_few_words, prepare_miniature
from tests.bench.near_duplicates import first_prompts, near_duplicates, rows_of
from tests.bench.summary import chart, missed, ratios, table

OUT = Path("build/bench")
# those who take pictures one by one need fewer; the captions of the floor take 1.06 to 1.15 times as long
# in batches of 8 as of 16
IMAGES = {
    "classic": {"floor": 16, "ours": 16, "clip_interrogator": 3},
    "deck": {"floor": 4, "ours": 4, "seed": 2},
    "blip2": {"floor": 16, "ours": 16},
}
LONG = 64  # pictures of job `classic`, of which this package's own time between the stages is told
FEW = 3


def contend(material: Material, name: str, job: Job, images: int) -> dict[str, Any]:
    """One contender's figures, of a process of its own."""
    out = material.folder / f"{job.name}-{name}"
    command = [sys.executable, "-m", "tests.bench.contenders", name, job.name, str(material.folder), str(out)]
    done = subprocess.run([*command, str(time.monotonic()), str(images)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} failed on job {job.name} with {done.returncode}")
    return json.loads(done.stdout)


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


def few_drawn() -> list[str]:
    return [scene.prompt for scene, _ in scene_stream(0, 40)]


def real_prompts(file: Path | None) -> list[str]:
    if file and file.is_file():
        return first_prompts(file)
    print(f"near duplicates: not measured, as {file or '--prompts'} names no file of real prompts", file=sys.stderr)
    return []


def help_cpu_seconds() -> float:
    """User and system seconds of `python -m kernel --help`, the median of five."""
    taken = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "kernel", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(taken)


@contextmanager
def clocked(took: dict[str, float], part: str) -> Iterator[None]:
    """Keeps the seconds that this part of the bench took."""
    begun = time.monotonic()
    yield
    took[part] = time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT, help="default %(default)s")
    parser.add_argument("--prompts", type=Path, help="real ones, without which near duplicates are not measured")
    parser.add_argument("--small", action="store_true", help="tiny models and few of everything: that it works")
    options = parser.parse_args()
    out, small = options.out, options.small
    numbers = {name: dict.fromkeys(own, FEW) for name, own in IMAGES.items()} if small else IMAGES
    most = {name: max(own.values()) for name, own in numbers.items()}
    long = FEW if small else LONG
    took: dict[str, float] = {}
    clock = partial(clocked, took)
    with clock("material"):
        material = prepare(out, DEFAULT_WEIGHTS, max(long, *most.values()), small)
        of_blip2 = prepare_blip2(out / "blip2", material, small)
        few_words = prepare_few_words(out / "few-words", material, describing.EVERY)
        miniature = prepare_miniature(out / "miniature", DEFAULT_WEIGHTS, FEW if small else 64, 40 if small else 1)
    found: dict[str, Any] = {
        "machine": machine_named(),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": options.rounds,
        "jobs": {},
    }
    for job in JOBS.values():
        own = of_blip2 if job.name == "blip2" else material
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in job.contenders}
        with clock(job.name):
            for turn in range(options.rounds):
                for name in job.contenders:
                    print(f"{job.name}: {name}, {turn + 1} of {options.rounds}", file=sys.stderr)
                    results[name].append(contend(own, name, job, numbers[job.name][name]))
        found["jobs"][job.name] = {
            "images": most[job.name],
            "contenders": {name: medians(each) for name, each in results.items()},
            "captions": same_captions(own, job, most[job.name]),
            "largest_model_bytes": largest_model_bytes(own),
        }
    with clock("long"):
        found["long"] = contend(material, "ours", JOBS["classic"], long)
    found["parts"] = parts.measured(material.pictures, small, clock)
    if prompts := few_drawn() if small else real_prompts(options.prompts):
        with clock("near_duplicates"):
            found["near_duplicates"] = parts.medians(near_duplicates(rows_of(prompts, DEFAULT_WEIGHTS)))
    found["describe"] = describing.measured(miniature, few_words, small, clock)
    with clock("help"):
        found["help_cpu_seconds"] = help_cpu_seconds()
    found["took"] = took
    found["ratios"] = ratios(found)
    (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    chart(found, out / "bench.svg")
    print(table(found))
    return 1 if missed(found) and not small else 0


if __name__ == "__main__":
    sys.exit(main())
