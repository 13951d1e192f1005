"""The plans of a training, on single machines and over many, for people."""

from collections.abc import Mapping

from kernel.config import TrainingSettings
from kernel.pipeline.planning.bank_table import priced
from kernel.pipeline.planning.gpus import GB
from kernel.pipeline.planning.table import aligned
from kernel.training.planning.costs import TowerCosts
from kernel.training.planning.machines import ASSUMED as OF_MACHINES
from kernel.training.planning.machines import MachinesPlan, TierOnMachines
from kernel.training.planning.plan import ASSUMED, TierPlan, TrainingPlan

HEADER = ("on", "tier", "trained", "pictures/s", "at once", "accumulate", "GB", "of", "cores", "hours", "says")
OF_MANY = (
    "tier", "trained", "pictures/s", "at once", "accumulate", "GB", "cores", "prompts", "features", "head", "steps",
    "exchange", "hours", "says",
)  # fmt: skip


def training_table(plan: TrainingPlan) -> str:
    """A row for each tier on each machine, and what was assumed."""
    lines = [
        heading(plan.tower, plan.pairs, plan.settings),
        "Hours are those of the features, which one device makes, of the head, which each process fits on the host, "
        "and of the training; memory in GB of 10^9 bytes of one device, with the fewest parts of a batch (--set "
        "accumulate) that fit; cores decode as fast as that.",
        "",
        *aligned([HEADER, *(cells(own) for own in plan.tiers)], left=(0, 1, 10)),
    ]
    return "\n".join([*lines, *recompute_lines(plan.settings), *assumed_lines(ASSUMED.told())])


def machines_table(plan: MachinesPlan) -> str:
    """A row for each tier, then what each takes of disk, network and purse, hosts, and what was assumed."""
    machines, gpu = plan.machines, plan.machines.gpu
    lines = [
        f"{heading(plan.tower, plan.pairs, plan.settings)}; on {machines.label} ({plan.usable_bytes / GB:.1f} GB "
        f"usable of each {gpu.memory / GB:.1f}; {gpu.source})",
        "Hours by part: the prompts' rows, on one device; features, on all; the head, which each process fits on its "
        "host; steps, on all devices, and of these the exchange of gradients, with none of it beside computing. GB of "
        "10^9 bytes of one device; cores of each machine decode as fast as that.",
        "",
        *aligned([OF_MANY, *(cells_of_many(own) for own in plan.tiers)], left=(0, 13)),
        "",
        *(tier_line(own, plan) for own in plan.tiers),
        f"host: {plan.host_bytes / GB:.1f} GB while its processes fit the head; it has {plan.host_memory / GB:.0f} GB",
    ]
    lines += [f"note: {note}" for note in plan.notes]
    lines += ["", "verdict (estimate): " + ("does not fit" if plan.problems else "fits")]
    lines += [f"  problem: {problem}" for problem in plan.problems]
    return "\n".join([*lines, *recompute_lines(plan.settings), *assumed_lines(OF_MACHINES.told())])


def heading(tower: TowerCosts, pairs: int, settings: TrainingSettings) -> str:
    return (
        f"Estimate, not measured: {tower.name} at {tower.size} px, {tower.parameters / 1e6:,.0f} M parameters, "
        f"{tower.operations / 1e9:,.0f} GFLOPs a picture; {pairs:,} pairs, {settings.epochs} epochs of batches of "
        f"{settings.batch}, blocks: the upper {settings.trained_layers:.0%} of its layers"
    )


def recompute_lines(settings: TrainingSettings) -> list[str]:
    return ["", "recompute: its time is counted, the memory that it saves is not"] if settings.recompute else []


def assumed_lines(told: Mapping[str, float]) -> list[str]:
    return ["", "assumed, not measured:", *(f"  {value:>10,.4g}  {what}" for what, value in told.items())]


def tier_line(own: TierOnMachines, plan: MachinesPlan) -> str:
    """What a tier takes beside its devices' time."""
    step = f", {own.step_bytes / GB:.2f} GB with each of {plan.steps:,} steps" if own.step_bytes else ""
    network = f"{own.network_bytes / 1e12:,.2f} TB cross the network{step}" if own.network_bytes else "no network"
    return f"{own.tier}: {own.disk_bytes / GB:,.0f} GB of the shared disk; {network}{priced(own.cost, plan.price)}"


def cells(own: TierPlan) -> tuple[str, ...]:
    steps = own.tier != "head"
    return (
        own.gpu,
        own.tier,
        f"{own.trained / 1e6:,.0f} M" if steps else "",
        f"{own.pictures_a_second:,.0f}",
        str(own.batch) if steps else "",
        str(own.accumulate) if steps else "",
        f"{own.memory_bytes / GB:.1f}",
        f"{own.usable_bytes / GB:.1f}",
        f"{own.cores:,.1f}",
        f"{own.hours:.1f}",
        verdict(own),
    )


def verdict(own: TierPlan) -> str:
    if not own.fits:
        return "does not fit its memory"
    if not own.fits_week:
        return "more than a week of Kaggle's"
    return "one session" if own.sessions == 1 else f"{own.sessions} sessions, one week"


def cells_of_many(own: TierOnMachines) -> tuple[str, ...]:
    steps = own.tier != "head"
    times = (
        own.prompts_seconds,
        own.features_seconds,
        own.head_seconds,
        own.steps_seconds,
        own.exchange_seconds,
        own.seconds,
    )
    hours = [f"{seconds / 3600:,.1f}" for seconds in times]
    return (
        own.tier,
        f"{own.trained / 1e6:,.0f} M" if steps else "",
        f"{own.pictures_a_second:,.0f}",
        str(own.batch) if steps else "",
        str(own.accumulate) if steps else "",
        f"{own.memory_bytes / GB:.1f}",
        f"{own.cores:,.1f}",
        *hours,
        "fits" if own.fits else "does not fit its memory",
    )
