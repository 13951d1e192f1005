"""Encodes a weights folder's word banks ahead, so that no scoring run spends its minutes on them."""

import json
from pathlib import Path

from kernel.checkpoints import MANIFEST, open_weights, write_manifest
from kernel.clip import ClipEncoder
from kernel.config import RECIPES
from kernel.devices import find_device
from kernel.word_banks import encode_missing, read_phrases


def encode_word_banks(folder: Path) -> None:
    """Writes `word_banks/features/*.safetensors` for the banks that a recipe names, then the manifest anew."""
    weights = open_weights(folder)
    device = find_device("auto")
    clip = ClipEncoder.load(weights, device)
    features = folder / "word_banks" / "features"
    for recipe in RECIPES.values():
        for name, count in recipe.modifiers.items():
            if count:
                phrases = read_phrases(folder / "word_banks" / f"{name}.txt")
                encode_missing(phrases, clip, weights.sha256("clip"), [features], recipe.text_batch)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    write_manifest(folder, manifest["models"], manifest["captioners"])
