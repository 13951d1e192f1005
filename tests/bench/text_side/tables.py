"""The four tables: how a setting moves the mean cosine against the true vector, each cell beside its default."""

from typing import Any

import numpy as np

from kernel.banks.nearest import nearest, neighbour_estimate
from kernel.config import Recipe
from kernel.estimates.fusion import fuse, group_means
from kernel.evaluation.evaluate import bootstrap_interval, pairwise_cosine
from kernel.system.devices import Device
from tests.bench.text_side.material import (
    CAPTIONS,
    DEFAULT_NEAR,
    SPLITS,
    EachTextOnce,
    Material,
    neighbours_answer,
    rows_of,
)
from tests.bench.text_side.simulation import Corruption, mean_agreement

NEAR = (1.0, 0.95, 0.9, 0.8, 0.7, 0.55)
SHRINKS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
COUNTS = (1, 2, 5, 10, 20)
TOP_K = (1, 5, 10, 20, 50, 100, 200, 500)
# a softmax at temperature 1 weighs neighbours all but alike, as their cosines differ by less than 1
WEIGHTINGS = {
    "published": ("published", 1.0),
    **{f"softmax {t:g}": ("softmax", t) for t in (0.01, 0.02, 0.05, 0.1, 1.0)},
}
PUBLISHED = "published"
Cell = dict[str, Any]


def cell(row: str, column: str, cosines: np.ndarray, default: np.ndarray) -> Cell:
    """One figure: cosines (n,) split after split, and those of the default on the same prompts, compared pairwise."""
    differences = cosines - default
    return {
        "row": row,
        "column": column,
        "n": len(cosines),
        "mean": float(cosines.mean()),
        "ci95": list(bootstrap_interval(cosines)),
        "by_split": [float(mean) for mean in cosines.reshape(SPLITS, -1).mean(axis=1)],
        "minus_default": {"mean": float(differences.mean()), "ci95": list(bootstrap_interval(differences))},
    }


def dedupe_table(
    material: Material, queries: dict[str, np.ndarray], banks: dict[float, np.ndarray], device: Device
) -> list[Cell]:
    """Banks deduped at each threshold, and for each as many prompts of the whole bank at random: what fewer prompts
    alone do. Default settings of neighbours."""
    whole = material.bank_rows.astype(np.float16)
    rng = np.random.default_rng(SPLITS)
    everything = np.concatenate(list(queries.values()))
    truth = np.concatenate([material.truth] * len(queries))
    cosines: dict[tuple[float, str], np.ndarray] = {}
    for near, bank in banks.items():
        chance = whole[np.sort(rng.choice(len(whole), len(bank), replace=False))]
        for kind, own in (("", bank), (", as many at random", chance)):
            answers = pairwise_cosine(neighbours_answer(everything, own, Recipe(), device), truth)
            for name, part in zip(queries, np.split(answers, len(queries)), strict=True):
                cosines[near, name + kind] = part
    return [
        {**cell(f"{near:g}", name, own, cosines[DEFAULT_NEAR, name]), "kept": len(banks[near])}
        for (near, name), own in cosines.items()
    ]


def shrink_table(answers: dict[str, tuple[np.ndarray, np.ndarray]], mean: np.ndarray) -> list[Cell]:
    """Answers, each beside its truth, with a share of the bank's mean vector (384,), as the estimate `constant` has."""
    cells = []
    for name, (rows, truth) in answers.items():
        cosines = [pairwise_cosine(shrunk(rows, mean, share), truth) for share in SHRINKS]
        cells += [cell(f"{share:g}", name, own, cosines[0]) for share, own in zip(SHRINKS, cosines, strict=True)]
    return cells


def shrunk(rows: np.ndarray, mean: np.ndarray, share: float) -> np.ndarray:
    estimates = {"answer": rows, "constant": np.tile(mean, (len(rows), 1))}
    usable = dict.fromkeys(estimates, np.ones(len(rows), dtype=bool))
    return fuse(estimates, usable, {"answer": 1 - share, "constant": share}, mean, normalise=True)


def captions_table(material: Material, corruptions: dict[str, Corruption], encoder: EachTextOnce) -> list[Cell]:
    """Plain means of more and fewer captions; `, distinct` counts equal captions of an image once."""
    places = material.captioned()
    truth = material.truth[places]
    cells = []
    for name, corruption in corruptions.items():
        all_captions = material.captions(max(COUNTS), corruption)
        captions = [all_captions[place] for place in places]
        rows = rows_of(captions, encoder)
        for kind in ("", ", distinct"):
            means = {count: captions_answer(captions, count, encoder, distinct=bool(kind)) for count in COUNTS}
            default = pairwise_cosine(means[CAPTIONS], truth)
            for count, own in means.items():
                figures = {
                    "distinct": float(np.mean([len(set(said[:count])) for said in captions])),
                    "nearness": mean_agreement(rows),
                    **vars(corruption),
                }
                cells.append({**cell(str(count), name + kind, pairwise_cosine(own, truth), default), **figures})
    return cells


def captions_answer(captions: list[list[str]], count: int, encoder: EachTextOnce, distinct: bool = False) -> np.ndarray:
    """Plain mean of the first `count` captions of each image -> (n, 384)."""
    own = [list(dict.fromkeys(said[:count])) if distinct else said[:count] for said in captions]
    flat = encoder.encode([caption for said in own for caption in said])
    return group_means(flat, [len(said) for said in own])


def neighbours_table(
    material: Material, queries: dict[str, np.ndarray], bank: np.ndarray, device: Device
) -> dict[str, list[Cell]]:
    """For each kind of query every k with every weighting; the most neighbours are sought once."""
    largest = min(max(TOP_K), len(bank))
    tables = {}
    for name, rows in queries.items():
        indices, cosines = nearest(rows, bank, largest, device)
        default_k = min(Recipe().neighbours, largest)
        found = {}
        for k in sorted({min(k, largest) for k in TOP_K} | {default_k}):
            for column, (weighting, temperature) in WEIGHTINGS.items():
                answer = neighbour_estimate(indices[:, :k], cosines[:, :k], bank, weighting, temperature)
                found[k, column] = pairwise_cosine(answer, material.truth)
        default = found[default_k, PUBLISHED]
        tables[name] = [
            {**cell(str(k), column, own, default), "cosine_of_neighbour_k": float(cosines[:, k - 1].mean())}
            for (k, column), own in found.items()
        ]
    return tables


def markdown(title: str, corner: str, cells: list[Cell], rows: dict[str, str] | None = None) -> str:
    """Cells as a table: mean, then the difference from the default, starred where its interval leaves out 0."""
    columns = list(dict.fromkeys(own["column"] for own in cells))
    by_row: dict[str, dict[str, Cell]] = {}
    for own in cells:
        by_row.setdefault(own["row"], {})[own["column"]] = own
    lines = [f"### {title}", "", f"| {corner} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row, line in by_row.items():
        label = (rows or {}).get(row, row)
        lines.append(f"| {label} | " + " | ".join(shown(line[column]) for column in columns) + " |")
    return "\n".join(lines)


def shown(own: Cell) -> str:
    """Example: mean 0.5, 0.02 over the default with an interval of 0.01 to 0.03 -> "0.500 (+0.020*)" """
    low, high = own["minus_default"]["ci95"]
    difference = own["minus_default"]["mean"]
    if low == high == 0:
        return f"{own['mean']:.3f}"
    return f"{own['mean']:.3f} ({difference:+.3f}{'*' if low > 0 or high < 0 else ''})"


def mean_row(bank: np.ndarray) -> np.ndarray:
    """The bank's mean vector, (N, d) float16 -> (d,) float32, not of length 1."""
    return group_means(bank, [len(bank)])[0]
