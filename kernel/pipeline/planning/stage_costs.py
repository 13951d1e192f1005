"""Memory and time of each stage of a run on one device: counted operations and bytes, assumed speeds.

Speeds are published peaks times an assumed share (gpus.py); what else is assumed stands here by name.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kernel.config import CAPTIONS, EMBEDDING_DIMENSIONS, ESTIMATES, MODIFIERS, Recipe, captioner_names
from kernel.pipeline.planning.gpus import BANDWIDTH_EFFICIENCY, GB, HALF_EFFICIENCY, SINGLE_EFFICIENCY, Gpu
from kernel.pipeline.planning.model_costs import Captioning, Clip, Decoding, Encoding, Matching, Weighed, Work

ENCODER = "encoder"  # with its name the row of one
# phrases of CLIP-Interrogator's lists that are left after blank, repeated and undecodable lines: `clip-interrogator`
# 0.6.0, clip_interrogator/data/
PHRASES = {"mediums": 95, "movements": 200, "flavors": 100_952, "artists": 5265, "negative": 41}
HOST_CORES = 4
HOST_SPEED = 0.064e12  # float32 operations a second of these cores together, half of their peak


def assumed(value: float, says: str) -> Any:
    return field(default=value, metadata={"says": says})


@dataclass(frozen=True)
class Assumed:
    """What nobody measured with these models, and how the plan says it."""

    half_efficiency: float = assumed(HALF_EFFICIENCY, "half-precision peak reached")
    single_efficiency: float = assumed(SINGLE_EFFICIENCY, "float32 peak reached")
    bandwidth_efficiency: float = assumed(BANDWIDTH_EFFICIENCY, "memory bandwidth reached")
    tensor_share: float = assumed(0.95, "device memory that tensors may fill (the rest is lost between them)")
    gpu_context_gb: float = assumed(0.5, "GB of a GPU for CUDA's own context and workspaces")
    layers_held_twice: float = assumed(
        1, "layers whose cache is held twice while beams are reordered, one after the other"
    )
    score_copies: float = assumed(4, "float32 copies of a step's scores")
    layer_start_seconds: float = assumed(0.001, "seconds of the host to start one decoder layer's kernels")
    decode_core_seconds: float = assumed(0.017, "core-seconds to decode a 512-768 px PNG and resize it")
    dataset_bytes_a_second: float = assumed(200e6, "bytes read from a mounted dataset a second")
    around_bytes: int = assumed(131_072, "bytes that the system reads around a row of a mapped file")
    copied_bytes_a_second: float = assumed(6e9, "bytes copied from the host to a GPU a second")
    prompt_file_bytes: int = assumed(100, "bytes of a prompt in a bank's file, compressed")
    gpu_libraries_gb: float = assumed(3.0, "GB of the host for a worker's libraries, with CUDA")
    # anonymous memory; `make truesize` measures 0.62 to 0.74: torch 0.28, transformers 0.16, sentence-transformers 0.1
    cpu_libraries_gb: float = assumed(0.7, "GB of the host for a worker's libraries, without")
    prompt_tokens: int = assumed(48, "tokens of a prompt")
    caption_tokens: int = assumed(20, "tokens of a caption that is matched with its image")
    row_seconds: float = assumed(0.0025, "seconds to write and check one row of the submission")

    def told(self) -> dict[str, float]:
        """What is assumed, in words, and how much."""
        return in_words(self)


def in_words(assumptions: Any, *names: str) -> dict[str, float]:
    """What is `assumed` in a dataclass, in words, and how much: of these `names`, or all."""
    chosen = [own for own in fields(assumptions) if own.name in names or not names]
    return {own.metadata["says"]: getattr(assumptions, own.name) for own in chosen}


ASSUMED = Assumed()


@dataclass(frozen=True)
class Case:
    """`images` of a recipe by these models on one device of `gpu`, of whose memory tensors may fill `usable` bytes."""

    recipe: Recipe
    gpu: Gpu
    clip: Clip
    sentences: Weighed
    images: int
    usable: int


@dataclass(frozen=True)
class Stage:
    """One stage of one worker. Memory of its device in bytes at `batch` items; `fits_up_to` items fill the device.

    `mapped_bytes` of its weights a CPU runs as they lie in the file: memory that it had better have, but that the
    system takes back when it needs room.
    """

    name: str
    model: str
    weights_bytes: int
    fixed_bytes: int
    bytes_per_item: int
    batch: int
    fits_up_to: int
    operations: float
    bytes_read: float
    seconds: float
    bound_by: str
    mapped_bytes: int = 0

    @property
    def memory_bytes(self) -> int:
        return self.memory_at(self.batch)

    def memory_at(self, batch: int) -> int:
        return self.weights_bytes + self.fixed_bytes + batch * self.bytes_per_item


def decoding_of(recipe: Recipe) -> Decoding:
    """Beams or samples an image, and the steps of a caption of full length: its first token is given."""
    sampling = recipe.caption_decoding == "sampling"
    rows = recipe.captions_per_image if sampling else recipe.num_beams
    return Decoding(rows, max(recipe.max_length - 1, 1), reordered=not sampling)


def usable_bytes(gpu: Gpu) -> int:
    """Bytes of one device that tensors may fill."""
    own = ASSUMED.cpu_libraries_gb if gpu.is_cpu else ASSUMED.gpu_context_gb
    return int(gpu.memory * ASSUMED.tensor_share - own * GB)


def compute_seconds(gpu: Gpu, work: Work, items: float) -> float:
    half = work.half_operations / gpu.half_speed if work.half_operations else 0.0
    return items * (half + work.single_operations / gpu.single_speed)


def largest_batch(usable: int, resident: int, bytes_per_item: int) -> int:
    """The most items whose memory is at most `usable`; 0 when not even one fits."""
    return max(0, (usable - resident) // bytes_per_item)


def model_stage(
    case: Case, name: str, model: Clip | Captioning | Encoding | Matching, per_item: int, asked: int, items: int, *,
    operations: float, seconds: float, bytes_read: float = 0, bound_by: str = "device", features: int = 0,
) -> Stage:  # fmt: skip
    """A model beside MiniLM, which stays, and `features` bytes: at the recipe's batch, the largest that fits or all
    items there are, but at least 1."""
    weights, fixed = model.weights.bytes, case.sentences.bytes + features
    most = largest_batch(case.usable, weights + fixed, per_item)
    batch, mapped = max(1, min(asked, most, items)), model.weights.mapped_bytes + case.sentences.mapped_bytes
    return Stage(name, model.name, weights, fixed, per_item, batch, most, operations, bytes_read, seconds, bound_by,
                 mapped)  # fmt: skip


def host_stage(name: str, seconds: float, bytes_read: float) -> Stage:
    return Stage(name, "", 0, 0, 0, 0, 0, 0, bytes_read, seconds, "host")


def submission_stage(images: int) -> Stage:
    return host_stage("submission", images * ASSUMED.row_seconds, images * EMBEDDING_DIMENSIONS * 4)


def slower(gpu: Gpu, device: float, host: float) -> tuple[float, str]:
    """Work of the device beside work of the host; on the CPU both are the same cores'."""
    if gpu.is_cpu:
        return device + host, "device"
    return (device, "device") if device >= host else (host, "host")


def reading_stage(
    clip: Clip, captioners: Sequence[Captioning], sentences: Weighed, gpu: Gpu, bank_prompts: int = 0,
    matching: Matching | None = None,
) -> Stage:  # fmt: skip
    """Every weights file once for its sha256 and once by each worker, one after the other; of a bank the prompts' file
    for its sha256, by the run and by the worker that asks it."""
    files = clip.weights.bytes + sentences.bytes + sum(own.weights.bytes for own in (*captioners, matching) if own)
    read = files * (1 + gpu.count) + 2 * bank_prompts * ASSUMED.prompt_file_bytes
    return host_stage("read weights", read / ASSUMED.dataset_bytes_a_second, read)


def encoding_seconds(case: Case, work: Work) -> tuple[float, str]:
    """All images through an image encoder while the host prepares them, all workers' on the same cores; and which of
    the two takes longer."""
    prepared = ASSUMED.decode_core_seconds * case.gpu.count / HOST_CORES
    return slower(case.gpu, compute_seconds(case.gpu, work, case.images), case.images * prepared)


def clip_stage(case: Case) -> Stage:
    image, images = case.clip.image, case.images
    seconds, bound_by = encoding_seconds(case, image)
    return model_stage(
        case, "clip", case.clip, image.activation_bytes, case.recipe.clip_batch, images,
        operations=images * image.operations, seconds=seconds, bound_by=bound_by,
    )  # fmt: skip


def encoder_stage(case: Case, encoder: Encoding) -> Stage:
    image, images = encoder.image, case.images
    seconds, bound_by = encoding_seconds(case, image)
    return model_stage(
        case, f"{ENCODER} {encoder.name}", encoder, image.activation_bytes, case.recipe.encoder_batch, images,
        operations=images * image.operations, seconds=seconds, bound_by=bound_by,
    )  # fmt: skip


def words_stage(case: Case, shipped: bool, lists: Mapping[str, int] = PHRASES) -> Stage:
    """Phrases through the text tower, by one worker while the others wait; then the host ranks them for each image.

    On a CPU the device's memory is the host's, where the features lie too, those of the longest list once more while
    its batches are put together.
    """
    gpu, clip = case.gpu, case.clip
    lengths = phrases_of(case.recipe, lists)
    phrases, longest = sum(lengths), max(lengths, default=0)  # lists are encoded one after the other
    encoded = 0 if shipped else phrases
    operations = 2 * case.images * phrases * clip.dimensions
    encoding, ranking = compute_seconds(gpu, clip.text, encoded), operations / HOST_SPEED
    return model_stage(
        case, "word banks", clip, clip.text.activation_bytes, case.recipe.text_batch, longest,
        features=(phrases + longest) * clip.dimensions * 4 if gpu.is_cpu else 0,
        operations=encoded * clip.text.operations + operations, bytes_read=phrases * clip.dimensions * 4,
        seconds=encoding + ranking, bound_by="device" if encoding > ranking else "host",
    )  # fmt: skip


def phrases_of(recipe: Recipe, lists: Mapping[str, int] = PHRASES) -> list[int]:
    """Phrases of each of the recipe's lists; of unknown length, as a user's own, it is taken for `mediums`."""
    return [lists.get(name, PHRASES["mediums"]) for name, count in recipe.modifiers.items() if count]


def captions_of(recipe: Recipe) -> int:
    """Captions of an image, by whoever says them."""
    return recipe.captions_per_image * len(captioner_names(recipe.captioner))


def captions_stage(case: Case, captioner: Captioning) -> Stage:
    """Images encoded once; then steps that each read the decoder's weights once a batch and the cache of every row."""
    recipe, gpu, images, weights = case.recipe, case.gpu, case.images, captioner.weights
    decoding = decoding_of(recipe)
    work, per_item = captioner.decode(decoding), captioning_bytes(captioner, decoding)
    stage = model_stage(
        case, "captions", captioner, per_item, recipe.caption_batch, images,
        operations=images * (captioner.encode.operations + work.operations), seconds=0,
    )  # fmt: skip
    steps = math.ceil(images / stage.batch) * decoding.steps
    read = steps * weights.read_per_token + images * decoding.steps * cache_traffic(captioner, decoding)
    start = 0.0 if gpu.is_cpu else ASSUMED.layer_start_seconds
    computing = compute_seconds(gpu, work, images) + read / gpu.read_speed
    decode, decode_bound_by = slower(gpu, computing, steps * captioner.layers * start)
    encode, encode_bound_by = encoding_seconds(case, captioner.encode)
    bound_by = decode_bound_by if decode > encode else encode_bound_by
    return replace(stage, bytes_read=read, seconds=encode + decode, bound_by=bound_by)


def captioning_bytes(captioner: Captioning, decoding: Decoding) -> int:
    """Bytes an image takes at its worst moment: while it is encoded, or at the last step of its captions."""
    copies = 1 + ASSUMED.layers_held_twice / captioner.layers if decoding.reordered else 1
    scores = decoding.rows * captioner.vocabulary * 4 * ASSUMED.score_copies
    cache = captioner.image_bytes + copies * captioner.row_cache_bytes(decoding)
    decode = captioner.decode(decoding).activation_bytes + cache + scores
    return int(max(captioner.encode.activation_bytes, decode))


def cache_traffic(captioner: Captioning, decoding: Decoding) -> int:
    """Bytes that one step moves for an image: its cache read by attention, and read and written where beams change
    places; and what all its rows look at."""
    rows = captioner.row_cache_bytes(decoding) * (3 if decoding.reordered else 1)
    return captioner.image_bytes_read + rows


def cosines_stage(case: Case) -> Stage:
    """Every caption through CLIP's text tower, to weigh it by its cosine to the image."""
    text, texts = case.clip.text, case.images * captions_of(case.recipe)
    return model_stage(
        case, "caption cosines", case.clip, text.activation_bytes, case.recipe.text_batch, texts,
        operations=texts * text.operations, seconds=compute_seconds(case.gpu, text, texts),
    )  # fmt: skip


def matching_stage(case: Case, matching: Matching) -> Stage:
    """Every image once through the vision tower while the host prepares them, and each caption through the Q-Former.

    A batch's captions pass at once, each beside its image.
    """
    images, captions = case.images, captions_of(case.recipe)
    seconds, bound_by = encoding_seconds(case, matching.image)
    beside = matching.patches_bytes + captions * matching.caption.activation_bytes
    per_item = max(matching.image.activation_bytes, beside)
    return model_stage(
        case, "image-text matching", matching, per_item, case.recipe.matching_batch, images,
        operations=images * (matching.image.operations + captions * matching.caption.operations),
        seconds=seconds + compute_seconds(case.gpu, matching.caption, images * captions), bound_by=bound_by,
    )  # fmt: skip


def sentences_stage(case: Case, sentence: Work) -> Stage:
    """Every text of every estimate through MiniLM, which is there already."""
    needs = [ESTIMATES[name].needs for name in case.recipe.shared]
    captions = captions_of(case.recipe)
    texts = case.images * sum(captions if CAPTIONS in own else MODIFIERS in own for own in needs)
    if case.recipe.caption_weighting == "consensus" and case.recipe.needs(CAPTIONS):
        texts += case.images * captions  # which are compared with one another before
    weights, per_item = case.sentences, sentence.activation_bytes
    most = largest_batch(case.usable, weights.bytes, per_item)
    return Stage(
        "sentences", "all-MiniLM-L6-v2", weights.bytes, 0, per_item, max(1, min(case.recipe.text_batch, most, texts)),
        most, texts * sentence.operations, 0, compute_seconds(case.gpu, sentence, texts), "device",
        weights.mapped_bytes,
    )  # fmt: skip


def host_bytes(
    case: Case,
    captioners: Sequence[Captioning],
    lists: Mapping[str, int] = PHRASES,
    matching: Matching | None = None,
) -> dict[str, int]:
    """The host's memory when every worker loads its captioner at once, one after the other, and while words are ranked.

    A model passes through the host whole on its way to its device.
    """
    gpu, clip = case.gpu, case.clip
    if gpu.is_cpu:
        return {}
    library = ASSUMED.gpu_libraries_gb * GB
    largest = max(own.weights.bytes for own in (clip, *captioners, matching) if own)
    phrases = sum(phrases_of(case.recipe, lists))
    ranked = 4 * (case.images + phrases) * clip.dimensions + 512 * phrases * 4
    workers = f"{gpu.count} worker{'s' * (gpu.count > 1)}"
    return {
        f"models loading at the same time by {workers}": int(gpu.count * (library + largest)),
        "models loading one after the other": int(gpu.count * library + largest),
        "words ranked": int(gpu.count * library + ranked),
    }


def split_note(gpu: Gpu, captioner: Captioning, captions: Stage, usable: int) -> str:
    """What a captioner too large for one device would take of each of several, layers shared out evenly."""
    each = captions.weights_bytes / gpu.count + captioner.weights.largest_block / 2 + captions.fixed_bytes
    most = largest_batch(usable, int(each), math.ceil(captions.bytes_per_item / gpu.count))
    says = f"batch {most} would fit" if most else "not even that would fit"
    return (
        f"split over {gpu.count} {gpu.name}: about {each / GB:.1f} GB of weights on each of {usable / GB:.1f} usable, "
        f"{says}; one image passes the devices in turn, so {gpu.count} are no faster than one, the host still takes "
        f"all {captions.weights_bytes / GB:.1f} GB as it loads, and this package puts a captioner on one device"
    )
