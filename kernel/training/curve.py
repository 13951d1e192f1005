"""How a training went, step by step: a table for programs and a picture for people."""

import csv
import io

WIDTH, HEIGHT, EDGE = 640, 300, 48  # of the picture; its edge holds the numbers


def curve_table(validations: dict[int, float], losses: dict[int, float]) -> str:
    """CSV: step by step the mean cosine on the validation pairs, and the mean loss since the step before."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("step", "validation", "loss"))
    rows.writerows((step, f"{found:.6f}", losses.get(step, "")) for step, found in sorted(validations.items()))
    return text.getvalue()


def curve_picture(validations: dict[int, float], losses: dict[int, float]) -> str:
    """SVG: both over the steps, each between its own least and most; the best validation has a ring."""
    last = max(validations)
    best = max(validations, key=lambda step: (validations[step], -step))
    (x, y), named = place(best, validations[best], validations, last), f"{validations[best]:.4f} at step {best:,}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *line(validations, last, "#1f6f54", "mean cosine on the validation pairs", 0),
        *line(losses, last, "#b4552d", "mean loss", 1),
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="black"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">steps, to {last:,}; best {named}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def place(step: int, value: float, values: dict[int, float], last: int) -> tuple[float, float]:
    low, high = min(values.values()), max(values.values())
    across, up = step / max(last, 1), (value - low) / ((high - low) or 1)
    return EDGE + across * (WIDTH - 2 * EDGE), HEIGHT - EDGE - up * (HEIGHT - 2 * EDGE)


def line(values: dict[int, float], last: int, colour: str, name: str, side: int) -> list[str]:
    """The line with its name, and its least and most at the left (`side` 0) or the right edge."""
    if not values:
        return []
    places = [place(step, value, values, last) for step, value in sorted(values.items())]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, anchor, edge, begins = ((EDGE - 6, "end", EDGE, "start"), (WIDTH - EDGE + 6, "start", WIDTH - EDGE, "end"))[side]
    told = [(x, HEIGHT - EDGE, anchor, f"{min(values.values()):.3f}"), (x, EDGE, anchor, f"{max(values.values()):.3f}"),
            (edge, 20, begins, name)]  # fmt: skip
    return [
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<text x="{x}" y="{y}" text-anchor="{own}" fill="{colour}">{words}</text>' for x, y, own, words in told),
    ]
