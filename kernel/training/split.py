"""Which pairs are trained on, which decide between trainings, and which are held out of all of it, by groups.

Near prompts make near pictures: a random tenth would hold twins of what was trained on, and its score would flatter
(by 0.077 on DiffusionDB, the competition's 43rd place). So whole groups are held out: the set's own clusters, or the
connected components of the prompts at a cosine of NEAR_PROMPTS and more.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kernel.banks.near_duplicates import are_near
from kernel.config import NEAR_PROMPTS
from kernel.errors import UserError
from kernel.models.encoders.record import SPLIT
from kernel.system.files import write_json
from kernel.system.records import read_record
from kernel.training.pairs import PairSet

FORMAT = 1
HELD_OUT, VALIDATION = 0.1, 0.05  # of the pictures
SEED = 0
BLOCK = 1024  # prompts compared at a time with all before them
ADVICE = "Give a set of more, and more different, prompts"


@dataclass(frozen=True)
class Split:
    """The ids that are not trained on, and the sha256 of the pair set that they are of."""

    format: int
    pairs: str
    near: float
    validation: list[str]
    held_out: list[str]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}")

    def write(self, folder: Path) -> None:
        write_json(folder / SPLIT, asdict(self))


@dataclass(frozen=True)
class Parts:
    """Places in the pair set, ascending."""

    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray


def read_split(folder: Path) -> Split:
    """Raises UserError for what is no split."""
    cure = f"Make again what it lies in ('train', 'publish pairs'), or remove {SPLIT} from a set of your own"
    return read_record(folder / SPLIT, Split, f"a split of pairs, format {FORMAT}", cure)


def split_of(pairs: PairSet, rows: np.ndarray, near: float) -> Split:
    """The split that lies in the set, where there is one; else `split_pairs`.

    Raises UserError where the one in the set is of other pairs, or was made at another cosine than `near`.
    """
    path = pairs.folder / SPLIT
    if not path.is_file():
        return split_pairs(pairs, rows, near)
    split = read_split(pairs.folder)
    for what, found, expected in (("pairs", split.pairs[:8], pairs.sha256[:8]), ("near", split.near, near)):
        if found != expected:
            raise UserError(
                f"{path}: of {what} {found}; expected {expected}: what it holds out is not what would be held out. Put "
                "back the set as it was made, or remove this file to have the set split anew"
            )
    return split


def split_pairs(pairs: PairSet, rows: np.ndarray, near: float = NEAR_PROMPTS) -> Split:
    """The same for the same set, whoever asks. `rows` (n, 384): the prompts' unit rows.

    Groups come in an order that their texts alone decide; one that is larger than what is still wanted twice over is
    trained on. Raises UserError where there are too few groups for three parts.
    """
    groups = np.asarray(pairs.clusters) if pairs.clusters is not None else near_groups(pairs.prompts, rows, near)
    members = members_of(groups)
    names = {group: min(pairs.prompts[place] for place in places) for group, places in members.items()}
    order = sorted(members, key=lambda group: hashlib.sha256(f"{SEED} {names[group]}".encode()).digest())
    parts: dict[str, list[int]] = {"held_out": [], "validation": []}
    for name, share in (("held_out", HELD_OUT), ("validation", VALIDATION)):
        wanted = max(1, round(share * len(groups)))
        for group in list(order):
            missing = wanted - len(parts[name])
            if missing > 0 and len(members[group]) <= 2 * missing:
                parts[name] += members[group]
                order.remove(group)
    if not (order and all(parts.values())):
        raise UserError(
            f"{pairs.folder}: {len(pairs.prompts)} pairs in {len(members)} groups of near prompts, the largest of "
            f"{max(map(len, members.values()))}: too few to hold any out of training. {ADVICE}"
        )
    ids = {name: sorted(pairs.pictures[place].id for place in places) for name, places in parts.items()}
    return Split(FORMAT, pairs.sha256, near, **ids)


def parts_of(pairs: PairSet, split: Split) -> Parts:
    held_out, validation = set(split.held_out), set(split.validation)
    kind = np.array([2 if own.id in held_out else 1 if own.id in validation else 0 for own in pairs.pictures])
    return Parts(*(np.flatnonzero(kind == number) for number in range(3)))


def members_of(groups: np.ndarray) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        found.setdefault(group, []).append(place)
    return found


def near_groups(prompts: list[str], rows: np.ndarray, near: float) -> np.ndarray:
    """(n,) numbers of groups: connected components of prompts whose cosine is `near` or more, equal texts once.

    Unit rows (n, d). Time grows with the square of the distinct prompts, as kernel/banks/near_duplicates.py says.
    """
    first = {prompt: place for place, prompt in reversed(list(enumerate(prompts)))}
    places = {prompt: number for number, prompt in enumerate(first)}
    groups = components(rows[list(first.values())], near)
    return groups[[places[prompt] for prompt in prompts]]


def components(rows: np.ndarray, near: float) -> np.ndarray:
    """(n,) the least place of each row's component."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(len(rows))
    for start in range(0, len(rows), BLOCK):
        # of what is joined already a row needs one edge to each, so that no block's edges grow with the square
        edges = list(edges_of(rows, labels, start, near))
        if edges:
            ends = np.concatenate(edges, axis=1)
            graph = coo_matrix((np.ones(ends.shape[1], dtype=bool), ends), shape=(len(rows), len(rows)))
            _, joined = connected_components(graph, directed=False)
            joined = joined[labels]
            least = np.full(joined.max() + 1, len(rows))
            np.minimum.at(least, joined, np.arange(len(rows)))
            labels = least[joined]
    return labels


def edges_of(rows: np.ndarray, labels: np.ndarray, start: int, near: float) -> Iterator[np.ndarray]:
    """(2, m) pairs of labels of which rows of the block at `start` are near to earlier ones, or to each other."""
    block = slice(start, min(start + BLOCK, len(rows)))
    for first in range(0, block.stop, BLOCK):
        other = slice(first, min(first + BLOCK, len(rows)))
        ours, theirs = np.nonzero(are_near(rows[block], rows[other], near))
        yield np.unique(np.stack([labels[block][ours], labels[other][theirs]]), axis=1)
