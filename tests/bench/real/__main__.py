"""What real towers make of real pictures with real prompts: `make real`.

Every picture is answered once, by fits on the four fifths that hold no prompt near to its own. Writes OUT/real.json and
OUT/real.md, and prints the latter.
"""

import argparse
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from kernel.config import DEFAULT_WEIGHTS
from kernel.errors import UserError
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.system.devices import find_device
from kernel.system.files import write_json, write_whole
from kernel.training.intervals import interval_over_groups
from tests.bench.machine import machine_named
from tests.bench.real.answers import ANSWERS, Said, held_out
from tests.bench.real.line import whole_line
from tests.bench.real.material import Material, read_material
from tests.bench.real.upper_blocks import TRAINED

MARGINS = (
    ("fused", "mean prompt"),
    ("fused", "ridge of lite0"),
    ("fused", "weighed mean prompt"),
    ("fused", "weighed ridge of lite0"),
    ("fused", "weighed ridge of lite2"),
    ("weighed blocks of lite0", "weighed ridge of lite0"),
)


def real(pairs: Path, out: Path, weights: Path, device: str = "auto") -> dict[str, Any]:
    """Writes OUT/real.json and OUT/real.md and returns the former's content."""
    material, bad = read_material(pairs, weights, out, find_device(device))
    start = time.perf_counter()
    content = report(material, held_out(material, ANSWERS))
    content |= {
        "line": whole_line(pairs, out, weights, out / "towers" / TRAINED, device),
        "bad": len(bad),
        "machine": machine_named(),
        "date": str(date.today()),
        "seconds": time.perf_counter() - start,
    }
    write_json(out / "real.json", content)
    write_whole(out / "real.md", (page(content) + "\n").encode())
    return content


def report(material: Material, said: Said) -> dict[str, Any]:
    """Of each answer and each margin the mean cosine over all, over the free prompts and by source."""
    cosines = {name: pairwise_cosine(rows, material.truth) for name, rows in said.items()}
    return {
        "held_out": len(material.truth),
        "groups": len(np.unique(material.groups)),
        "answers": {name: by_source(material, own) for name, own in cosines.items()},
        "margins": {
            f"{own} minus {other}": by_source(material, cosines[own] - cosines[other]) for own, other in MARGINS
        },
    }


def by_source(material: Material, values: np.ndarray) -> dict[str, Any]:
    sources = np.array(material.sources)
    return {
        "all": over(material.prompts, values),
        "free": over(
            [prompt for prompt, free in zip(material.prompts, material.free, strict=True) if free],
            values[material.free],
        ),
        "by_source": {
            source: over(
                [material.prompts[place] for place in np.flatnonzero(sources == source)], values[sources == source]
            )
            for source in sorted(set(material.sources))
        },
    }


def over(prompts: list[str], values: np.ndarray) -> dict[str, Any]:
    interval = interval_over_groups(values, prompts)
    return {"mean": float(values.mean()), "ci95": list(interval), "pictures": len(values), "prompts": len(set(prompts))}


def page(content: dict[str, Any]) -> str:
    """The tables in Markdown."""
    answers, margins, line = content["answers"], content["margins"], content["line"]
    free, whole = (next(iter(answers.values()))[part] for part in ("free", "all"))
    lines = [
        f"{whole['pictures']:,} pictures of {whole['prompts']:,} prompts in {content['groups']:,} groups, free of a "
        f"template {free['pictures']:,} of {free['prompts']:,}; measured {content['date']} on {content['machine']}, "
        f"{content['seconds']:.0f} seconds after the features.",
        "",
        "| answer | free prompts | 95 % interval | all | 95 % interval |",
        "|---|---|---|---|---|",
        *(f"| {name} | {figures(own['free'])} | {figures(own['all'])} |" for name, own in answers.items()),
        *(f"| {name} | {figures(own['free'], '+')} | {figures(own['all'], '+')} |" for name, own in margins.items()),
        "",
        "The whole line by its commands, `train`, `run`, `evaluate`, `report`: "
        f"{line['mean']:.4f} ({line['ci95'][0]:.4f} to {line['ci95'][1]:.4f}) on {line['pictures']:,} pictures that "
        f"the encoder of Lite0 (tier {line['tier']}, {line['trained_on']:,} pictures) never saw, in "
        f"{line['seconds']:.0f} seconds.",
        "",
        f"| source | pictures | prompts | {' | '.join(answers)} |",
        "|---" * (len(answers) + 3) + "|",
    ]
    by_size = sorted(next(iter(answers.values()))["by_source"].items(), key=lambda own: -own[1]["pictures"])
    for source, own in by_size:
        means = " | ".join(f"{answer['by_source'][source]['mean']:.3f}" for answer in answers.values())
        lines.append(f"| {source} | {own['pictures']} | {own['prompts']} | {means} |")
    return "\n".join(lines)


def figures(own: dict[str, Any], sign: str = "") -> str:
    """Example: {"mean": 0.5, "ci95": [0.4, 0.6]} -> "0.500 | 0.400 to 0.600" """
    low, high = own["ci95"]
    return f"{own['mean']:{sign}.3f} | {low:{sign}.3f} to {high:{sign}.3f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.real", description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="images/, prompts.csv and sources.csv")
    parser.add_argument("--out", type=Path, default=Path("build/real"))
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="whose MiniLM is the real one")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    if not options.pairs.is_dir():
        print(f"{options.pairs}: not there, so nothing is measured: real pictures do not come with the project")
        return 0
    try:
        content = real(options.pairs, options.out, options.weights, options.device)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(page(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
