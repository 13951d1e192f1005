"""The plan of building a bank over many machines: hours by part, memory, disk, network and price; an estimate.

The machines share one disk, on which the build lies. The first one cleans the prompts and puts the bank together; the
parts between are shared out to all devices, one after the other (kernel/banks/build.py).
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from kernel.banks.build import SHARD
from kernel.banks.cost import BYTES_A_NUMBER, bank_bytes, near_duplicate_pairs
from kernel.banks.encoding import BATCH
from kernel.banks.near_duplicates import AXES, CUT, PART_ROWS
from kernel.banks.selection import ROUND
from kernel.config import EMBEDDING_DIMENSIONS
from kernel.pipeline.planning.bank_costs import bank_cost, room_note
from kernel.pipeline.planning.gpus import GB
from kernel.pipeline.planning.machines import ASSUMED as OF_MACHINES
from kernel.pipeline.planning.machines import Machines
from kernel.pipeline.planning.model_costs import Clip, Weighed, Work, sentence_costs
from kernel.pipeline.planning.models import published_clip
from kernel.pipeline.planning.stage_costs import ASSUMED as OF_A_RUN
from kernel.pipeline.planning.stage_costs import HOST_SPEED, assumed, compute_seconds, in_words, usable_bytes

ROW = EMBEDDING_DIMENSIONS * BYTES_A_NUMBER  # bytes of MiniLM's
TOGETHER = ROUND * SHARD  # prompts


@dataclass(frozen=True)
class Assumed:
    """What nobody measured at this size, and how the plan says it; seconds of a core are an AMD EPYC's."""

    prompt_bytes: int = assumed(200, "bytes of a prompt's text")
    cleaning_seconds: float = assumed(30e-6, "core-seconds to clean a prompt, on one core")
    sentence_token_seconds: float = assumed(
        130e-6, "core-seconds to tokenize a prompt for MiniLM, on one core a device"
    )
    clip_token_seconds: float = assumed(175e-6, "core-seconds to tokenize a prompt for CLIP, on one core a device")
    start_seconds: float = assumed(10.0, "seconds until a worker that compares prompts has started")
    int8_speed: float = assumed(
        2.0, "products of 8 bits that a CPU takes in the time of one of float32: 4 where it has VNNI, else 1"
    )
    comparison_bytes: int = assumed(10, "bytes of its memory that a device moves to compare two prompts")
    digest_bytes: int = assumed(100, "bytes of the host for each prompt by which equal ones are found")
    double_speed: float = assumed(0.5, "speed of the host in float64, in which the head is fitted, beside float32")

    def told(self) -> dict[str, float]:
        """With what the plan of a run and machines assume too."""
        names = ["half_efficiency", "single_efficiency", "bandwidth_efficiency", "tensor_share", "gpu_context_gb",
                 "gpu_libraries_gb", "cpu_libraries_gb", "prompt_tokens", "prompt_file_bytes"]  # fmt: skip
        speed = {"float32 operations a second of a host's cores": HOST_SPEED}
        return in_words(self) | in_words(OF_MACHINES) | in_words(OF_A_RUN, *names) | speed


ASSUMED = Assumed()


@dataclass(frozen=True)
class Part:
    """A part of the build by `workers` devices, 0 where the first machine's host does it; `memory_bytes` of a device.
    Bytes are read from and written to the shared disk, and `moving_seconds` are what that takes beside computing."""

    name: str
    model: str
    workers: int
    operations: float
    computing_seconds: float
    memory_bytes: int
    read_bytes: float
    written_bytes: float
    moving_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.computing_seconds + self.moving_seconds


@dataclass(frozen=True)
class BankPlan:
    """Bytes by what they are of; `cost` at `price` of a machine for an hour, None where none was given."""

    prompts: int
    machines: Machines
    parts: list[Part]
    seconds: float
    usable_bytes: int
    host_bytes: dict[str, int]
    host_memory: int
    disk_bytes: dict[str, int]
    network_bytes: float
    price: float | None
    cost: float | None
    fits: bool
    problems: list[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        parts = [{**asdict(part), "seconds": part.seconds} for part in self.parts]
        return {"estimate": True, **asdict(self), "parts": parts, "assumed": ASSUMED.told()}


def plan_bank(
    prompts: int,
    machines: Machines,
    price: float | None = None,
    host_memory: int = 30 * GB,
    clip: Clip | None = None,
    sentences: tuple[Weighed, Work] | None = None,
) -> BankPlan:
    """A bank of `prompts` prompts, of these models or else of the published ones; `host_memory` in bytes, of one host.

    At most: near duplicates are dropped before CLIP sees them, and none is taken to be one.
    """
    clip = clip or published_clip(half=not machines.gpu.is_cpu)
    sentences = sentences or sentence_costs(OF_A_RUN.prompt_tokens)
    parts = [
        moved(part, machines)
        for part in (
            cleaning_part(prompts),
            sentences_part(prompts, machines, *sentences),
            near_duplicates_part(prompts, machines),
            clip_part(prompts, machines, clip),
            bank_part(prompts, clip),
        )
    ]
    seconds = sum(part.seconds for part in parts)
    usable = usable_bytes(machines.gpu)
    problems = [
        f"{part.name}: {part.memory_bytes / GB:.2f} GB, usable are {usable / GB:.2f} GB of {machines.gpu.name}"
        for part in parts
        if part.memory_bytes > usable
    ]
    host = host_bytes(prompts, machines, clip)
    problems += [
        f"host: {needed / GB:.1f} GB on {what}, it has {host_memory / GB:.0f} GB (--host-memory)"
        for what, needed in host.items()
        if needed > host_memory
    ]
    whole = bank_bytes(prompts, prompts * OF_A_RUN.prompt_file_bytes)
    # the shards of texts and of both models' rows are removed once the bank is written
    building = bank_bytes(prompts, prompts * ASSUMED.prompt_bytes)
    disk = {"the bank": whole, "its parts until it is built": building}
    network = machines.over_network(sum(part.read_bytes + part.written_bytes for part in parts))
    note = room_note(prompts)
    return BankPlan(
        prompts, machines, parts, seconds, usable, host, host_memory, disk, network, price,
        machines.cost(seconds, price), not problems, problems, [note] if note else [],
    )  # fmt: skip


def moved(part: Part, machines: Machines) -> Part:
    size = part.read_bytes + part.written_bytes
    at_once = min(machines.count, part.workers) if part.workers else 1
    return replace(part, moving_seconds=machines.moving_seconds(size, at_once))


def cleaning_part(prompts: int) -> Part:
    """The files are gone through twice: counted, then cleaned."""
    texts = prompts * ASSUMED.prompt_bytes
    return Part("cleaning", "", 0, 0, prompts * ASSUMED.cleaning_seconds, 0, 2 * texts, texts)


def sentences_part(prompts: int, machines: Machines, weights: Weighed, sentence: Work) -> Part:
    workers = busy(machines, prompts, SHARD)
    seconds = compute_seconds(machines.gpu, sentence, prompts) + prompts * ASSUMED.sentence_token_seconds
    return Part(
        "MiniLM", "all-MiniLM-L6-v2", workers, prompts * sentence.operations, seconds / workers,
        weights.bytes + BATCH * sentence.activation_bytes,
        prompts * ASSUMED.prompt_bytes + workers * weights.bytes, prompts * ROW,
    )  # fmt: skip


def near_duplicates_part(prompts: int, machines: Machines) -> Part:
    """Every row with all before it, in float32; a CPU looks at few numbers of 8 bits. Prompts are chosen in groups, one
    after the other: all devices compare a group with what is before it, and one then its prompts with each other, for
    which each is started anew."""
    gpu, pairs = machines.gpu, near_duplicate_pairs(prompts)
    groups = math.ceil(prompts / TOGETHER)
    workers = busy(machines, prompts, TOGETHER)
    within = near_duplicate_pairs(min(prompts, TOGETHER)) * prompts / min(prompts, TOGETHER)
    operations = 2 * (AXES + CUT if gpu.is_cpu else EMBEDDING_DIMENSIONS)
    speed = gpu.single_speed * (ASSUMED.int8_speed if gpu.is_cpu else 1)
    pair = operations / speed + ASSUMED.comparison_bytes / gpu.read_speed
    starts = (2 * groups - 1) * ASSUMED.start_seconds
    seconds = ((pairs - within) / workers + within) * pair + starts
    rows = min(prompts, TOGETHER) * ROW + (PART_ROWS + SHARD) * EMBEDDING_DIMENSIONS * 4
    products = PART_ROWS * SHARD * (4 + 1)  # cosines, and which of them are near
    read = prompts * ROW * ((groups - 1) / 2 + workers + 1)  # what is before a group, and by each worker its own
    return Part("near duplicates", "", workers, operations * pairs, seconds, rows + products, read, 0)


def clip_part(prompts: int, machines: Machines, clip: Clip) -> Part:
    workers, cost = busy(machines, prompts, SHARD), bank_cost(machines.gpu, clip, prompts)
    return Part(
        "CLIP's texts", clip.name, workers, cost["operations"],
        (cost["seconds"] + prompts * ASSUMED.clip_token_seconds) / workers,
        clip.weights.bytes + BATCH * clip.text.activation_bytes,
        prompts * ASSUMED.prompt_bytes + workers * clip.weights.bytes, prompts * clip.dimensions * BYTES_A_NUMBER,
    )  # fmt: skip


def bank_part(prompts: int, clip: Clip) -> Part:
    """The head's sums over all rows, in float64; the rows are read for them, for each matrix and, once they are written
    there, for its sha256."""
    operations = 2 * prompts * (1 + clip.dimensions + EMBEDDING_DIMENSIONS) ** 2
    rows = prompts * (clip.dimensions + EMBEDDING_DIMENSIONS) * BYTES_A_NUMBER
    seconds = operations / (HOST_SPEED * ASSUMED.double_speed)
    texts = prompts * OF_A_RUN.prompt_file_bytes
    read = 4 * rows + prompts * ASSUMED.prompt_bytes + texts
    return Part("head and files", "", 0, operations, seconds, 0, read, rows + texts)


def busy(machines: Machines, prompts: int, at_once: int) -> int:
    """How many devices have something to do where each takes so many prompts `at_once`."""
    return min(machines.devices, math.ceil(prompts / at_once))


def host_bytes(prompts: int, machines: Machines, clip: Clip) -> dict[str, int]:
    """Of one machine: while all its workers load CLIP, which passes through the host; and of the first one, which tells
    equal prompts apart by their digests."""
    library = machines.worker_libraries * GB
    loading = 0 if machines.gpu.is_cpu else machines.gpu.count * (library + clip.weights.bytes)
    told_apart = OF_A_RUN.cpu_libraries_gb * GB + prompts * ASSUMED.digest_bytes
    return {"every machine while CLIP is loaded": int(loading), "the first machine while it cleans": int(told_apart)}
