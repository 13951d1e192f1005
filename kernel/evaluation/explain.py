"""`explain`: why one image gets the answer it gets, said so that a person can follow."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.config import Paths, Recipe
from kernel.errors import UserError
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.evaluation.finished import Finished, finished_run
from kernel.pipeline.run import run


@dataclass(frozen=True)
class Explanation:
    """What the recipe made of one image.

    `neighbours` are the nearest prompts of the bank that a run keeps, none without one: each with its `distance` from
    the image (1 - cosine), and its `weight` among all neighbours. `estimates` have their `share` in the answer, and
    their `cosine` to it; None where one says nothing of the image.
    """

    image: str
    captions: list[str]
    modifiers: list[str]
    neighbours: list[dict[str, Any]]
    estimates: dict[str, dict[str, Any]]
    shares_from: str


def explain(image: Path, recipe: Recipe, weights: Path, bank: Path | None, device: str = "auto") -> Explanation:
    """Runs the recipe over this image alone, in a folder that is thrown away, and tells what its stages left.

    Raises UserError for whatever stops a run, and for an image that cannot be decoded.
    """
    if not image.is_file():
        raise UserError(f"{image}: {'a folder' if image.is_dir() else 'no such file'}; expected one image")
    with tempfile.TemporaryDirectory(prefix="image-to-prompts-") as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        (images / image.name).symlink_to(image.resolve())
        paths = Paths(images, weights, Path(scratch) / "run", bank)
        content = run(recipe, paths, device)
        for reason in content["bad_images"].values():
            raise UserError(f"{image}: {reason}; there is nothing to explain but the fallback row")
        finished = finished_run(paths.run)
        return Explanation(
            image=str(image),
            captions=finished.captions[0],
            modifiers=finished.modifiers[0],
            neighbours=neighbours_of(finished),
            estimates={name: part(finished, name) for name in finished.estimates},
            shares_from=content["shares_from"],
        )


def neighbours_of(finished: Finished) -> list[dict[str, Any]]:
    if finished.nearest is None or finished.bank is None:
        return []
    indices, cosines, weights = (own[0].tolist() for own in finished.nearest)
    return [
        {"prompt": prompt, "distance": 1 - cosine, "weight": weight}
        for prompt, cosine, weight in zip(finished.bank.prompts(indices), cosines, weights, strict=True)
    ]


def part(finished: Finished, name: str) -> dict[str, Any]:
    rows, usable = finished.estimates[name]
    cosine = float(pairwise_cosine(rows, finished.answer)[0]) if usable[0] else None
    return {"share": finished.record["recipe"]["estimates"][name], "cosine": cosine}


def text_of(explanation: Explanation) -> str:
    """The explanation as lines for a terminal."""
    lines = [explanation.image, "", "captions:", *(f"  {caption}" for caption in explanation.captions or ["none"])]
    lines += ["modifiers:", *(f"  {phrase}" for phrase in explanation.modifiers or ["none"])]
    if explanation.neighbours:
        lines += ["nearest prompts of the bank (distance = 1 - cosine, weight among all neighbours):"]
        lines += [f"  {own['distance']:.3f}  {own['weight']:.3f}  {own['prompt']}" for own in explanation.neighbours]
    lines += [f"the answer's parts (shares: {explanation.shares_from}):"]
    for name, own in explanation.estimates.items():
        share, cosine = own["share"], own["cosine"]
        said = "says nothing of one image alone" if cosine is None else f"cosine to the answer {cosine:.3f}"
        lines.append(f"  {name:<12} share {share:.3f}, {said}")
    return "\n".join(lines)
