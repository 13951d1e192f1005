"""What is measured on: pictures with their prompts and sources, what each tower sees of them, and the folds.

Training's own split holds out groups at a cosine of 0.7. Here the templates chain at that: 1,971 of 3,828 pictures are
one group, 527 of the 706 free ones are in it, and a tenth held out has 22 free ones. At 0.9 the largest of 2,463 groups
is of 64 pictures. So groups are those of 0.9, and each is held out once in five folds, that every free prompt counts.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernel.errors import UserError, first_line
from kernel.models.weights_folder import open_weights
from kernel.system.devices import Device
from kernel.system.opening import open_file
from kernel.training.features import AtHand, features_of
from kernel.training.pairs import open_pairs
from kernel.training.prompts import prompt_rows
from kernel.training.split import members_of, near_groups
from kernel.training.tower.opened import NamedTower, open_tower
from tests.bench.real.imagenet_towers import TOWERS, write_timm_folder
from tests.bench.real.upper_blocks import TRAINED, UPPER, parted
from tests.engines import HERE

SOURCES = "sources.csv"
# One sentence with a name in it. Over the prompts of all other sources the score is that of prompts as people write
# them.
TEMPLATES = (
    "vkinakh/stable-diffusion-imagenet",
    "SupaGruen/StableDiffusion-CheatSheet",
    "gnickm/stable-diffusion-artists",
)
NEAR = 0.9
FOLDS = 5
BATCH = 32


@dataclass(frozen=True)
class Material:
    """Of n pictures: prompts and sources, `truth` (n, 384) unit rows, `groups` (n,) of near prompts, and by tower what
    it sees, (n, d); `early` is what the lower blocks of a tower make of them, for the `upper` ones to be trained."""

    prompts: list[str]
    sources: list[str]
    truth: np.ndarray
    groups: np.ndarray
    features: dict[str, np.ndarray]
    early: np.ndarray = field(default_factory=lambda: np.zeros((0,)))
    upper: Any = None

    @property
    def free(self) -> np.ndarray:
        """(n,) bool: the prompt follows no template."""
        return np.array([source not in TEMPLATES for source in self.sources])

    def of(self, places: np.ndarray) -> "Material":
        return Material(
            [self.prompts[place] for place in places],
            [self.sources[place] for place in places],
            self.truth[places],
            self.groups[places],
            {name: rows[places] for name, rows in self.features.items()},
            self.early[places] if len(self.early) else self.early,
            self.upper,
        )

    def folds(self) -> list[np.ndarray]:
        """FOLDS parts of all places, ascending: whole groups, the largest first, each to the fold that holds the fewest
        of its kind, free or not, so that every fold is of the same mixture."""
        free, members = self.free, members_of(self.groups)
        loads = np.zeros((2, FOLDS), dtype=int)
        parts: list[list[int]] = [[] for _ in range(FOLDS)]
        for places in sorted(members.values(), key=len, reverse=True):
            kind = int(free[places].any())
            fold = int(np.argmin(loads[kind]))
            loads[kind, fold] += len(places)
            parts[fold] += places
        return [np.array(sorted(part), dtype=np.intp) for part in parts]


def read_material(pairs: Path, weights: Path, out: Path, device: Device) -> tuple[Material, dict[str, str]]:
    """Features are kept in OUT/features, so that they are made once. Bad pictures are left out, {id: reason}.

    Raises UserError for whatever is wrong with pairs, packages or weights.
    """
    found = open_pairs(pairs)
    sources = read_sources(pairs / SOURCES)
    if missing := [own.id for own in found.pictures if own.id not in sources]:
        raise UserError(
            f"{pairs / SOURCES}: lacks {len(missing)} pictures, the first is {missing[0]!r}. Add their rows"
        )
    opened = open_weights(weights, parts=("sentences",))
    kept = out / "features" / found.sha256[:16]
    kept.mkdir(parents=True, exist_ok=True)
    truth = prompt_rows(found.prompts, kept / f"prompts-{opened.sha256('sentences')[:16]}.safetensors", opened, device)
    material = Material(
        found.prompts, [sources[own.id] for own in found.pictures], truth, near_groups(found.prompts, truth, NEAR), {}
    )
    if (free := len(np.unique(material.groups[material.free]))) < FOLDS:
        raise UserError(
            f"{pairs}: {free} groups of near prompts without a template; expected {FOLDS} or more to hold each out "
            "once. Add pictures of other prompts"
        )
    bad: dict[str, str] = {}
    for name, tower in TOWERS.items():
        seen = open_tower(NamedTower(str(write_timm_folder(tower, out / "towers" / name)), opened), device)
        own = features_of(found.pictures, kept / seen.key, seen.named, BATCH, f"features of {name}", HERE)
        material.features[name] = own.rows
        bad |= own.bad
    lower, upper = parted(out / "towers" / TRAINED, device)
    below = AtHand(lambda: lower.encode_images)
    early = features_of(found.pictures, kept / f"early-{TRAINED}-{UPPER}", below, BATCH, "early blocks", HERE)
    material = replace(material, early=early.rows, upper=upper)
    good = np.array([place for place, own in enumerate(found.pictures) if own.id not in bad], dtype=np.intp)
    return material.of(good), bad


def read_sources(path: Path) -> dict[str, str]:
    """Id -> source of a CSV with the columns imgId and source. Raises UserError for anything else."""
    import pandas as pd

    try:
        with open_file(path) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False, usecols=["imgId", "source"], encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a table of sources ({first_line(error)}); expected the columns imgId,source. Give a folder "
            "with images/, prompts.csv and sources.csv"
        ) from error
    return dict(zip(table["imgId"], table["source"], strict=True))
