"""MiniLM: prompts to unit rows, the same numbers as the competition's scorer."""

import reprlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from typing_extensions import TypedDict

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.errors import UserError
from kernel.models.configurations import check_configurations
from kernel.models.tokenizers import KNOWN_SENTENCE, check_tokenizer, tokenizer_record
from kernel.models.vectors import check_finite
from kernel.models.weights_folder import ADVICE, Weights, loading
from kernel.system.devices import Device

# as the releases of sentence-transformers write them, by which they are imported
MODULES = {
    f"sentence_transformers.{place}"
    for name in ("Transformer", "Pooling", "Normalize")
    for place in (
        f"models.{name}",
        f"models.{name}.{name}",
        f"base.modules.{name.lower()}.{name}",
        f"sentence_transformer.modules.{name.lower()}.{name}",
    )
}


@dataclass(frozen=True)
class Module:
    """One of modules.json: its class, and its folder in the model's."""

    type: str
    path: str

    def __post_init__(self) -> None:
        if self.type not in MODULES:
            raise ValueError(
                f"type {reprlib.repr(self.type)} would be imported; expected sentence_transformers.models.Transformer, "
                "Pooling or Normalize"
            )
        if PurePosixPath(self.path).is_absolute() or ".." in PurePosixPath(self.path).parts:
            raise ValueError(f"path {reprlib.repr(self.path)} lies outside the folder")


class Bert(TypedDict, total=False):
    """config.json."""

    model_type: Literal["bert"]
    architectures: list[Literal["BertModel"]] | None


class Modality(TypedDict, total=False):
    method: Literal["forward"]  # any method of the model could be named, and would be called


class Transformer(TypedDict, total=False):
    """sentence_bert_config.json."""

    max_seq_length: int | None
    do_lower_case: bool | None
    transformer_task: Literal["feature-extraction"]
    modality_config: dict[str, Modality]


class Pooling(TypedDict, total=False):
    """1_Pooling/config.json."""

    word_embedding_dimension: int
    embedding_dimension: int


class Settings(TypedDict, total=False):
    """config_sentence_transformers.json."""

    model_type: Literal["SentenceTransformer"]
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: str | None


CONFIGURATIONS: dict[str, Any] = {
    "modules.json": list[Module],
    "config.json": Bert,
    "sentence_bert_config.json": Transformer,
    "1_Pooling/config.json": Pooling,
    "config_sentence_transformers.json": Settings,
}


class SentenceEncoder:
    """all-MiniLM-L6-v2 through sentence-transformers, in float32 on every device."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def load(cls, weights: Weights, device: Device) -> "SentenceEncoder":
        """Loads `weights/sentences` and checks it whole. Raises UserError."""
        folder = weights.model_folder("sentences")
        check_configurations(folder, CONFIGURATIONS)
        with loading(folder, "sentence-transformers"):
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(str(folder), device=device.name, local_files_only=True)
            encoder, record = cls(model), sentence_tokenizer_record(model.tokenizer)
            embedding_rows = model[0].auto_model.get_input_embeddings().num_embeddings
            dimensions = encoder.encode(["a"], 1).shape[1]
        check_tokenizer(str(folder), record, weights.models["sentences"].get("tokenizer"), embedding_rows)
        check_dimensions(folder, dimensions)
        return encoder

    def encode(self, prompts: list[str], batch: int) -> np.ndarray:
        """Prompts, cut at the model's length -> (n, 384) float32 unit rows.

        Raises UserError for rows that are no numbers.
        """
        rows = self.model.encode(prompts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
        check_finite("MiniLM's", rows)
        return rows


def inspect_sentences(weights: Weights) -> None:
    """Checks all that can be checked without sentence-transformers, whose import alone takes seconds: configurations,
    tokenizer, dimensions, and that every weight is a number. Raises UserError.

    `run` calls it before the first image: MiniLM is loaded only when there are texts for it.
    """
    folder = weights.model_folder("sentences")
    check_configurations(folder, CONFIGURATIONS)
    with loading(folder, "transformers"):
        from transformers import BertConfig

        record = sentence_tokenizer_record(sentence_tokenizer(folder))
        config = BertConfig.from_pretrained(folder, local_files_only=True)
    check_tokenizer(str(folder), record, weights.models["sentences"].get("tokenizer"), config.vocab_size)
    check_dimensions(folder, config.hidden_size)
    check_weights(folder)


def check_dimensions(folder: Path, dimensions: int) -> None:
    if dimensions != EMBEDDING_DIMENSIONS:
        raise UserError(
            f"{folder}: embeds in {dimensions} dimensions, the competition scores {EMBEDDING_DIMENSIONS}: "
            f"this is not all-MiniLM-L6-v2. {ADVICE}"
        )


def check_weights(folder: Path) -> None:
    """Raises UserError for the first tensor that holds what is no number: as one of them goes into every row, none
    would be one."""
    for path in sorted(folder.glob("*.safetensors")):
        with loading(folder, "safetensors"):
            from safetensors.torch import load_file

            tensors = load_file(path)
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise UserError(
                    f"{path}: {name} holds what is no number, so no row would be one: the file is damaged. {ADVICE}"
                )


def sentence_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def sentence_tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    special = {"pad": tokenizer.pad_token_id, "start": tokenizer.cls_token_id, "end": tokenizer.sep_token_id}
    return tokenizer_record(len(tokenizer), special, tokenizer(KNOWN_SENTENCE)["input_ids"])
