"""Checkpoints that a test breaks on purpose, and captioners as they were before their layers were packed."""

import json

from safetensors.torch import load_file, save_file

from kernel.models.captioners.captioner import Captioner
from kernel.models.captioners.loading import kind_of


def edit_json(path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_state(path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def plain_captioner(weights, name, device) -> Captioner:
    """As it is loaded, before anything is packed."""
    folder = weights.model_folder(name)
    kind = kind_of(weights.models[name]["class"], folder)
    return Captioner(kind, kind.load(folder, device).eval(), kind.read_processor(folder), device)
