"""A tokenizer's record in the manifest, by which a swapped one is refused."""

from collections.abc import Iterable
from typing import Any

from kernel.errors import UserError
from kernel.models.weights_folder import ADVICE

KNOWN_SENTENCE = "a woodcut of a red fish on a hill, art nouveau, swirl"


def tokenizer_record(size: int, special_ids: dict[str, int | None], ids: Iterable[int]) -> dict[str, Any]:
    """What the manifest keeps of a tokenizer: its size, special ids, and the ids of one known sentence."""
    return {"size": size, "special_ids": special_ids, "sentence": KNOWN_SENTENCE, "ids": [int(i) for i in ids]}


def check_tokenizer(
    model: str, found: dict[str, Any], expected: dict[str, Any] | None, embedding_rows: int, unread: int = 0
) -> None:
    """Refuses a tokenizer that is not the one this model was trained with.

    A swapped tokenizer still gives ids, every one of them meaning another word. One with far fewer tokens than the
    embedding has rows is refused even where the manifest was written of it, as KoBERT's (8,002) on BERT's (30,522).
    `unread` of its tokens, the last ones, need no row, as no text that the model reads holds them.
    """
    follows = "its ids would mean other words to this model. Put the model's own tokenizer back"
    if found["size"] - unread > embedding_rows:
        raise UserError(
            f"{model}: the tokenizer has {found['size']} tokens, the model's embedding {embedding_rows} rows: {follows}"
        )
    if expected is None:
        raise UserError(f"{model}: the manifest holds no tokenizer record, so a swapped one would pass. {ADVICE}")
    for key in ("size", "special_ids", "ids"):
        if found[key] != expected.get(key):
            raise UserError(
                f"{model}: the tokenizer's {key} are {found[key]}, the manifest says {expected.get(key)}: {follows}"
            )
    # models fill their embedding up to a round number, or keep a few rows for later: by no more than a fraction
    if 2 * found["size"] < embedding_rows:
        raise UserError(
            f"{model}: the tokenizer has {found['size']} tokens, the model's embedding {embedding_rows} rows, most of "
            f"which no token would ever reach: {follows}"
        )
