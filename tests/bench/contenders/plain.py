"""What notebooks do by hand: models by their libraries' own loaders, a submission by pandas."""

from pathlib import Path
from typing import Any

import numpy as np


def load_clip(weights: Path) -> tuple[Any, Any]:
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{weights / 'clip'}", device="cpu")
    return model.eval(), preprocess


def load_blip(weights: Path) -> tuple[Any, Any]:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    folder = weights / "captioners" / "blip"
    model = BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    return model.eval(), BlipProcessor.from_pretrained(folder, local_files_only=True)


def load_blip2(weights: Path) -> tuple[Any, Any]:
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    folder = weights / "captioners" / "blip2"
    model = Blip2ForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    return model.eval(), Blip2Processor.from_pretrained(folder, local_files_only=True)


def load_minilm(weights: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(weights / "sentences"), device="cpu", local_files_only=True)


def pandas_submission(path: Path, ids: list[str], rows: np.ndarray) -> None:
    import pandas as pd

    names = [f"{image_id}_{dimension}" for image_id in ids for dimension in range(rows.shape[1])]
    table = pd.DataFrame({"imgId_eId": names, "val": rows.astype(np.float32).flatten()})
    table.to_csv(path, index=False)
