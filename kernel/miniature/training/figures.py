"""Figures of the committed miniature models on held-out pictures: `python -m kernel.miniature.training.figures --json`.

The models are loaded and used as `run` does it, from the assembled weights folder.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from kernel.banks.word_banks import rank, read_phrases
from kernel.config import DEFAULT_WEIGHTS, MATCHING_HEADS, RECIPES
from kernel.miniature.world.drawing import draw
from kernel.miniature.world.folders import HELD_OUT_SEED
from kernel.miniature.world.grammar import Scene, other, scene_stream
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.models.image_text_matching import MATCHING, Matcher
from kernel.models.weights_folder import Weights, open_weights
from kernel.system.devices import find_device
from kernel.system.offline import refuse_network


def clip_figures(weights: Weights, pictures: list[Image.Image], scenes: list[Scene]) -> dict[str, float]:
    """Top-1 share of medium and movement; share of all drawn flavors that are among the top 3."""
    recipe = RECIPES["baseline"]
    clip = ClipEncoder.load(weights, find_device("auto"))
    batches = [pictures[start : start + recipe.clip_batch] for start in range(0, len(pictures), recipe.clip_batch)]
    features = np.concatenate([clip.encode_images(batch) for batch in batches])

    def best(bank: str, top_k: int) -> list[list[str]]:
        phrases = read_phrases(weights.folder / "word_banks" / f"{bank}.txt").phrases
        indices, _ = rank(features, clip.encode_texts(phrases, recipe.text_batch), top_k)
        return [[phrases[index] for index in row] for row in indices]

    mediums, movements, flavors = best("mediums", 1), best("movements", 1), best("flavors", 3)
    found = sum(len(set(row) & set(scene.flavors)) for row, scene in zip(flavors, scenes, strict=True))
    return {
        "medium": float(np.mean([row[0] == scene.medium for row, scene in zip(mediums, scenes, strict=True)])),
        "movement": float(np.mean([row[0] == scene.movement for row, scene in zip(movements, scenes, strict=True)])),
        "flavors_at_3": found / sum(len(scene.flavors) for scene in scenes),
    }


def captioner_figures(
    weights: Weights, name: str, pictures: list[Image.Image], scenes: list[Scene]
) -> dict[str, float]:
    """Shares of pictures whose best caption names the subject, and is exactly right."""
    recipe = RECIPES["baseline"]
    captioner = load_captioner(weights, name, find_device("auto"))
    captions = [
        own[0]
        for start in range(0, len(pictures), recipe.caption_batch)
        for own in captioner.captions(pictures[start : start + recipe.caption_batch], recipe)
    ]
    return {
        "subject": float(np.mean([s.subject in said.split() for said, s in zip(captions, scenes, strict=True)])),
        "caption_exact": float(np.mean([s.caption == said for said, s in zip(captions, scenes, strict=True)])),
    }


def matching_figures(weights: Weights, pictures: list[Image.Image], scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """By head the shares of pictures whose own caption outranks one with another color, and one with another subject.

    The other words are drawn by a seed, so the figures can be repeated.
    """
    matcher, rng = Matcher.load(weights, find_device("auto")), np.random.default_rng(0)
    captions = [
        [scene.caption, *(other(scene, part, rng).caption for part in ("color", "subject"))] for scene in scenes
    ]
    figures = {}
    for head in MATCHING_HEADS:
        batch = RECIPES["baseline"].matching_batch
        scores = np.array(
            [
                own
                for start in range(0, len(pictures), batch)
                for own in matcher.scores(pictures[start : start + batch], captions[start : start + batch], head)
            ]
        )
        figures[head] = dict(
            zip(("color", "subject"), (scores[:, :1] > scores[:, 1:]).mean(axis=0).tolist(), strict=True)
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    refuse_network()
    drawn = [(draw(scene, rng), scene) for scene, rng in scene_stream(HELD_OUT_SEED, options.pictures)]
    pictures, scenes = [picture for picture, _ in drawn], [scene for _, scene in drawn]
    weights = open_weights(options.weights)
    figures: dict[str, object] = {"pictures": len(pictures), **clip_figures(weights, pictures, scenes)}
    for name in weights.captioners:
        figures[name] = captioner_figures(weights, name, pictures, scenes)
    if MATCHING in weights.models:
        figures[MATCHING] = matching_figures(weights, pictures, scenes)
    if options.json:
        print(json.dumps(figures))
    else:
        json.dump(figures, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
