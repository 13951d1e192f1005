"""Hours and memory of a training on the GPUs that people have, by tier: an estimate, made without weights or a GPU.

Speeds are published ones of one card and one tower, scaled by counted operations and by the cards' peaks.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kernel.config import TrainingSettings
from kernel.errors import UserError
from kernel.pipeline.planning.gpus import KNOWN, Gpu
from kernel.pipeline.planning.stage_costs import ASSUMED as OF_A_RUN
from kernel.pipeline.planning.stage_costs import HOST_SPEED, assumed, in_words, usable_bytes
from kernel.training.heads import EPOCHS
from kernel.training.planning.costs import TowerCosts
from kernel.training.planning.memory import planned_training_memory

GPUS = ("T4", "T4x2", "L4x4", "A100", "H100")
PAIRS = 400_000


@dataclass(frozen=True)
class Assumed:
    """What nobody measured from here, and how the plan says it."""

    trained_a_second: float = assumed(
        85.0, "ViT-L/14 at 224 px: pictures/s trained whole on an RTX 3090, published (timm)"
    )
    seen_a_second: float = assumed(360.0, "ViT-L/14 at 224 px: pictures/s seen on an RTX 3090, published (timm)")
    tower_gigaflops: float = assumed(162.02, "GFLOPs a picture of that tower; other towers by theirs")
    t4_share: float = assumed(
        0.277, "a T4's speed beside that card, published (diffusers); other GPUs by their half peaks"
    )
    forward_share: float = assumed(1 / 3, "of a step is the forward pass; the rest goes by the share of layers trained")
    lora_share: float = assumed(0.7, "a step of LoRA beside one that trains the whole tower")
    doubled: float = assumed(1.9, "speed of two GPUs beside one")
    half_activations: float = assumed(0.57, "of float32's activations that half precision keeps (counted: norms stay)")
    session_hours: float = assumed(12.0, "hours of one session of Kaggle's")
    week_hours: float = assumed(30.0, "hours of GPU a week that Kaggle gives, two T4 counting as one")

    def told(self) -> dict[str, float]:
        """With what the plan of a run assumes too."""
        own = in_words(self)
        own["float32 operations a second of the host's cores, which fit the head"] = HOST_SPEED
        return own | in_words(OF_A_RUN, "tensor_share", "gpu_context_gb", "decode_core_seconds")


ASSUMED = Assumed()


@dataclass(frozen=True)
class TierPlan:
    """One tier on one machine. `batch` pictures go through one device at once, `accumulate` times a step; memory is of
    one device. `hours` are those of the features and heads, which every tier begins with, and of its steps together;
    `cores` decode as fast as that."""

    gpu: str
    tier: str
    trained: int
    batch: int
    accumulate: int
    memory_bytes: int
    usable_bytes: int
    pictures_a_second: float
    cores: float
    hours: float
    fits: bool
    sessions: int
    fits_week: bool


@dataclass(frozen=True)
class TrainingPlan:
    tower: TowerCosts
    pairs: int
    settings: TrainingSettings
    tiers: list[TierPlan]

    def as_json(self) -> dict[str, Any]:
        return {"estimate": True, **asdict(self), "assumed": ASSUMED.told()}


def plan_training(
    tower: TowerCosts, gpus: Sequence[Gpu], pairs: int = PAIRS, settings: TrainingSettings | None = None
) -> TrainingPlan:
    """Every tier of `tower` on every one of these machines."""
    settings = settings or TrainingSettings()
    tiers = [tier for gpu in gpus for tier in tiers_on(gpu, tower, pairs, settings)]
    return TrainingPlan(tower, pairs, settings, tiers)


def tiers_on(gpu: Gpu, tower: TowerCosts, pairs: int, settings: TrainingSettings) -> list[TierPlan]:
    seen, speeds = pictures_a_second(gpu, tower, settings)
    usable, forward = usable_bytes(gpu), frozen_bytes(tower)
    begun = pairs / seen + head_seconds(gpu, tower, pairs)  # the first process makes the features of all
    found = [told(gpu, "head", 0, 0, 0, forward, usable, seen, begun)]
    for tier, speed in speeds.items():
        batch, accumulate, memory = parts_that_fit(gpu, tower, tier, settings, usable)
        speed /= waited_for(settings.batch, gpu.count)
        seconds = begun + pairs * settings.epochs / speed
        found.append(told(gpu, tier, tower.tiers[tier].parameters, batch, accumulate, memory, usable, speed, seconds))
    return found


def pictures_a_second(gpu: Gpu, tower: TowerCosts, settings: TrainingSettings) -> tuple[float, dict[str, float]]:
    """Seen by one device, and by tier trained by the devices of one machine together."""
    card = ASSUMED.t4_share * gpu.half_peak / KNOWN["T4"].half_peak
    scale = card * ASSUMED.tower_gigaflops * 1e9 / tower.operations
    whole = ASSUMED.trained_a_second * scale * ASSUMED.doubled ** math.log2(gpu.count)
    upper = ASSUMED.forward_share + (1 - ASSUMED.forward_share) * settings.trained_layers
    again = 1 + ASSUMED.forward_share * settings.recompute
    shares = {"blocks": upper, "lora": ASSUMED.lora_share, "full": 1.0}
    return ASSUMED.seen_a_second * scale, {tier: whole / (share * again) for tier, share in shares.items()}


def frozen_bytes(tower: TowerCosts) -> int:
    """Of a device that only sees: the weights in half precision, without their average."""
    return planned_training_memory(tower.parameters, 0, 0, 0) // 4


def head_seconds(gpu: Gpu, tower: TowerCosts, pairs: int) -> float:
    """The two layers, fitted on the host's cores by each process: of each weight and pair two operations forward, four
    backward."""
    return 6 * tower.head * pairs * EPOCHS / HOST_SPEED * gpu.count


def told(
    gpu: Gpu,
    tier: str,
    trained: int,
    batch: int,
    accumulate: int,
    memory: int,
    usable: int,
    speed: float,
    seconds: float,
) -> TierPlan:
    hours = seconds / 3600
    return TierPlan(
        gpu.label, tier, trained, batch, accumulate, memory, usable, speed, speed * OF_A_RUN.decode_core_seconds, hours,
        memory <= usable, math.ceil(hours / ASSUMED.session_hours), hours <= ASSUMED.week_hours,
    )  # fmt: skip


def largest_share(batch: int, devices: int) -> int:
    """Of a batch each device has every `devices`-th picture (kernel/training/tower/pictures.py), so some one more."""
    return math.ceil(batch / devices)


def waited_for(batch: int, devices: int) -> float:
    """How much longer a step takes than with equal shares, as all wait for who has the most. Example: 256 pictures on 6
    devices, 43 the most -> 1.008"""
    return largest_share(batch, devices) * devices / batch


def parts_that_fit(
    gpu: Gpu, tower: TowerCosts, tier: str, settings: TrainingSettings, usable: int
) -> tuple[int, int, int]:
    """Pictures at once on the device that has the most of a batch, in how many parts that makes a step, and the memory:
    with the fewest parts that fit, else with single pictures. Parts are of one size where the devices' shares are."""
    if settings.batch < gpu.count:
        raise UserError(
            f"a batch of {settings.batch} pictures cannot be shared out to {gpu.label}: some would have none. Set "
            f"batch to {gpu.count} or more"
        )
    even = settings.batch % gpu.count == 0
    own, half = tower.tiers[tier], not gpu.is_cpu
    a_picture = int(own.activation_bytes * (ASSUMED.half_activations if half else 1))
    each = largest_share(settings.batch, gpu.count)
    for accumulate in range(settings.accumulate, each + 1):
        batch = math.ceil(each / accumulate)
        memory = planned_training_memory(
            tower.parameters, own.parameters, batch, a_picture, half=half, processes=gpu.count
        )
        if (memory <= usable or batch == 1) and not (even and each % accumulate):
            return batch, accumulate, memory
    raise UserError(f"a batch of {settings.batch} has no {settings.accumulate} parts on {gpu.label}. Set fewer")
