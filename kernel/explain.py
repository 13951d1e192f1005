"""`explain`: why one image gets the answer it gets, said so that a person can follow."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernel.checkpoints import open_weights
from kernel.config import CAPTIONS, Paths, Recipe
from kernel.devices import find_device
from kernel.errors import UserError
from kernel.evaluation import pairwise_cosine
from kernel.images import list_images
from kernel.inventory import opened_bank
from kernel.neighbours import nearest, neighbour_weights
from kernel.pipeline import run
from kernel.store import RunFolder
from kernel.submission import read_submission

SHOWN = 10


@dataclass(frozen=True)
class Neighbour:
    """A prompt of the bank, its distance from the image (1 - cosine), and its weight among all neighbours."""

    prompt: str
    distance: float
    weight: float


@dataclass(frozen=True)
class Part:
    """One estimate: its share in the answer, and its cosine to the answer; None where it says nothing of the image."""

    share: float
    cosine: float | None


@dataclass(frozen=True)
class Explanation:
    """What the recipe made of one image; `neighbours` are the nearest SHOWN, none without a prompt bank."""

    image: str
    captions: list[str]
    modifiers: list[str]
    neighbours: list[Neighbour]
    estimates: dict[str, Part]
    shares_from: str


def explain(image: Path, recipe: Recipe, weights: Path, bank: Path | None, device: str = "auto") -> Explanation:
    """Runs the recipe over this image alone, in a folder that is thrown away, and tells what its stages left.

    Raises UserError for whatever stops a run, and for an image that cannot be decoded.
    """
    if not image.is_file():
        raise UserError(f"{image}: no such file; expected one image")
    with tempfile.TemporaryDirectory(prefix="image-to-prompts-") as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        (images / image.name).symlink_to(image.resolve())
        paths = Paths(images, weights, Path(scratch) / "run", bank)
        content = run(recipe, paths, device)
        for reason in content["bad_images"].values():
            raise UserError(f"{image}: {reason}; there is nothing to explain but the fallback row")
        folder = RunFolder(paths.run, list_images(images), recipe.shard_images)
        captions = folder.read_captions()[0][0] if recipe.needs(CAPTIONS) else []
        (answer,) = read_submission(paths.run / "submission.csv").values()
        shares = content["recipe"]["estimates"]
        return Explanation(
            image=str(image),
            captions=captions,
            modifiers=folder.read_modifiers()[0],
            neighbours=neighbours_of(folder.read_clip()[0], recipe, paths, device),
            estimates={name: part(folder, name, share, answer) for name, share in shares.items() if share > 0},
            shares_from=content["shares_from"],
        )


def neighbours_of(features: np.ndarray, recipe: Recipe, paths: Paths, device: str) -> list[Neighbour]:
    """The nearest prompts of the bank that the recipe asks; none where it asks none."""
    bank = opened_bank(recipe, paths.bank, open_weights(paths.weights))
    if bank is None:
        return []
    indices, cosines = nearest(features, bank.features, min(recipe.neighbours, len(bank.features)), find_device(device))
    weights = neighbour_weights(cosines, recipe.neighbour_weighting, recipe.neighbour_temperature)[0]
    prompts = bank.prompts(indices[0, :SHOWN])
    return [
        Neighbour(prompt, 1 - float(cosine), float(weight))
        for prompt, cosine, weight in zip(prompts, cosines[0], weights, strict=False)
    ]


def part(folder: RunFolder, name: str, share: float, answer: np.ndarray) -> Part:
    rows, usable = folder.read_estimate(name)
    return Part(share, float(pairwise_cosine(rows, answer[None])[0]) if usable[0] else None)


def text_of(explanation: Explanation) -> str:
    """The explanation as lines for a terminal."""
    lines = [explanation.image, "", "captions:", *(f"  {caption}" for caption in explanation.captions or ["none"])]
    lines += ["modifiers:", *(f"  {phrase}" for phrase in explanation.modifiers or ["none"])]
    if explanation.neighbours:
        lines += ["nearest prompts of the bank (distance = 1 - cosine, weight among all neighbours):"]
        lines += [f"  {own.distance:.3f}  {own.weight:.3f}  {own.prompt}" for own in explanation.neighbours]
    lines += [f"the answer's parts (shares: {explanation.shares_from}):"]
    for name, own in explanation.estimates.items():
        said = "says nothing of one image alone" if own.cosine is None else f"cosine to the answer {own.cosine:.3f}"
        lines.append(f"  {name:<12} share {own.share:.3f}, {said}")
    return "\n".join(lines)
