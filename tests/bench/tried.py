"""What could make a run faster, beside the plain way in turns: `python -m tests.bench.tried`, build/bench/tried.md.

A ratio below 1 is faster. What did not pay is not in the package.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from PIL import Image

from kernel.config import DEFAULT_WEIGHTS
from kernel.models.captioners.captioner import Captioner
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights, open_weights
from kernel.system.devices import Device
from tests.bench.__main__ import OUT
from tests.bench.contenders.plain import load_blip
from tests.bench.jobs import JOBS
from tests.bench.material import prepare

ROUNDS = 5
PICTURES = 8
CPU = Device("cpu")


class Tried(NamedTuple):
    """What was tried instead of what, both ways, and whether it was kept."""

    what: str
    beside: str
    plain: Callable[[], Any]
    other: Callable[[], Any]
    kept: str


def decoding(paths: list[Path]) -> Iterator[Tried]:
    from torchvision.io import ImageReadMode, decode_image, read_file

    def pillow(path: Path) -> Any:
        return Image.open(path).convert("RGB")

    def each() -> None:
        for path in paths:
            pillow(path)

    def by_torchvision() -> None:
        for path in paths:
            decode_image(read_file(str(path)), ImageReadMode.RGB)

    def by_threads() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(pillow, paths))

    yield Tried("PNG decoded by torchvision", "by Pillow", each, by_torchvision, "no: Pillow reads more formats")
    yield Tried("PNG decoded in 2 threads", "in one", each, by_threads, "yes, ahead of the model")


def seeing(weights: Weights, pictures: list[Image.Image]) -> Iterator[Tried]:
    clip = ClipEncoder.load(weights, CPU)
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures])
    last = pixels.contiguous(memory_format=torch.channels_last)
    visual = clip.model.visual

    def see(model: Any, given: torch.Tensor, mode: Callable[[], Any] = torch.inference_mode) -> Callable[[], Any]:
        def seen() -> None:
            with mode():
                model(given)

        return seen

    plain = see(visual, pixels)
    yield Tried("CLIP under `inference_mode`", "`no_grad`", see(visual, pixels, torch.no_grad), plain, "yes")
    yield Tried("CLIP with channels last", "as it is", plain, see(visual, last), "no")
    compiled = torch.compile(visual)
    begun = time.perf_counter()
    see(compiled, pixels)()
    taken = time.perf_counter() - begun
    yield Tried(
        "CLIP by `torch.compile`", "as it is", plain, see(compiled, pixels), f"no: compiling took {taken:.0f} s"
    )


def captioning(weights: Weights, pictures: list[Image.Image]) -> Iterator[Tried]:
    ours = load_captioner(weights, "blip", CPU)
    theirs = Captioner(ours.kind, load_blip(weights.folder)[0], ours.processor, CPU)
    deck, classic = JOBS["deck"].recipe, JOBS["classic"].recipe
    pixels = ours.processor(images=pictures, return_tensors="pt")["pixel_values"]

    def say(captioner: Captioner, recipe: Any, batch: int = PICTURES) -> Callable[[], Any]:
        return lambda: [captioner.captions(pictures[i : i + batch], recipe) for i in range(0, len(pictures), batch)]

    def static(recipe: Any) -> Callable[[], Any]:
        """Keys and values in a cache of fixed size, without compiling."""

        def said() -> None:
            generate = ours.model.text_decoder.generate
            with mock.patch.object(
                ours.model.text_decoder,
                "generate",
                functools.partial(generate, cache_implementation="static", disable_compile=True),
            ):
                ours.captions(pictures, recipe)

        return said

    def look(captioner: Captioner) -> Callable[[], Any]:
        def looked() -> None:
            with torch.inference_mode():
                captioner.model.vision_model(pixel_values=pixels)

        return looked

    yield Tried("BLIP's vision tower: fused attention", "transformers", look(theirs), look(ours), "yes")
    both = "fused, no keys and values of an image"
    yield Tried(f"greedy captions: {both}", "transformers", say(theirs, classic), say(ours, classic), "yes")
    yield Tried(f"captions of 5 beams: {both}", "transformers", say(theirs, deck), say(ours, deck), "yes")
    yield Tried("greedy captions: static cache", "growing", say(ours, classic), static(classic), "no")
    yield Tried("captions of 5 beams: static cache", "growing", say(ours, deck), static(deck), "no")
    yield Tried("captions of 5 beams: batches of 2", "of 8", say(ours, deck), say(ours, deck, 2), "no")


def embedding(weights: Weights) -> Iterator[Tried]:
    sentences = SentenceEncoder.load(weights, CPU)
    words = (weights.folder / "prior.txt").read_text(encoding="utf-8").splitlines()[:200]
    texts = [" ".join([line] * (1 + index % 4)) for index, line in enumerate(words)]

    def as_they_come() -> None:
        for start in range(0, len(texts), 32):
            sentences.encode(texts[start : start + 32], 32)

    def by_length(batch: int) -> Callable[[], Any]:
        return lambda: sentences.encode(texts, batch)

    yield Tried("sentences batched by length", "as they come", as_they_come, by_length(32), "yes")
    yield Tried("sentences in batches of 256", "of 32", by_length(32), by_length(256), "yes, for GPUs")


def ratio(tried: Tried, rounds: int = ROUNDS) -> float:
    """The median, over turns, of the other way's time by the plain one's; each is done once before."""
    tried.plain()
    tried.other()
    ratios = []
    for _ in range(rounds):
        seconds = []
        for way in (tried.plain, tried.other):
            begun = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - begun)
        ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="default %(default)s")
    parser.add_argument("--small", action="store_true", help="tiny models, one turn: that it works")
    options = parser.parse_args()
    material = prepare(options.out, DEFAULT_WEIGHTS, PICTURES, options.small)
    weights = open_weights(material.weights)
    paths = sorted(material.pictures.iterdir())[:PICTURES]
    pictures = [Image.open(path).convert("RGB") for path in paths]
    lines = ["| tried | beside | time by time | kept |", "|---|---|---|---|"]
    for group in (decoding(paths), seeing(weights, pictures), captioning(weights, pictures), embedding(weights)):
        for tried in group:
            lines.append(
                f"| {tried.what} | {tried.beside} | {ratio(tried, 1 if options.small else ROUNDS):.2f} | {tried.kept} |"
            )
            print(lines[-1], flush=True)
    (options.out / "tried.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
