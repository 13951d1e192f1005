"""The MiniLM rows of a pair set's prompts, equal texts once, kept so that they are made once."""

from pathlib import Path

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS, Recipe
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights
from kernel.system.devices import Device
from kernel.system.files import write_whole
from kernel.system.tensor_files import read_header
from kernel.system.terminal.progress import progress_bar

STEP = 2048  # prompts


def prompt_rows(prompts: list[str], path: Path, weights: Weights, device: Device) -> np.ndarray:
    """(n, 384) float32 unit rows in the prompts' order; `path` belongs to these prompts alone."""
    from safetensors.numpy import load_file, save

    distinct = list(dict.fromkeys(prompts))
    if not is_of(path, len(distinct)):
        encoder = SentenceEncoder.load(weights, device)
        parts = []
        with progress_bar(total=len(distinct), desc="prompts", unit="prompt") as bar:
            for start in range(0, len(distinct), STEP):
                parts.append(encoder.encode(distinct[start : start + STEP], Recipe().text_batch))
                bar.update(len(parts[-1]))
        write_whole(path, save({"rows": np.concatenate(parts)}))
    rows = load_file(path)["rows"]
    places = {prompt: place for place, prompt in enumerate(distinct)}
    return rows[[places[prompt] for prompt in prompts]]


def is_of(path: Path, count: int) -> bool:
    try:
        return path.is_file() and [own.shape for own in read_header(path)] == [(count, EMBEDDING_DIMENSIONS)]
    except ValueError:
        return False
