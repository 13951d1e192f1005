"""What a model costs, counted without its weights: the real class with the published configuration on the meta device.

Parameters and bytes are exact. Operations are counted as in open_clip's docs/model_profile.csv, by torch's own counter
with two for every multiply-add, attention included (ViT-g-14: 534.06 GFLOPs an image, 47.09 a text). Memory is followed
tensor by tensor. On the meta device torch decomposes attention into plain products, so its score matrices count in
full: the kernels of a GPU never hold them all, and the peak is an upper bound.
"""

import hashlib
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from kernel.models.captioners.captioner import CaptionerKind, Published
from kernel.models.captioners.loading import kind_of
from kernel.models.clip import meta_clip
from kernel.models.encoders.record import Tower
from kernel.models.encoders.towers import meta_tower
from kernel.models.image_text_matching import itm_logits, meta_matching

PUBLISHED = Path(__file__).with_name("published.json")
Costs = TypeVar("Costs", bound=Callable[..., Any])
# by key what this process counted, and what weights folders bring along as data
counted: dict[str, Any] = {}
brought: dict[str, Any] = {}
# Source: config.json of sentence-transformers/all-MiniLM-L6-v2
MINILM = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Work:
    """One forward pass of one item: operations in half precision, operations in float32, peak activation bytes."""

    half_operations: int = 0
    single_operations: int = 0
    activation_bytes: int = 0

    @property
    def operations(self) -> int:
        return self.half_operations + self.single_operations


@dataclass(frozen=True)
class Weighed:
    """A model's parameters in memory, and their bytes by dtype as the loader leaves them.

    `largest_block` is the most that one device must take of a split model; `read_per_token` are the bytes that one step
    of decoding reads. `mapped_bytes` are those of a known file that the CPU runs as they lie there.
    """

    parameters: int
    bytes_by_dtype: dict[str, int]
    largest_block: int = 0
    read_per_token: int = 0
    mapped_bytes: int = 0

    @property
    def bytes(self) -> int:
        return sum(self.bytes_by_dtype.values())


@dataclass(frozen=True)
class Clip:
    """CLIP: weights, and the work of one image and of one text."""

    name: str
    weights: Weighed
    image: Work
    text: Work
    dimensions: int


@dataclass(frozen=True)
class Encoding:
    """An image encoder trained on pairs: weights, and the work of one image."""

    name: str
    weights: Weighed
    image: Work


@dataclass(frozen=True)
class Matching:
    """Image-text matching: weights, the work of an image, once, and of a caption beside it; `patches_bytes` is what the
    vision tower says of an image, which stays while its captions pass."""

    name: str
    weights: Weighed
    image: Work
    caption: Work
    patches_bytes: int


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded: `rows` sequences an image of `steps` new tokens; beams are reordered, samples not."""

    rows: int
    steps: int
    reordered: bool = True


@dataclass(frozen=True)
class Captioning:
    """A captioner: its weights, the work of encoding one image, and that of the first three tokens of one row.

    `steps` holds each one's work and the bytes of keys and values after it. From the second on, each step adds the same
    to the one before: one token more to attend to. `layers` are the blocks that every step passes. `image_bytes` lie
    there once of an image for all its rows (BLIP's tokens, T5's keys and values; the others have them in the cache), of
    which a step reads `image_bytes_read` in all layers.
    """

    name: str
    weights: Weighed
    encode: Work
    steps: tuple[tuple[Work, int], tuple[Work, int], tuple[Work, int]]
    vocabulary: int
    layers: int
    image_bytes: int = 0
    image_bytes_read: int = 0

    def decode(self, decoding: Decoding) -> Work:
        """All steps of all rows of one image."""
        rows, later = decoding.rows, decoding.steps - 1
        counted = [(own.half_operations, own.single_operations) for own, _ in self.steps]
        half, single = (
            rows * (first + later * second + (third - second) * later * (later - 1) // 2)
            for first, second, third in zip(*counted, strict=True)
        )
        return Work(half, single, rows * max(own.activation_bytes for own, _ in self.steps))

    def row_cache_bytes(self, decoding: Decoding) -> int:
        """Keys and values of all rows of one image at the last step."""
        (_, first), (_, second), _ = self.steps
        return decoding.rows * (first + (decoding.steps - 1) * (second - first))


def counted_once(costs: Costs) -> Costs:
    """The same configuration is counted once a process, as cures plan again and again; a published one not even that:
    what was counted of exactly this one stands in PUBLISHED, which published.py writes, or in the weights folder."""

    @wraps(costs)
    def once(*given: Any, **named: Any) -> Any:
        key = key_of(costs, *given, **named)
        if key not in counted:
            counted[key] = published_costs(costs, key) or costs(*given, **named)
        return counted[key]

    return cast(Costs, once)


def key_of(costs: Callable[..., Any], *given: Any, **named: Any) -> str:
    """sha256 of what is to be counted: the function's name, and all that it is given or takes by itself."""
    bound = signature(costs).bind(*given, **named)
    bound.apply_defaults()
    return hashlib.sha256(f"{costs.__name__} {bound.arguments!r}".encode()).hexdigest()


def published_costs(costs: Callable[..., Any], key: str) -> Any:
    """None where nothing is published under this key, nor brought by a weights folder."""
    from pydantic import TypeAdapter

    content = published_content().get(key) or brought.get(key)
    return content and TypeAdapter(get_type_hints(costs)["return"]).validate_python(content["costs"])


@cache
def published_content() -> dict[str, Any]:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


@counted_once
def clip_costs(name: str, model_config: dict[str, Any], half: bool) -> Clip:
    """CLIP by open_clip's configuration, in half precision as models/clip.py loads it on a GPU, else in float32."""
    import torch

    model = meta_clip(model_config, half)
    side = model_config["vision_cfg"]["image_size"]
    pixels = torch.empty(1, 3, side, side, device="meta", dtype=torch.float16 if half else torch.float32)
    tokens = torch.zeros(1, model.context_length, device="meta", dtype=torch.long)
    return Clip(
        name,
        weigh(model),
        count(lambda: model.encode_image(pixels), half),
        count(lambda: model.encode_text(tokens), half),
        model_config["embed_dim"],
    )


@counted_once
def encoder_costs(name: str, towers: list[Tower], half: bool) -> Encoding:
    """An image encoder with these towers of its own."""
    import torch

    models = torch.nn.ModuleList([meta_tower(tower, Path(name), half) for tower in towers])
    sizes = [tower.size for tower in towers]
    seen = [torch.empty(1, 3, own, own, device="meta", dtype=torch.float16 if half else None) for own in sizes]
    image = count(lambda: [model(own) for model, own in zip(models, seen, strict=True)], half)
    return Encoding(name, weigh(models), image)


@counted_once
def matching_costs(name: str, config: dict[str, Any], tokens: int, half: bool) -> Matching:
    """By ITM, which takes all that ITC does and more; a caption of `tokens` tokens."""
    import torch

    model = meta_matching(config, half)
    side = model.config.vision_config.image_size
    pixels = torch.empty(1, 3, side, side, device="meta", dtype=torch.float16 if half else torch.float32)
    ids = torch.zeros(1, tokens, device="meta", dtype=torch.long)
    seen: list[Any] = []
    image = count(lambda: seen.append(model.vision_model(pixel_values=pixels).last_hidden_state), half)
    # of the patches each caption gets a copy of its own
    caption = count(lambda: itm_logits(model, seen[0][[0]], ids, None), half)
    return Matching(name, weigh(model), image, caption, seen[0].nbytes)


@counted_once
def sentence_costs(tokens: int, config: dict[str, Any] = MINILM) -> tuple[Weighed, Work]:
    """MiniLM in float32, as models/sentences.py loads it: its weights, and the work of a text of `tokens` tokens."""
    import torch
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig(**config)).eval()
    ids = torch.zeros(1, tokens, device="meta", dtype=torch.long)
    return weigh(model), count(lambda: model(input_ids=ids), half=False)


@counted_once
def captioner_costs(published: Published, half: bool) -> Captioning:
    """A captioner with one image encoded and three tokens decoded, as its kind's own model would."""
    kind = kind_of(published.class_name, published.name)
    model = kind.meta_model(published.config, half)
    image = kind.one_image(model, half)
    seen: list[Any] = []
    steps: list[tuple[Work, int]] = []
    caches: list[Any] = [None]
    encode = count(lambda: seen.append(kind.encode_image(model, image)), half)
    for _ in range(3):
        work = count(lambda: caches.append(kind.decode_step(model, seen[0], caches[-1])), half)
        # the cache stays from step to step, so it is no activation
        size = kind.cache_bytes(caches[-1])
        steps.append((Work(work.half_operations, work.single_operations, max(0, work.activation_bytes - size)), size))
    image_bytes, image_bytes_read = kind.image_bytes(model, seen[0])
    return Captioning(
        name=published.name,
        weights=weigh(model, kind),
        encode=encode,
        steps=(steps[0], steps[1], steps[2]),
        vocabulary=len(kind.output_head(model)),
        layers=len(kind.decoder_layers(model)),
        image_bytes=image_bytes,
        image_bytes_read=image_bytes_read,
    )


def weigh(model: Any, kind: CaptionerKind | None = None) -> Weighed:
    """Parameters and bytes of a model on any device; of a captioner of this kind with what a step of decoding reads."""
    import torch

    by_dtype: dict[str, int] = {}
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        by_dtype[name] = by_dtype.get(name, 0) + parameter.nbytes
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    largest = max((bytes_of(block) for blocks in lists for block in blocks), default=0)
    read = bytes_of(kind.decoder_layers(model)) + kind.output_head(model).nbytes if kind else 0
    return Weighed(sum(parameter.numel() for parameter in model.parameters()), by_dtype, largest, read)


def bytes_of(module: Any) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def count(forward: Callable[[], Any], half: bool) -> Work:
    """Operations and peak activation bytes of one call without gradients; what it is given is not counted.

    torch's FlopCounterMode attributes operations to modules, not to dtypes, so its formulas are asked here one by one.
    `half` says that attention's own products (bmm) run in half precision: torch decomposes them to float32 here, which
    the kernels of a GPU do not.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    half_operations = single_operations = 0
    living: set[int] = set()
    now = peak = 0

    def let_go(key: int, size: int) -> None:
        nonlocal now
        living.discard(key)
        now -= size

    def storages(tree: Any) -> list[Any]:
        return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]

    class Follower(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal now, peak, half_operations, single_operations
            kwargs = kwargs or {}
            if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
                return True  # BART asks whether its states are finite, and there are no numbers here
            result = func(*args, **kwargs)
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                operations = formula(*args, **kwargs, out_val=result)
                if result.dtype == torch.float16 or (half and func._overloadpacket is torch.ops.aten.bmm):
                    half_operations += operations
                else:
                    single_operations += operations
            given = {id(storage) for storage in storages((args, kwargs))}
            for storage in storages(result):
                key, size = id(storage), storage.nbytes()
                if key not in living and key not in given:
                    living.add(key)
                    now += size
                    weakref.finalize(storage, let_go, key, size)
            peak = max(peak, now)
            return result

    with torch.no_grad(), Follower():
        forward()
    return Work(half_operations, single_operations, peak)
