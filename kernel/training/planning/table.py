"""The plan of a training for people."""

from kernel.pipeline.planning.gpus import GB
from kernel.training.planning.plan import ASSUMED, TierPlan, TrainingPlan

HEADER = ("on", "tier", "trained", "pictures/s", "at once", "accumulate", "GB", "of", "cores", "hours", "says")


def training_table(plan: TrainingPlan) -> str:
    """A row for each tier on each machine, and what was assumed."""
    tower, settings = plan.tower, plan.settings
    rows = [HEADER, *(cells(own) for own in plan.tiers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        f"Estimate, not measured: {tower.name} at {tower.size} px, {tower.parameters / 1e6:,.0f} M parameters, "
        f"{tower.operations / 1e9:,.0f} GFLOPs a picture; {plan.pairs:,} pairs, {settings.epochs} epochs of batches of "
        f"{settings.batch}, blocks: the upper {settings.trained_layers:.0%} of its layers",
        "Hours are those of the features, which one device makes, of the head, which each process fits on the host, "
        "and of the training; memory in GB of 10^9 bytes of one device, with the fewest parts of a batch (--set "
        "accumulate) that fit; cores decode as fast as that.",
        "",
    ]
    for row in rows:
        aligned = (
            cell.ljust(width) if column in (0, 1, 10) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(aligned).rstrip())
    if settings.recompute:
        lines += ["", "recompute: its time is counted, the memory that it saves is not"]
    lines += ["", "assumed, not measured:", *(f"  {value:>10,.4g}  {what}" for what, value in ASSUMED.told().items())]
    return "\n".join(lines)


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
