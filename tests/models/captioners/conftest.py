"""Checkpoints that a test breaks on purpose."""

import json

from safetensors.torch import load_file, save_file


def edit_json(path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_state(path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})
