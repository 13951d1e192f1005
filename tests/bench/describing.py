"""`describe` beside clip-interrogator 0.6.0: the same models, phrases, features and pictures; prompts and seconds.

`python -m tests.bench.describing WHO MODE FOLDER IMAGES TOP` is one process, which prints JSON; models are loaded
before its clock starts, for both.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from kernel.models.weights_folder import open_weights
from kernel.system.deadline import NEVER
from tests.bench.material import CLIP, Material

WHOS = ("ours", "clip_interrogator")
# pictures of each in the bench: ours takes a batch, theirs goes one by one, so that fewer tell as much
IMAGES = {"fast": {"ours": 64, "clip_interrogator": 64}, "best": {"ours": 64, "clip_interrogator": 2}}
ROUNDS = 2


def ours(material: Material, mode: str, images: int, top: int | None) -> tuple[list[str], float]:
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
        begun = time.perf_counter()
        for stage in stages:
            for shard in shards:
                for _ in stage.make(shard, Share(images, NEVER)):
                    pass
        taken = time.perf_counter() - begun
        found = [folder.read_json(results.DESCRIPTIONS, shard) for shard in shards]
        prompts = [record["prompt"] for own in found for record in own.values()]
    return prompts, taken / images


def clip_interrogator(material: Material, mode: str, images: int, top: int | None) -> tuple[list[str], float]:
    """The same of the original, whose lists are set to the very phrases and rows that ours reads."""
    from PIL import Image

    interrogator = original(material)
    way = {"classic": interrogator.interrogate_classic, "fast": interrogator.interrogate_fast,
           "best": interrogator.interrogate, "negative": interrogator.interrogate_negative}[mode]  # fmt: skip
    most = {} if top is None else {"max_flavors": top}
    prompts = []
    begun = time.perf_counter()
    for path in sorted(material.pictures.iterdir())[:images]:
        prompts.append(way(Image.open(path).convert("RGB"), **most))
    return prompts, (time.perf_counter() - begun) / images


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


def contend(material: Material, who: str, mode: str, images: int, top: int | None = None) -> dict[str, Any]:
    """`prompts` and `seconds` an image, of a process of its own."""
    command = [sys.executable, "-m", "tests.bench.describing", who, mode, str(material.folder), str(images)]
    done = subprocess.run([*command, json.dumps(top)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{who} failed in mode {mode} with {done.returncode}")
    return json.loads(done.stdout)


def beside(
    material: Material, rounds: int = ROUNDS, numbers: dict[str, dict[str, int]] = IMAGES
) -> dict[str, dict[str, Any]]:
    """By mode the median seconds an image of each, in turns, and on how many pictures both said the same."""
    found = {}
    for mode, images in numbers.items():
        results: dict[str, list[dict[str, Any]]] = {who: [] for who in WHOS}
        for turn in range(rounds):
            for who in WHOS:
                print(f"describe {mode}: {who}, {turn + 1} of {rounds}", file=sys.stderr)
                results[who].append(contend(material, who, mode, images[who]))
        said = [own[0]["prompts"] for own in results.values()]
        found[mode] = {
            "images": images,
            "seconds": {who: statistics.median(one["seconds"] for one in own) for who, own in results.items()},
            "identical": sum(a == b for a, b in zip(*said, strict=False)),
            "compared": min(map(len, said)),
        }
    return found


def main(who: str, mode: str, folder: str, images: str, top: str) -> None:
    from kernel.system.offline import refuse_network

    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    refuse_network()
    way = {"ours": ours, "clip_interrogator": clip_interrogator}[who]
    prompts, seconds = way(Material(Path(folder)), mode, int(images), json.loads(top))
    print(json.dumps({"prompts": prompts, "seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
