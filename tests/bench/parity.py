"""`make parity`: on how many pictures `describe` says the very words of clip-interrogator 0.6.0.

Classic and fast must be identical. Best is compared by the prompts' cosines to their pictures where words differ: it
may be nearer, never farther.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kernel.config import DEFAULT_WEIGHTS
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import open_weights
from kernel.system.devices import Device
from tests.bench.describing import WHOS, contend
from tests.bench.machine import machine_named
from tests.bench.material import Material, prepare, prepare_miniature

OUT = Path("build/bench")
# the rounding of two ways through the same tower, float32
ROUNDING = 1e-6


def compare(material: Material, mode: str, images: int, top: int | None = None) -> dict[str, Any]:
    """Pictures whose prompts are `identical`, and of the others those nearer, `equal` or `farther` by ours; and the
    seconds a picture of both."""
    results = {who: contend(material, who, mode, images, top) for who in WHOS}
    own, theirs = (result["prompts"] for result in results.values())
    gained = similarities(material, own) - similarities(material, theirs)
    other = np.array([a != b for a, b in zip(own, theirs, strict=True)])
    return {
        "images": images,
        "identical": int((~other).sum()),
        "nearer": int((other & (gained > ROUNDING)).sum()),
        "equal": int((other & (np.abs(gained) <= ROUNDING)).sum()),
        "farther": int((other & (gained < -ROUNDING)).sum()),
        "seconds": {who: round(result["seconds"], 4) for who, result in results.items()},
    }


def similarities(material: Material, prompts: list[str]) -> np.ndarray:
    """Cosine of each prompt to its picture, every text encoded whole."""
    clip = ClipEncoder.load(open_weights(material.weights), Device("cpu"))
    paths = sorted(material.pictures.iterdir())[: len(prompts)]
    rows = [clip.encode_images([Image.open(path).convert("RGB")])[0] for path in paths]
    return (clip.encode_texts(prompts, 64) * np.stack(rows)).sum(axis=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--best", type=int, default=4, help="pictures in mode best, minutes each by the original")
    parser.add_argument("--top", type=int, help="rounds of mode best at most, 32 when left out")
    parser.add_argument("--true-shape", action="store_true", help="random ViT-B-32 and BLIP-base instead of miniatures")
    parser.add_argument("--out", type=Path, default=OUT, help="default %(default)s")
    parser.add_argument("--small", action="store_true", help="tiny models or few words: that it works")
    options = parser.parse_args()
    count = max(options.images, options.best)
    if options.true_shape:
        material = prepare(options.out, DEFAULT_WEIGHTS, count, options.small)
    else:
        every = 40 if options.small else 1
        material = prepare_miniature(options.out / "miniature", DEFAULT_WEIGHTS, count, every)
    numbers = {"classic": options.images, "fast": options.images, "best": options.best}
    found = {
        mode: compare(material, mode, images, options.top if mode == "best" else None)
        for mode, images in numbers.items()
        if images
    }
    kind = "true shape" if options.true_shape else "miniature"
    print(json.dumps({"models": kind, "machine": machine_named(), "date": time.strftime("%Y-%m-%d"), **found}))
    different = [found[mode]["images"] - found[mode]["identical"] for mode in ("classic", "fast") if mode in found]
    return 1 if any(different) or found.get("best", {}).get("farther") else 0


if __name__ == "__main__":
    sys.exit(main())
