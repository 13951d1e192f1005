"""`describe` beside clip-interrogator 0.6.0: the same models, phrases, features and pictures; prompts and seconds.

`python -m tests.bench.describing WHO MODE FOLDER IMAGES TOP CAPTIONED` is one process, which prints JSON; models are
loaded before its clock starts, for both, and where CAPTIONED is 1 the pictures have their captions.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kernel.models.weights_folder import open_weights
from kernel.system.deadline import NEVER
from tests.bench.material import CLIP, Material

WHOS = ("ours", "clip_interrogator")
# pictures of each in the bench: ours takes a batch, theirs goes one by one, so that fewer tell as much
IMAGES = {"fast": {"ours": 64, "clip_interrogator": 16}, "best": {"ours": 16, "clip_interrogator": 1}}
# a picture of mode best takes the original many times ours: one turn of 8 terms at most, a quarter of a minute, tells
# enough
ROUNDS, TOP = {"fast": 2, "best": 1}, {"fast": None, "best": 8}
# of mode best by models of true shape: each so many line of the flavors and artists, which leaves 513 phrases, and how
# many terms join at most; a round over the 2,035 of the whole lists takes the original more than a minute a picture
EVERY, TRUE_SHAPE_TOP = 768, 1


def ours(material: Material, mode: str, images: int, top: int | None, captioned: bool) -> tuple[list[str], float]:
    """Prompts of the first pictures, and seconds an image of the stages as workers run them."""
    from tempfile import TemporaryDirectory

    from kernel.interrogator.request import Request
    from kernel.pipeline.describe import job_in, recipe_of
    from kernel.pipeline.folder import results
    from kernel.pipeline.images import ImageFile
    from kernel.pipeline.stages import captions
    from kernel.pipeline.stages.descriptions import DescriptionsStage
    from kernel.system.devices import Device
    from kernel.system.work import Share

    weights = open_weights(material.weights)
    files = [ImageFile(path.stem, path) for path in sorted(material.pictures.iterdir())[:images]]
    recipe = recipe_of(mode, "auto")
    with TemporaryDirectory() as scratch:
        request = Request(mode, top, features=scratch)
        job = job_in(Path(scratch), files, request, recipe, weights)
        folder = job.folder
        shards = range(len(folder.borders))
        stages: list[Any] = [DescriptionsStage(job, Device("cpu"))]
        _ = stages[0].describer  # reads the terms
        if request.needs_captions:
            captions.check_sight = lambda *captioner: None  # random numbers see nothing of a picture
            stages.insert(0, captions.CaptionsStage(job, Device("cpu"), "blip"))
        taken = []
        for stage in stages:
            begun = time.perf_counter()
            for shard in shards:
                for _ in stage.make(shard, Share(images, NEVER)):
                    pass
            taken.append(time.perf_counter() - begun)
        found = [folder.read_json(results.DESCRIPTIONS, shard) for shard in shards]
        prompts = [record["prompt"] for own in found for record in own.values()]
    return prompts, (taken[-1] if captioned else sum(taken)) / images


def clip_interrogator(
    material: Material, mode: str, images: int, top: int | None, captioned: bool
) -> tuple[list[str], float]:
    """The same of the original, whose lists are set to the very phrases and rows that ours reads."""
    from PIL import Image

    interrogator = original(material)
    way = {"classic": interrogator.interrogate_classic, "fast": interrogator.interrogate_fast,
           "best": interrogator.interrogate, "negative": interrogator.interrogate_negative}[mode]  # fmt: skip
    most: dict[str, Any] = {} if top is None else {"max_flavors": top}
    prompts, taken = [], 0.0
    for path in sorted(material.pictures.iterdir())[:images]:
        if captioned:
            most["caption"] = interrogator.generate_caption(Image.open(path).convert("RGB"))
        begun = time.perf_counter()
        prompts.append(way(Image.open(path).convert("RGB"), **most))
        taken += time.perf_counter() - begun
    return prompts, taken / images


def original(material: Material) -> Any:
    import open_clip
    from clip_interrogator import Config, Interrogator, LabelTable

    from kernel.banks.word_banks import features_file, read_features, read_phrases, shipped_features
    from tests.bench.contenders.plain import load_blip, load_clip

    config = Config(clip_model_name=f"{CLIP}/random", cache_path=str(material.cache), download_cache=False)
    config.device, config.quiet = "cpu", True
    config.clip_model, config.clip_preprocess = load_clip(material.weights)
    config.caption_model, config.caption_processor = load_blip(material.weights)
    config.caption_model_name = "blip-base"
    # its own loading would read the lists as they are in its package
    interrogator = Interrogator.__new__(Interrogator)
    interrogator.load_clip_model = lambda: None
    Interrogator.__init__(interrogator, config)
    del interrogator.load_clip_model
    interrogator.clip_model, interrogator.clip_preprocess = config.clip_model, config.clip_preprocess
    interrogator.tokenize = open_clip.get_tokenizer(CLIP)
    weights = open_weights(material.weights)
    for name in ("artists", "flavors", "mediums", "movements", "trendings", "negative"):
        words = read_phrases(material.weights / "word_banks" / f"{name}.txt")
        path = features_file(words, weights.sha256("clip"), [shipped_features(weights)])
        assert path is not None
        table = LabelTable([], None, interrogator)
        table.labels, table.embeds = list(words.phrases), list(read_features(words, path))
        setattr(interrogator, name, table)
    return interrogator


def contend(
    material: Material, who: str, mode: str, images: int, top: int | None = None, captioned: bool = False
) -> dict[str, Any]:
    """`prompts` and `seconds` an image, of a process of its own."""
    command = [sys.executable, "-m", "tests.bench.describing", who, mode, str(material.folder), str(images)]
    done = subprocess.run([*command, json.dumps(top), str(int(captioned))], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{who} failed in mode {mode} with {done.returncode}")
    return json.loads(done.stdout)


def beside(
    material: Material,
    mode: str,
    images: dict[str, int],
    rounds: int = 1,
    top: int | None = None,
    captioned: bool = False,
) -> dict[str, Any]:
    """The median seconds an image of each, in turns, and on how many pictures both said the same."""
    results: dict[str, list[dict[str, Any]]] = {who: [] for who in WHOS}
    for turn in range(rounds):
        for who in WHOS:
            print(f"describe {mode}: {who}, {turn + 1} of {rounds}", file=sys.stderr)
            results[who].append(contend(material, who, mode, images[who], top, captioned))
    said = [own[0]["prompts"] for own in results.values()]
    return {
        "images": images,
        "seconds": {who: statistics.median(one["seconds"] for one in own) for who, own in results.items()},
        "identical": sum(a == b for a, b in zip(*said, strict=False)),
        "compared": min(map(len, said)),
    }


def measured(
    miniature: Material, few_words: Material, small: bool, clock: Callable[[str], AbstractContextManager[None]]
) -> dict[str, dict[str, Any]]:
    """`beside` of every row; `small`: of few pictures. `clock`: around each."""
    found = {}
    few = {"ours": 2, "clip_interrogator": 1}
    for mode, images in IMAGES.items():
        with clock(f"describe {mode}"):
            rounds, top = (1, 1) if small else (ROUNDS[mode], TOP[mode])
            found[mode] = beside(miniature, mode, few if small else images, rounds, top)
    with clock("describe best_true_shape"):
        images = few if small else IMAGES["best"]
        found["best_true_shape"] = beside(few_words, "best", images, 1, TRUE_SHAPE_TOP, captioned=True)
    return found


def main(who: str, mode: str, folder: str, images: str, top: str, captioned: str) -> None:
    from kernel.system.offline import refuse_network

    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    refuse_network()
    way = {"ours": ours, "clip_interrogator": clip_interrogator}[who]
    prompts, seconds = way(Material(Path(folder)), mode, int(images), json.loads(top), captioned == "1")
    print(json.dumps({"prompts": prompts, "seconds": seconds}), file=answers, flush=True)
    os._exit(0)  # giving gigabytes back piece by piece takes a second or two


if __name__ == "__main__":
    main(*sys.argv[1:])
