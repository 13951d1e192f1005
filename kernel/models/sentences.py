"""MiniLM: prompts to unit rows, the same numbers as the competition's scorer."""

from typing import Any

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.errors import UserError
from kernel.models.tokenizers import KNOWN_SENTENCE, check_tokenizer, tokenizer_record
from kernel.models.vectors import check_finite
from kernel.models.weights_folder import ADVICE, Weights
from kernel.system.devices import Device


class SentenceEncoder:
    """all-MiniLM-L6-v2 through sentence-transformers, in float32 on every device."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def load(cls, weights: Weights, device: Device) -> "SentenceEncoder":
        from sentence_transformers import SentenceTransformer

        folder = weights.model_folder("sentences")
        model = SentenceTransformer(str(folder), device=device.name, local_files_only=True)
        check_tokenizer(
            str(folder),
            sentence_tokenizer_record(model.tokenizer),
            weights.models["sentences"].get("tokenizer"),
            model[0].auto_model.get_input_embeddings().num_embeddings,
        )
        encoder = cls(model)
        dimensions = encoder.encode(["a"], 1).shape[1]
        if dimensions != EMBEDDING_DIMENSIONS:
            raise UserError(
                f"{folder}: embeds in {dimensions} dimensions, the competition scores {EMBEDDING_DIMENSIONS}: "
                f"this is not all-MiniLM-L6-v2. {ADVICE}"
            )
        return encoder

    def encode(self, prompts: list[str], batch: int) -> np.ndarray:
        """Prompts, cut at the model's length -> (n, 384) float32 unit rows.

        Raises UserError for rows that are no numbers.
        """
        rows = self.model.encode(prompts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
        check_finite("MiniLM's", rows)
        return rows


def sentence_tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    special = {"pad": tokenizer.pad_token_id, "start": tokenizer.cls_token_id, "end": tokenizer.sep_token_id}
    return tokenizer_record(len(tokenizer), special, tokenizer(KNOWN_SENTENCE)["input_ids"])
