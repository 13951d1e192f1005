"""The answers that are measured: each is fitted on some pictures and asked of others.

A further answer is one more line of ANSWERS; it reads the pictures' features, or what the answers before it say.
"""

from collections.abc import Callable, Iterable

import numpy as np

from kernel.banks.nearest import nearest, neighbour_estimate
from kernel.config import Recipe
from kernel.models.vectors import unit_rows
from kernel.system.devices import Device
from kernel.training.heads import Rows, Tried, fit_ridge, fit_two_layers
from kernel.training.shares import best_shares, products
from tests.bench.real.material import Material
from tests.bench.real.upper_blocks import MAP, answers_of, train_upper

Said = dict[str, np.ndarray]  # by answer the unit rows (n, 384) of the pictures that are asked of
Answer = Callable[[Material, Material, Said], np.ndarray]  # pictures to fit on, pictures asked of
NEIGHBOURS = 100
# Of a fit's pictures four of five follow a template. A free one counts so often, for free prompts are what is asked of;
# 16 times gains them 0.017 more and costs all 0.035.
FREE_COUNTS = 4


def mean_prompt(free_counts: int = 1) -> Answer:
    def answer(known: Material, asked: Material, said: Said) -> np.ndarray:
        rows = known.truth[weighed(known, np.arange(len(known.truth)), free_counts)]
        return np.tile(unit_rows(rows.mean(axis=0, keepdims=True)), (len(asked.truth), 1))

    return answer


def fitted(fit: Callable[[Rows, Rows], Tried], tower: str, free_counts: int = 1) -> Answer:
    """A head on a tower's features; one of the known pictures' own folds decides on its settings."""

    def answer(known: Material, asked: Material, said: Said) -> np.ndarray:
        judging, *training = (weighed(known, fold, free_counts) for fold in known.folds())
        rows = known.features[tower]
        train, validation = (Rows(rows[own], known.truth[own]) for own in (np.concatenate(training), judging))
        return fit(train, validation).head.apply(asked.features[tower])

    return answer


def blocks_of(tower: str, free_counts: int = 1) -> Answer:
    """The tower's upper blocks trained from that head on; the fold that judges decides on the epoch, none included."""

    def answer(known: Material, asked: Material, said: Said) -> np.ndarray:
        judging, *training = (weighed(known, fold, free_counts) for fold in known.folds())
        places = np.concatenate(training)
        rows = known.features[tower]
        begun = fit_ridge(*(Rows(rows[own], known.truth[own]) for own in (places, judging)))
        maps, asked_maps = (own.early.reshape(len(own.early), *MAP) for own in (known, asked))
        return answers_of(train_upper(known.upper, begun.head, maps, known.truth, places, judging), asked_maps)

    return answer


def weighed(material: Material, places: np.ndarray, free_counts: int) -> np.ndarray:
    """The places, those of free prompts so often."""
    return np.repeat(places, np.where(material.free[places], free_counts, 1))


def mean_of(*names: str) -> Answer:
    return lambda known, asked, said: unit_rows(sum(said[name] for name in names))


def neighbours_of(name: str) -> Answer:
    """The known prompts that lie nearest to what another answer says, weighted as a run weights a bank's."""

    def answer(known: Material, asked: Material, said: Said) -> np.ndarray:
        distinct = known.truth[np.unique(known.prompts, return_index=True)[1]].astype(np.float16)
        indices, cosines = nearest(said[name], distinct, min(NEIGHBOURS, len(distinct)), Device("cpu"))
        recipe = Recipe()
        return neighbour_estimate(indices, cosines, distinct, recipe.neighbour_weighting, recipe.neighbour_temperature)

    return answer


def fused_of(*names: str) -> Answer:
    """Their sum by shares that are fitted on the known pictures alone, each answered by a fit on others of them."""

    def answer(known: Material, asked: Material, said: Said) -> np.ndarray:
        own = held_out(known, names)
        places = weighed(known, np.arange(len(known.truth)), FREE_COUNTS)
        shares = best_shares(products(np.stack([rows[places] for rows in own.values()]), known.truth[places]))
        return unit_rows(sum(share * said[name] for name, share in zip(names, shares, strict=True)))

    return answer


ANSWERS: dict[str, Answer] = {
    "mean prompt": mean_prompt(),
    "ridge of lite0": fitted(fit_ridge, "lite0"),
    "ridge of lite2": fitted(fit_ridge, "lite2"),
    "head of lite0": fitted(fit_two_layers, "lite0"),
    "weighed mean prompt": mean_prompt(FREE_COUNTS),
    "weighed ridge of lite0": fitted(fit_ridge, "lite0", FREE_COUNTS),
    "weighed ridge of lite2": fitted(fit_ridge, "lite2", FREE_COUNTS),
    "weighed blocks of lite0": blocks_of("lite0", FREE_COUNTS),
    "weighed, both towers": mean_of("weighed ridge of lite0", "weighed ridge of lite2"),
    "neighbours": neighbours_of("weighed, both towers"),
    "fused": fused_of(
        "weighed mean prompt",
        "weighed ridge of lite0",
        "weighed ridge of lite2",
        "weighed, both towers",
        "neighbours",
    ),
}


def answered(known: Material, asked: Material, names: Iterable[str]) -> Said:
    """Names in ANSWERS' order."""
    said: Said = {}
    for name in names:
        said[name] = ANSWERS[name](known, asked, said)
    return said


def held_out(material: Material, names: Iterable[str]) -> Said:
    """What each answer says of every picture, fitted on the folds that do not hold it."""
    found: Said = {name: np.zeros_like(material.truth) for name in names}
    everything = np.arange(len(material.truth))
    for fold in material.folds():
        said = answered(material.of(np.setdiff1d(everything, fold)), material.of(fold), found)
        for name, rows in said.items():
            found[name][fold] = rows
    return found
