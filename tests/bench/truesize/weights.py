"""A weights folder in the shipped layout whose CLIP and BLIP-2 have published sizes and random numbers.

No model is ever held: names and shapes come from the real classes on the meta device, and the numbers are drawn and
written a block at a time, so that a model larger than the memory can be made.
"""

import json
import shutil
import zlib
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from kernel.errors import UserError
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.clip import CONFIG, WEIGHTS, clip_tokenizer_record, meta_clip
from kernel.models.weights_folder import MANIFEST, open_weights, read_manifest, write_manifest
from kernel.publish.hub.convert import BLOCK_BYTES, shard_index, target_dtype, write_checkpoint
from kernel.system.files import require_space, unfinished_path, write_json
from kernel.system.tensor_files import ITEM_BYTES, Tensor
from tests.bench.truesize.sizes import Sizes

# float32 throughout, or as `publish weights` writes: float16, but for the parts of BLIP-2 that overflow in it
STORED = ("float32", "shipped")
SPREAD = 0.02  # of a transformer's initial weights, so that no activation overflows
LOGIT_SCALE = float(np.log(1 / 0.07))  # open_clip's initial one
SHARD_BYTES = 5 * 10**9  # as the hub's checkpoints are cut
ORIGIN = {"source": "random numbers", "revision": ""}


def make_weights(out: Path, sizes: Sizes, stored: str, miniature: Path) -> Path:
    """Makes `out` a weights folder of these sizes, or finds that it is one; returns it.

    MiniLM, word lists and prior are those of the weights folder `miniature`. Raises UserError when `out` is something
    else, or the disk cannot hold it.
    """
    revision = f"{sizes.name}, {stored}"
    if (out / MANIFEST).is_file() and is_random(out, revision):
        return out
    if out.exists() and not is_random(out):
        raise UserError(f"{out}: holds other than random weights, so it is not replaced. Give --out a new folder")
    open_weights(miniature, parts=("clip", "sentences", "word_banks", "prior.txt"))
    unfinished = unfinished_path(out)
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.mkdir(parents=True)
    clip, captioner = clip_tensors(sizes, stored), captioner_tensors(sizes, stored)
    needed = sum(tensor.bytes for tensor in [*clip, *captioner])
    cure = "give --out another disk, or --stored shipped, which takes half"
    require_space(unfinished, needed, f"{needed / 1e9:.2f} GB are needed", cure)
    for name in ("sentences", "word_banks"):
        shutil.copytree(miniature / name, unfinished / name)
    shutil.copy(miniature / "prior.txt", unfinished / "prior.txt")
    models = {
        "clip": put_clip(unfinished / "clip", sizes, clip, miniature / "clip"),
        "blip2": put_captioner(unfinished / "captioners" / "blip2", sizes, captioner),
        "sentences": read_manifest(miniature / MANIFEST).models["sentences"],
    }
    for name in ("clip", "blip2"):
        models[name] |= {**ORIGIN, "revision": revision}
    write_manifest(unfinished, models, ["blip2"])
    unfinished.replace(out)
    return out


def is_random(folder: Path, revision: str | None = None) -> bool:
    """Whether a weights folder was made here, of this revision if one is given."""
    if not (folder / MANIFEST).is_file():
        return False
    clip = read_manifest(folder / MANIFEST).models.get("clip", {})
    return clip.get("source") == ORIGIN["source"] and revision in (None, clip["revision"])


def clip_tensors(sizes: Sizes, stored: str) -> list[Tensor]:
    return tensors_of(meta_clip(sizes.clip(), half=False).named_parameters(), stored, ())


def captioner_tensors(sizes: Sizes, stored: str) -> list[Tensor]:
    model = BLIP2.meta_model(sizes.captioner.config, half=False)
    return tensors_of(model.named_parameters(), stored, BLIP2.full_precision)


def tensors_of(parameters: Iterable[tuple[str, Any]], stored: str, full_precision: Iterable[str]) -> list[Tensor]:
    """What the file holds of a model: tied matrices once, as the parameters name them."""
    tensors = [Tensor(name, "F32", tuple(parameter.shape)) for name, parameter in parameters]
    if stored == "float32":
        return tensors
    return [Tensor(own.name, target_dtype(own, list(full_precision)), own.shape) for own in tensors]


def random_blocks(tensor: Tensor) -> Iterator[bytes]:
    """Norms are 1, biases 0, matrices random: the same for the same name wherever and whenever they are drawn."""
    rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
    dtype = np.dtype("<f4" if tensor.dtype == "F32" else "<f2")
    left = prod(tensor.shape)
    while left:
        count = min(left, BLOCK_BYTES // ITEM_BYTES["F32"])
        left -= count
        if len(tensor.shape) >= 2:
            values = rng.standard_normal(count, dtype=np.float32) * np.float32(SPREAD)
        elif not tensor.shape:
            values = np.full(count, LOGIT_SCALE)
        else:
            values = np.full(count, 1.0 if tensor.name.endswith("weight") else 0.0)
        yield values.astype(dtype).tobytes()


def put_clip(folder: Path, sizes: Sizes, tensors: list[Tensor], miniature: Path) -> dict[str, Any]:
    import open_clip

    folder.mkdir()
    preprocessing = json.loads((miniature / CONFIG).read_text(encoding="utf-8"))["preprocess_cfg"]
    write_json(folder / CONFIG, {"model_cfg": sizes.clip(), "preprocess_cfg": preprocessing})
    write_checkpoint(folder / WEIGHTS, tensors, random_blocks)
    return {"class": "CLIP", "tokenizer": clip_tokenizer_record(open_clip.get_tokenizer(f"local-dir:{folder}"))}


def put_captioner(folder: Path, sizes: Sizes, tensors: list[Tensor]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    model, processor = BLIP2.meta_model(sizes.captioner.config, half=False), processor_of(sizes)
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    # some releases of transformers do not write that T5's head is a matrix of its own
    write_json(path, BLIP2.stated(json.loads(path.read_text(encoding="utf-8"))))
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    shards = list(shards_of(tensors))
    paths = [folder / f"model-{index:05}-of-{len(shards):05}.safetensors" for index in range(1, len(shards) + 1)]
    for path, shard in zip(paths, shards, strict=True):
        write_checkpoint(path, shard, random_blocks)
    write_json(folder / "model.safetensors.index.json", shard_index(paths))
    return {"class": BLIP2.class_name, "tokenizer": BLIP2.tokenizer_record(processor)}


def shards_of(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in runs of at most SHARD_BYTES."""
    shard: list[Tensor] = []
    for tensor in tensors:
        if shard and sum(own.bytes for own in shard) + tensor.bytes > SHARD_BYTES:
            yield shard
            shard = []
        shard.append(tensor)
    if shard:
        yield shard


def processor_of(sizes: Sizes) -> Any:
    """BLIP-2's processor with the miniature's tokenizer, filled up so that `<image>` has the configuration's index."""
    from transformers import Blip2Processor, BlipImageProcessor

    from kernel.miniature.training.captioner_parts import t5_tokenizer
    from kernel.miniature.training.train_clip import MEAN, STD

    config = BLIP2.meta_model(sizes.captioner.config, half=False).config
    side = config.vision_config.image_size
    missing = config.image_token_index - len(t5_tokenizer())
    images = BlipImageProcessor(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD)
    tokenizer = t5_tokenizer([f"word{index}" for index in range(missing)])
    return Blip2Processor(images, tokenizer, num_query_tokens=config.num_query_tokens)
