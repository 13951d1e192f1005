"""What every contender gets: the same pictures, the same random weights of true shape, the same words and features."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kernel.banks.word_banks import features_key, read_phrases
from kernel.estimates.constant import keep_constant_row
from kernel.miniature.world.folders import BENCH_SEED, draw_folder
from kernel.models.captioners.blip import BLIP, BLIP_TEXT
from kernel.models.clip import CONFIG, ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.models.text_tower import Beginning, TextTower
from kernel.models.weights_folder import MANIFEST, Weights, open_weights, read_manifest, write_manifest
from kernel.pipeline.planning.models import keep_costs
from kernel.publish.hub.word_lists import write_word_lists
from kernel.system.devices import Device
from tests.bench.truesize.sizes import SIZES, tiny_clip
from tests.bench.truesize.weights import clip_tensors, put_clip

CLIP = "ViT-B-32"
SIDE = 512  # pixels, as the competition's images
BATCH = 256  # texts
SMALL_BLIP = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Material:
    """Folders: pictures, a weights folder as ours, and the features of its words as clip-interrogator's cache."""

    folder: Path

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"


def prepare(folder: Path, miniature: Path, pictures: int, small: bool = False) -> Material:
    """Makes what is not there yet. `small`: models of two or three narrow layers, for a test of the bench itself."""
    draw_pictures(folder / "pictures", pictures)
    material = put_together(folder, lambda unfinished: make_weights(unfinished, miniature, small))
    if not material.cache.is_dir():
        write_peers_cache(material.cache, open_weights(material.weights))
    return material


def prepare_miniature(folder: Path, miniature: Path, pictures: int, every: int = 1) -> Material:
    """The same of the miniature models and pictures of their world: features of the words are true here. No cache.

    `every`: only each so many line of the flavors and artists, for a test.
    """
    draw_folder(folder / "pictures", BENCH_SEED, pictures, "{:05d}".format)
    return put_together(folder, lambda unfinished: make_miniature_weights(unfinished, miniature, every))


def prepare_few_words(folder: Path, others: Material, every: int) -> Material:
    """The pictures and models of `others`, and only each so many line of its flavors and artists."""
    link_pictures(folder, others)
    return put_together(folder, lambda unfinished: make_few_words(unfinished, others, every))


def link_pictures(folder: Path, others: Material) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pictures").is_dir():
        (folder / "pictures").symlink_to(others.pictures.absolute(), target_is_directory=True)


def put_together(folder: Path, make: Callable[[Path], None]) -> Material:
    material = Material(folder)
    if not (material.weights / MANIFEST).is_file():
        unfinished = folder / ".weights.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.replace(material.weights)
    return material


def draw_pictures(folder: Path, count: int) -> None:
    """PNG pictures of 512 x 512 whose detail falls with frequency as a photograph's does: about 400 kB each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05d}.png" for index in range(count)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(draw_picture, range(count), paths))


def draw_picture(index: int, path: Path) -> None:
    if path.is_file():
        return
    rng = np.random.default_rng([BENCH_SEED, index])
    picture = np.zeros((SIDE, SIDE, 3))
    for side in (4, 8, 16, 32, 64, 128, 256, 512):
        noise = rng.uniform(-1, 1, (side, side, 3)) * 250 / side**0.75
        layer = [Image.fromarray(noise[..., color]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                 for color in range(3)]  # fmt: skip
        picture += np.stack([np.asarray(own) for own in layer], axis=-1)
    Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8)).save(path)


def make_weights(folder: Path, miniature: Path, small: bool) -> None:
    folder.mkdir()
    shutil.copytree(miniature / "sentences", folder / "sentences")
    write_lists(folder)
    models = {
        "clip": {**put_random_clip(folder / "clip", miniature, small), "source": "random numbers", "revision": CLIP},
        "blip": {**put_random_blip(folder / "captioners" / "blip", folder / "sentences", small),
                 "source": "random numbers", "revision": "blip-image-captioning-base"},
        "sentences": read_manifest(miniature / MANIFEST).models["sentences"],
    }  # fmt: skip
    write_manifest(folder, models, ["blip"])
    width = json.loads((folder / "clip" / CONFIG).read_text(encoding="utf-8"))["model_cfg"]["embed_dim"]
    put_features(folder, partial(random_rows, width))
    # as `publish weights` leaves a folder: a run that finds neither makes it before its first picture
    weights = Weights(folder, models, ["blip"])
    keep_constant_row(folder, lambda: SentenceEncoder.load(weights, Device("cpu")))
    keep_costs(weights)
    write_manifest(folder, models, ["blip"])  # now with the features, whose names follow from CLIP's


def make_miniature_weights(folder: Path, miniature: Path, every: int) -> None:
    folder.mkdir()
    own = {"clip": "clip", "blip": "captioners/blip", "sentences": "sentences"}
    for name in own.values():
        shutil.copytree(miniature / name, folder / name)
    write_lists(folder, every)
    models = {name: model for name, model in read_manifest(miniature / MANIFEST).models.items() if name in own}
    write_manifest(folder, models, ["blip"])
    clip = ClipEncoder.load(open_weights(folder), Device("cpu"))
    put_features(folder, partial(text_features, clip))
    write_manifest(folder, models, ["blip"])


def text_features(clip: ClipEncoder, phrases: list[str]) -> np.ndarray:
    """Those of `encode_texts` but for rounding, (n, d), without the padding that makes a phrase 77 tokens."""
    import torch

    tower = TextTower(clip, BATCH)
    beginning, ends = tower.split("", phrases)
    shared = Beginning(clip.model, torch.tensor([beginning]))
    found = np.zeros((len(phrases), clip.model.text_projection.shape[-1]), dtype=np.float32)
    order = sorted((number for number, end in enumerate(ends) if end), key=lambda number: len(ends[number]))
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            found[part] = shared.features([ends[number] for number in part]).numpy()
    if whole := [number for number, end in enumerate(ends) if not end]:
        found[whole] = clip.encode_texts([phrases[number] for number in whole], BATCH)
    return found


def make_few_words(folder: Path, others: Material, every: int) -> None:
    """Features are random ones, as those of `others`."""
    shutil.copytree(
        others.weights, folder, copy_function=os.link, ignore=shutil.ignore_patterns("word_banks", MANIFEST)
    )
    write_lists(folder, every)
    manifest = read_manifest(others.weights / MANIFEST)
    write_manifest(folder, manifest.models, ["blip"])
    width = json.loads((folder / "clip" / CONFIG).read_text(encoding="utf-8"))["model_cfg"]["embed_dim"]
    put_features(folder, partial(random_rows, width))
    write_manifest(folder, manifest.models, ["blip"])


def write_lists(folder: Path, every: int = 1) -> None:
    """The published lists; of the artists what clip-interrogator's code makes of them."""
    write_word_lists(folder)
    banks = folder / "word_banks"
    artists = read_phrases(banks / "artists.txt").phrases[::every]
    lists = {
        "artists": [f"{way} by {artist}".strip() for way in ("", "inspired") for artist in artists],
        "flavors": read_phrases(banks / "flavors.txt").phrases[::every],
    }
    for name, phrases in lists.items():
        (banks / f"{name}.txt").write_text("\n".join(phrases) + "\n", encoding="utf-8")


def put_random_clip(folder: Path, miniature: Path, small: bool) -> dict[str, Any]:
    import open_clip

    sizes = replace(SIZES["tiny"], clip=tiny_clip if small else lambda: open_clip.get_model_config(CLIP))
    return put_clip(folder, sizes, clip_tensors(sizes, "float32"), miniature / "clip")


def put_random_blip(folder: Path, sentences: Path, small: bool) -> dict[str, Any]:
    """blip-image-captioning-base with random numbers; its tokenizer is bert-base-uncased, as MiniLM's, and `[DEC]`."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    tokenizer = BertTokenizerFast.from_pretrained(sentences, local_files_only=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    text = {**BLIP_TEXT, "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    vision = SMALL_BLIP if small else {}
    config = BlipConfig(
        text_config={**text, **({**SMALL_BLIP, "encoder_hidden_size": 48} if small else {})}, vision_config=vision
    )
    torch.manual_seed(BENCH_SEED)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 384, "width": 384}), tokenizer)
    processor.save_pretrained(folder)
    return {"class": BLIP.class_name, "tokenizer": BLIP.tokenizer_record(processor)}


def put_features(folder: Path, rows_of: Callable[[list[str]], np.ndarray]) -> None:
    """Unit features of every list, in half precision as they ship."""
    from safetensors.numpy import save_file

    clip = read_manifest(folder / MANIFEST).models["clip"]["sha256"]
    features = folder / "word_banks" / "features"
    features.mkdir()
    for path in sorted((folder / "word_banks").glob("*.txt")):
        phrases = read_phrases(path).phrases
        name = f"{features_key(clip, phrases)}.safetensors"
        save_file({"features": rows_of(phrases).astype(np.float16)}, features / name)


def random_rows(width: int, phrases: list[str]) -> np.ndarray:
    rows = np.random.default_rng([BENCH_SEED, len(phrases)]).standard_normal((len(phrases), width), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_peers_cache(folder: Path, weights: Weights) -> None:
    """The same features where clip-interrogator looks for them, row by row of its own lists."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir()
    for name in ("artists", "flavors", "mediums", "movements", "trendings", "negative"):
        phrases = read_phrases(weights.folder / "word_banks" / f"{name}.txt").phrases
        own = features_key(weights.sha256("clip"), phrases)
        rows = load_file(weights.folder / "word_banks" / "features" / f"{own}.safetensors")["features"]
        index = {phrase: row for row, phrase in enumerate(phrases)}
        labels = peers_labels(name, phrases)
        # a line that we drop (blank, undecodable) gets a row all the same
        embeds = rows[[index.get(label, 0) for label in labels]]
        digest = hashlib.sha256(",".join(labels).encode()).hexdigest()
        tensors = {"embeds": embeds, "hash": np.array([ord(character) for character in digest], dtype=np.int8)}
        save_file(tensors, folder / f"{CLIP}_random_{name}.safetensors")


def peers_labels(name: str, phrases: list[str]) -> list[str]:
    """clip-interrogator's labels of this list, in its order."""
    from importlib.metadata import distribution

    if name == "trendings":
        return phrases
    path = Path(str(distribution("clip-interrogator").locate_file(f"clip_interrogator/data/{name}.txt")))
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")]
    if name == "artists":
        return [f"by {line}" for line in lines] + [f"inspired by {line}" for line in lines]
    return lines
