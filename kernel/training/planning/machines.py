"""The plan of a training over many machines: hours by part, memory, disk, network and price, by tier; an estimate.

The first device makes the prompts' rows and all devices the features, the head is fitted by every process, and each
step's pictures are shared out to all devices, which wait for those that have one more, and whose gradients are summed
up. The machines share one disk with the pairs and what is made of them.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from kernel.banks.cost import near_duplicate_pairs
from kernel.config import EMBEDDING_DIMENSIONS, TrainingSettings
from kernel.pipeline.planning.bank_plan import ASSUMED as OF_A_BANK
from kernel.pipeline.planning.bank_plan import sentences_part
from kernel.pipeline.planning.gpus import GB
from kernel.pipeline.planning.machines import ASSUMED as OF_MACHINES
from kernel.pipeline.planning.machines import Machines
from kernel.pipeline.planning.model_costs import sentence_costs
from kernel.pipeline.planning.stage_costs import ASSUMED as OF_A_RUN
from kernel.pipeline.planning.stage_costs import HOST_SPEED, assumed, in_words, usable_bytes
from kernel.training.planning.costs import TowerCosts
from kernel.training.planning.plan import ASSUMED as OF_A_TRAINING
from kernel.training.planning.plan import frozen_bytes, head_seconds, parts_that_fit, pictures_a_second, waited_for

FLOAT = 4  # bytes; gradients and features are in float32


@dataclass(frozen=True)
class Assumed:
    """What nobody measured at this size, and how the plan says it."""

    picture_bytes: int = assumed(36_000, "bytes of a picture of 336 px, as `publish pairs` leaves it")
    feature_copies: int = assumed(3, "float32 copies of all features that a process holds while it fits the head")

    def told(self) -> dict[str, float]:
        """With what the plan of one machine and machines assume too."""
        own = in_words(self) | in_words(OF_MACHINES) | OF_A_TRAINING.told()
        own |= in_words(OF_A_RUN, "gpu_libraries_gb", "cpu_libraries_gb", "single_efficiency", "prompt_tokens")
        own |= in_words(OF_A_BANK, "sentence_token_seconds")
        of_kaggle = in_words(OF_A_TRAINING, "session_hours", "week_hours")
        return {says: value for says, value in own.items() if says not in of_kaggle}


ASSUMED = Assumed()


@dataclass(frozen=True)
class TierOnMachines:
    """One tier. `batch` pictures go through one device at once, `accumulate` times a step; memory is of one device.
    `cores` of each machine decode as fast as its devices train. `exchange_seconds` are those of the `steps_seconds` in
    which gradients cross the network, `step_bytes` with every step, none of it taken to pass beside computing; `cost`
    is None without a price."""

    tier: str
    trained: int
    batch: int
    accumulate: int
    memory_bytes: int
    pictures_a_second: float
    cores: float
    prompts_seconds: float
    features_seconds: float
    head_seconds: float
    steps_seconds: float
    exchange_seconds: float
    seconds: float
    step_bytes: float
    network_bytes: float
    disk_bytes: int
    cost: float | None
    fits: bool


@dataclass(frozen=True)
class MachinesPlan:
    """`host_bytes` are of one machine, while its processes fit the head. `split_seconds` are not in the tiers' own:
    only a set that brings neither its split nor clusters is split, by the first process on its host."""

    tower: TowerCosts
    pairs: int
    settings: TrainingSettings
    machines: Machines
    steps: int
    split_seconds: float
    tiers: list[TierOnMachines]
    usable_bytes: int
    host_bytes: int
    host_memory: int
    price: float | None
    problems: list[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return {"estimate": True, **asdict(self), "assumed": ASSUMED.told()}


def plan_training_on(
    machines: Machines,
    tower: TowerCosts,
    pairs: int,
    settings: TrainingSettings,
    price: float | None = None,
    host_memory: int = 30 * GB,
) -> MachinesPlan:
    """Every tier of `tower` on all of these machines; `host_memory` in bytes, of one host.

    Raises UserError for a batch of fewer pictures than there are devices.
    """
    gpu = machines.gpu
    seen, speeds = pictures_a_second(gpu, tower, settings)
    steps = settings.epochs * math.ceil(pairs / settings.batch)
    pictures, rows = pairs * ASSUMED.picture_bytes, pairs * tower.width * FLOAT
    # pictures are decoded ahead; every process then reads all features
    made = max(pairs / (seen * machines.devices), machines.moving_seconds(pictures))
    read = machines.devices * rows
    features = made + machines.moving_seconds(rows + read)
    head = head_seconds(gpu, tower, pairs)
    one = Machines(1, replace(gpu, count=1))
    prompts = sentences_part(pairs, one, *sentence_costs(OF_A_RUN.prompt_tokens)).computing_seconds
    split = 2 * EMBEDDING_DIMENSIONS * near_duplicate_pairs(pairs) / HOST_SPEED
    moved = machines.over_network(pictures + rows + read)
    usable = usable_bytes(gpu)

    def planned(tier: str, trained: int, fitting: tuple[int, int, int], speed: float, count: int) -> TierOnMachines:
        """With `count` steps at `speed` pictures a second of one machine."""
        batch, accumulate, memory = fitting
        exchanged = machines.exchanged_bytes(trained * FLOAT)
        exchange = count * exchanged / OF_MACHINES.network_bytes_a_second
        epochs = settings.epochs if count else 0
        trains = pairs * epochs / (speed * machines.count) + exchange
        stepping = max(trains, machines.moving_seconds(epochs * pictures))
        seconds = prompts + features + head + stepping
        crossing = moved + machines.over_network(epochs * pictures) + count * exchanged * machines.count
        # with a checkpoint: what is trained, its average and AdamW's two moments, and the best
        disk = pictures + rows + 5 * trained * FLOAT
        return TierOnMachines(
            tier, trained, batch, accumulate, memory, speed * machines.count, speed * OF_A_RUN.decode_core_seconds,
            prompts, features, head, stepping, exchange, seconds, exchanged * machines.count, crossing, disk,
            machines.cost(seconds, price), memory <= usable,
        )  # fmt: skip

    tiers = [planned("head", 0, (0, 0, frozen_bytes(tower)), seen * gpu.count, 0)]
    together = replace(gpu, count=machines.devices)  # the batch is shared out to all of them
    for tier, speed in speeds.items():
        fitting = parts_that_fit(together, tower, tier, settings, usable)
        speed /= waited_for(settings.batch, machines.devices)
        tiers.append(planned(tier, tower.tiers[tier].parameters, fitting, speed, steps))
    host = host_bytes(machines, tower, pairs)
    problems = []
    if host > host_memory:
        found = f"{host / GB:.1f} GB while its processes fit the head"
        problems.append(f"host: {found}, it has {host_memory / GB:.0f} GB (--host-memory)")
    problems += [f"{own.tier}: does not fit its memory" for own in tiers if not own.fits]
    return MachinesPlan(
        tower, pairs, settings, machines, steps, split, tiers, usable, host, host_memory, price, problems,
        notes_of(tiers, split),
    )  # fmt: skip


def notes_of(tiers: list[TierOnMachines], split: float) -> list[str]:
    before = f"is split before, at most {split / 3600:,.1f} hours of one host"
    notes = [f"a set that brings neither its split nor clusters {before}"]
    slow = [own.tier for own in tiers if own.exchange_seconds > own.steps_seconds / 2]
    if slow:
        says = "gradients take longer than pictures; a larger --set batch exchanges them less often"
        notes.append(f"{' and '.join(slow)}: {says}")
    return notes


def host_bytes(machines: Machines, tower: TowerCosts, pairs: int) -> int:
    """Of one machine while each of its processes fits the head: copies of the features and of the prompts' rows, and
    the matrix in float64 that the sums are taken of (kernel/training/heads.py)."""
    copies = ASSUMED.feature_copies * (tower.width + EMBEDDING_DIMENSIONS) * FLOAT
    in_double = 8 * (1 + tower.width + EMBEDDING_DIMENSIONS)
    process = machines.worker_libraries * GB + pairs * (copies + in_double)
    return int(machines.gpu.count * process)
