"""The plan of building a bank for people."""

from kernel.pipeline.planning.bank_plan import ASSUMED, BankPlan, Part
from kernel.pipeline.planning.gpus import GB
from kernel.pipeline.planning.table import aligned, assumed_lines

HEADER = ("part (estimate)", "model", "devices", "GB of each", "PFLOP", "GB read", "written", "computes h", "moves h")


def bank_table(plan: BankPlan) -> str:
    """A row for each part, then what is taken of hosts, disk, network and purse, the verdict, and what was assumed."""
    machines, gpu = plan.machines, plan.machines.gpu
    lines = [
        f"Estimate, not measured: a bank of {plan.prompts:,} prompts on {machines.label} ({plan.usable_bytes / GB:.1f} "
        f"GB usable of each {gpu.memory / GB:.1f}; {gpu.source})",
        "Parts one after the other, at most: none of the prompts is taken for a near duplicate. GB are of 10^9 bytes, "
        "read from and written to one disk that all machines share.",
        "",
        *aligned([HEADER, *(cells(part) for part in plan.parts)], left=(0, 1)),
        "",
        f"total {plan.seconds / 3600:.1f} hours" + priced(plan.cost, plan.price),
        *(f"host: {needed / GB:.1f} GB on {what}" for what, needed in plan.host_bytes.items() if needed),
    ]
    lines[-1] += f"; it has {plan.host_memory / GB:.0f} GB"
    lines += [f"disk: {size / GB:,.0f} GB for {what}" for what, size in plan.disk_bytes.items()]
    lines.append(f"network: {plan.network_bytes / GB:,.0f} GB cross it" if plan.network_bytes else "network: none")
    lines += [f"note: {note}" for note in plan.notes]
    lines += ["", "verdict (estimate): " + ("fits" if plan.fits else "does not fit")]
    lines += [f"  problem: {problem}" for problem in plan.problems]
    return "\n".join([*lines, *assumed_lines(ASSUMED.told())])


def priced(cost: float | None, price: float | None) -> str:
    return "" if cost is None else f"; costs {cost:,.2f} at {price:g} a machine and hour"


def cells(part: Part) -> tuple[str, ...]:
    return (
        part.name,
        part.model,
        f"{part.workers}" if part.workers else "a host",
        f"{part.memory_bytes / GB:.2f}" if part.workers else "",
        f"{part.operations / 1e15:,.1f}" if part.operations else "",
        f"{part.read_bytes / GB:,.0f}",
        f"{part.written_bytes / GB:,.0f}",
        f"{part.computing_seconds / 3600:.2f}",
        f"{part.moving_seconds / 3600:.2f}",
    )
