"""Predicted against measured memory of a run whose models have the published sizes: `make truesize`.

The weights are random numbers, so the submission means nothing; what a stage holds, reads and computes is that of the
real ones, as captions are decoded to their full length. Writes OUT/truesize.json and OUT/truesize.md, and prints the
latter. Exit code 1 when the run failed or a prediction is off by more than TOLERANCE.
"""

import argparse
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernel.config import DEFAULT_WEIGHTS, RECIPES, Recipe
from kernel.errors import UserError
from kernel.miniature.world.folders import TRUESIZE_SEED, draw_folder
from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder, read_run
from kernel.pipeline.images import list_images
from kernel.pipeline.planning.gpus import GB, gpu_named
from kernel.pipeline.planning.models import models_of
from kernel.pipeline.planning.plan import plan
from kernel.pipeline.planning.run_plan import predicted_memory
from kernel.system.files import write_json, write_whole
from kernel.system.offline import refuse_network
from kernel.system.processes import ending, stream
from tests.bench.machine import machine
from tests.bench.truesize.sizes import SIZES, Sizes
from tests.bench.truesize.weights import STORED, make_weights

OUT = Path("build/truesize")
TOLERANCE = 0.15
SIDE = 512  # pixels, as the competition's images
CLIP_BATCH = CAPTION_BATCH = 2
STAGES = ("clip", "captions", "estimates")
DEVICE = "cpu"
# the command line, which does not ask whether the captioner sees: random numbers see nothing of a picture
BLIND = """
import sys
from kernel.__main__ import main
from kernel.pipeline.stages import captions
captions.check_sight = lambda *captioner: None
sys.exit(main(sys.argv[1:]))
"""


def truesize(out: Path, sizes: Sizes, stored: str, miniature: Path, count: int) -> dict[str, Any]:
    """Makes weights and pictures, runs them, and writes OUT/truesize.json and OUT/truesize.md; returns the former.

    Raises UserError when weights cannot be made or the run fails.
    """
    weights = make_weights(out / "weights", sizes, stored, miniature)
    shutil.rmtree(out / "images", ignore_errors=True)
    draw_folder(out / "images", TRUESIZE_SEED, count, side=SIDE)
    shutil.rmtree(out / "run", ignore_errors=True)
    settings = ["--set", f"clip_batch={CLIP_BATCH}", "--set", f"caption_batch={CAPTION_BATCH}"]
    command = [sys.executable, "-c", BLIND, "run", out / "images", "--weights", weights, "--out", out / "run",
               "--recipe", "baseline", "--device", DEVICE, *settings]  # fmt: skip
    code = stream([str(part) for part in command], dict(os.environ))
    run = read_run(out / "run")
    if code or run is None:
        raise UserError(f"{out / 'run'}: the run ended with {ending(code)}, so nothing was measured; see its lines")
    recipe = replace(RECIPES["baseline"], clip_batch=CLIP_BATCH, caption_batch=CAPTION_BATCH)
    found = open_weights(weights)
    planned = plan(recipe, gpu_named(DEVICE), count, models=models_of(found, recipe, half=False))
    stages = compared(predicted_memory(planned), run["memory"])
    content = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": run["versions"],
        "sizes": sizes.name,
        "stored": stored,
        "models": {name: found.models[name]["source"] for name in ("clip", "blip2")},
        "images": count,
        "recipe": {"name": recipe.name, "clip_batch": CLIP_BATCH, "caption_batch": CAPTION_BATCH},
        "counts": run["counts"],
        "problems": run["problems"],
        "tolerance": TOLERANCE,
        "stages": stages,
        "seconds": run["seconds"],
        "captions": said(out, recipe),
        "within_tolerance": all(abs(stage["ratio"] - 1) <= TOLERANCE for stage in stages.values()),
    }
    write_json(out / "truesize.json", content)
    write_whole(out / "truesize.md", (page(content) + "\n").encode())
    return content


def compared(predicted: dict[str, int], measured: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """By stage: predicted and measured peak bytes of anonymous memory, and the ratio of the first to the second."""
    return {
        stage: {
            "predicted": predicted[stage],
            "measured": measured[stage]["host"],
            "ratio": predicted[stage] / measured[stage]["host"],
        }
        for stage in STAGES
    }


def said(out: Path, recipe: Recipe) -> dict[str, int]:
    """How many captions an image got, and how long they are: one word is one token of the tokenizer made here."""
    captions, _ = results.read_captions(RunFolder(out / "run", list_images(out / "images"), recipe.shard_images))
    words = [len(caption.split()) for own in captions for caption in own]
    return {
        "fewest_an_image": min(len(own) for own in captions),
        "fewest_words": min(words, default=0),
        "most_words": max(words, default=0),
        "steps": recipe.max_length - 1,
    }


def page(content: dict[str, Any]) -> str:
    """The record as Markdown, in GB of 10^9 bytes."""
    own, captions, versions = content["machine"], content["captions"], content["versions"]
    lines = [
        f"Random weights of size {content['sizes']}, stored as {content['stored']}, run in float32 on the CPU: "
        f"{content['images']} images, recipe {content['recipe']['name']}, batch {CLIP_BATCH} and {CAPTION_BATCH}.",
        f"{content['date']}, {own['processor']}, {own['cores']} cores, {own['memory_bytes'] / GB:.0f} GB, torch "
        f"{versions['torch']}, transformers {versions['transformers']}.",
        "",
        "| stage | predicted GB | measured GB | predicted / measured | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, stage in content["stages"].items():
        lines.append(
            f"| {name} | {stage['predicted'] / GB:.2f} | {stage['measured'] / GB:.2f} | {stage['ratio']:.3f} "
            f"| {content['seconds'][name]:.1f} |"
        )
    lines += [
        "",
        "Peak anonymous memory of the process; weights run as they lie in their file are mapped and not in it.",
        f"Captions: at least {captions['fewest_an_image']} an image, of {captions['fewest_words']} to "
        f"{captions['most_words']} tokens in {captions['steps']} steps.",
        f"Within {TOLERANCE:.0%}: {'yes' if content['within_tolerance'] else 'NO'}.",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.truesize", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="default %(default)s")
    parser.add_argument("--size", choices=SIZES, default="true", help="default %(default)s; tiny is for tests")
    parser.add_argument("--stored", choices=STORED, default=STORED[0],
                        help="dtypes of the files: float32 (21 GB), or those of 'publish weights' (12 GB)")  # fmt: skip
    parser.add_argument("--images", type=int, default=4, metavar="N", help="default %(default)s")
    parser.add_argument("--miniature", type=Path, default=DEFAULT_WEIGHTS, metavar="DIR",
                        help="a weights folder with MiniLM and word lists (default %(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    refuse_network()
    try:
        content = truesize(options.out, SIZES[options.size], options.stored, options.miniature, max(options.images, 1))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(page(content))
    return 0 if content["within_tolerance"] else 1


if __name__ == "__main__":
    sys.exit(main())
