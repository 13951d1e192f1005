"""What a bank is composed of, and what that does to neighbours, as far as texts alone can say.

Two kinds of real prompts are told apart by their commas: lists, as people write them for Stable Diffusion, and
sentences, as captions are. Banks of one size hold more or less of each; whoever asks is of one kind.
"""

import numpy as np

from kernel.banks.nearest import nearest
from kernel.config import Recipe
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.system.devices import Device
from tests.bench.text_side.material import SPLITS, Material, neighbours_answer
from tests.bench.text_side.tables import Cell, cell

LIST, SENTENCE = "list", "sentence"
COMMAS, WORDS = 3, 5
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of lists in the bank
DEFAULT_SHARE = 0.5


def kind_of(prompt: str) -> str | None:
    """Example: "a cat, oil, art, fog" -> "list", "a cat sits on a mat" -> "sentence", "a cat, oil" -> None"""
    commas = prompt.count(",")
    if commas >= COMMAS:
        return LIST
    return SENTENCE if commas == 0 and len(prompt.split()) >= WORDS else None


def places_of(prompts: list[str], kind: str) -> np.ndarray:
    return np.array([place for place, prompt in enumerate(prompts) if kind_of(prompt) == kind], dtype=np.intp)


def composition_table(material: Material, noisy: np.ndarray, device: Device) -> list[Cell]:
    """For banks of lists and sentences in each share, all as large as there are prompts of the rarer kind: the cosine
    of what the neighbours of noisy queries answer, and that of the true vector's nearest prompt. Of every split as many
    prompts of a kind are asked. Nothing where a kind is lacking."""
    rng = np.random.default_rng(SPLITS)
    bank = {kind: rng.permutation(places_of(material.bank, kind)) for kind in (LIST, SENTENCE)}
    size = min(map(len, bank.values()))
    asked = {kind: by_split(places_of(material.scored, kind), len(material.scored)) for kind in bank}
    if not size or not all(map(len, asked.values())):
        return []
    answers: dict[tuple[float, str], np.ndarray] = {}
    nearest_ones: dict[tuple[float, str], np.ndarray] = {}
    for share in SHARES:
        lists = round(share * size)
        places = np.sort(np.concatenate([bank[LIST][:lists], bank[SENTENCE][: size - lists]]))
        own = material.bank_rows[places].astype(np.float16)
        for kind, which in asked.items():
            answer = neighbours_answer(noisy[which], own, Recipe(), device)
            answers[share, f"answer to a {kind}"] = pairwise_cosine(answer, material.truth[which])
            nearest_ones[share, f"nearest to a {kind}"] = nearest(material.truth[which], own, 1, device)[1][:, 0]
    found = answers | nearest_ones
    return [
        {**cell(f"{share:.0%}", column, cosines, found[DEFAULT_SHARE, column]), "bank": size}
        for (share, column), cosines in found.items()
    ]


def by_split(places: np.ndarray, count: int) -> np.ndarray:
    """As many places of each of the SPLITS equal parts of `count` prompts: the first ones."""
    parts = [places[places // (count // SPLITS) == split] for split in range(SPLITS)]
    return np.concatenate([part[: min(map(len, parts))] for part in parts])
