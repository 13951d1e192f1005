"""A plan for people: a table of stages as text, and the same as a picture."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

from kernel.errors import UserError
from kernel.pipeline.planning.gpus import GB
from kernel.pipeline.planning.plan import Plan
from kernel.pipeline.planning.stage_costs import ASSUMED, Stage
from kernel.system.deadline import duration
from kernel.system.files import write_whole

HEADER = ("stage (estimate)", "model", "weights", "memory", "batch", "fits up to", "TFLOP", "minutes", "bound by")


def plan_table(plan: Plan) -> str:
    """Stages with memory in GB (10^9 bytes), totals, verdict, cures, and what was assumed."""
    lines = [
        f"Estimate, not measured: recipe {plan.recipe.name}, {plan.images:,} images on {plan.gpu.label} "
        f"({plan.usable_bytes / GB:.1f} GB usable of each {plan.gpu.memory / GB:.1f}; {plan.gpu.source})",
        f"Stages of one worker of {plan.gpu.count}; memory in GB of 10^9 bytes, peak of its device.",
        "",
        *aligned([HEADER, *(cells(stage) for stage in plan.stages)], left=(0, 1, 8)),
    ]
    lines += ["", f"total {duration(plan.seconds)} of {duration(plan.deadline_seconds)}"]
    if any(stage.memory_at(1) > plan.usable_bytes for stage in plan.stages):
        lines[-1] += ", if every stage had the memory for batch 1"
    lines += [f"host: {needed / GB:.1f} GB with {what}" for what, needed in plan.host_bytes.items()]
    if plan.host_bytes:
        lines[-1] += f"; it has {plan.host_memory / GB:.0f} GB"
    if plan.bank:
        lines.append(
            f"bank: {plan.bank['prompts']:,.0f} prompts at {plan.bank['operations_per_prompt'] / 1e9:.0f} GFLOPs each "
            f"are {plan.bank['operations'] / 1e15:.1f} PFLOP, {duration(plan.bank['seconds'])} on one {plan.gpu.name} "
            f"to build, {plan.bank['bytes'] / GB:.2f} GB"
        )
    lines += [f"note: {note}" for note in plan.notes]
    lines += ["", "verdict (estimate): " + ("fits" if plan.fits else "does not fit")]
    lines += [f"  problem: {problem}" for problem in plan.problems]
    lines += [f"  cure: {cure}" for cure in plan.cures]
    return "\n".join([*lines, *assumed_lines(ASSUMED.told())])


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Rows of equal length as lines of columns, those of words to the `left`, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def assumed_lines(told: Mapping[str, float]) -> list[str]:
    return ["", "assumed, not measured:", *(f"  {value:>12,.10g}  {what}" for what, value in told.items())]


class PrintedPlan(Plan):
    """A plan whose text is its table."""

    __str__ = plan_table


def cells(stage: Stage) -> tuple[str, ...]:
    """One row of the table; a stage of the host has no device memory."""
    on_device = stage.weights_bytes + stage.fixed_bytes > 0
    return (
        stage.name,
        stage.model,
        f"{stage.weights_bytes / GB:.2f}" if on_device else "",
        f"{stage.memory_bytes / GB:.2f}" if on_device else "",
        str(stage.batch) if stage.batch else "",
        f"{stage.fits_up_to:,}" if stage.batch else "",
        f"{stage.operations / 1e12:,.0f}" if stage.operations else "",
        f"{stage.seconds / 60:.1f}",
        stage.bound_by,
    )


BAR, ROW, LEFT, TOP = 260, 26, 150, 70
MEMORY_COLOUR, TIME_COLOUR, LIMIT_COLOUR = "#4477aa", "#ddaa33", "#bb2222"


def plan_picture(plan: Plan) -> str:
    """An SVG: for each stage one bar of memory, beside the line of what is usable, and one of minutes."""
    most_bytes = max([plan.usable_bytes, *(stage.memory_bytes for stage in plan.stages)])
    most_seconds = max(max(stage.seconds for stage in plan.stages), 1)
    second, height = LEFT + BAR + 110, TOP + ROW * len(plan.stages) + 50
    width = second + BAR + 110
    limit = LEFT + BAR * plan.usable_bytes / most_bytes
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(16, 24, f"Estimate: {plan.recipe.name}, {plan.images:,} images on {plan.gpu.label}: "
             f"{'fits' if plan.fits else 'does not fit'}, {duration(plan.seconds)} of "
             f"{duration(plan.deadline_seconds)}"),
        text(LEFT, TOP - 12, "GB of one device"),
        text(second, TOP - 12, "minutes"),
    ]  # fmt: skip
    for index, stage in enumerate(plan.stages):
        y = TOP + ROW * index
        parts.append(text(16, y + 15, stage.name))
        bars = ((LEFT, stage.memory_bytes / most_bytes, stage.memory_bytes / GB, MEMORY_COLOUR),
                (second, stage.seconds / most_seconds, stage.seconds / 60, TIME_COLOUR))  # fmt: skip
        for x, share, value, colour in bars:
            length = BAR * share
            parts.append(f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{ROW - 8}" fill="{colour}"/>')
            parts.append(text(x + length + 5, y + 14, f"{value:.1f}"))
    bottom = TOP + ROW * len(plan.stages)
    parts.append(f'<path d="M{limit:.1f} {TOP - 6}V{bottom}" stroke="{LIMIT_COLOUR}" stroke-dasharray="4 3"/>')
    parts.append(text(LEFT, bottom + 22, f"dashed: {plan.usable_bytes / GB:.1f} GB usable"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def write_picture(path: Path, plan: Plan) -> None:
    """Raises UserError when the file cannot be written."""
    try:
        write_whole(path, plan_picture(plan).encode())
    except OSError as error:
        raise UserError(
            f"{path}: the picture cannot be written ({error.strerror or error}). Give --picture a file in a folder "
            "that exists and that you may write"
        ) from error


def text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
