"""Puts a trained image encoder into a weights folder, so that it travels with the weights and a run finds it there."""

import re
from pathlib import Path

from kernel.errors import UserError
from kernel.models.additions import add_copies
from kernel.models.encoders.record import (
    ADVICE,
    RECORD,
    SPLIT,
    WEIGHTS,
    check_encoder,
    check_models,
    read_encoder_record,
)
from kernel.models.weights_folder import ENCODERS_FOLDER, MANIFEST, check_header, read_manifest

PLAIN = re.compile(r"[a-zA-Z0-9][\w.-]*", re.ASCII)  # no other name comes through Kaggle's upload as it is


def add_encoder(weights: Path, encoder: Path, name: str | None = None) -> Path:
    """Copies the encoder's own files, nothing else of its folder, to WEIGHTS/encoders/NAME in place of any encoder
    there, as `add_copies` does; returns that folder. NAME is the encoder's folder's own by default.

    Raises UserError too when the encoder is damaged, was trained with other models than these weights, or NAME is no
    plain name.
    """
    name = encoder.absolute().name if name is None else name
    if not PLAIN.fullmatch(name):
        raise UserError(
            f"{encoder}: {name!r} is no name for an encoder in a weights folder; expected letters, digits, '.', '-' "
            "and '_', a letter or a digit first. Rename the folder"
        )
    record = read_encoder_record(encoder)
    check_models(encoder, record, read_manifest(weights / MANIFEST).models)
    check_encoder(encoder, record)
    check_header(encoder / WEIGHTS, ADVICE)
    return add_copies(weights, f"{ENCODERS_FOLDER}/{name}", {own: encoder / own for own in (RECORD, WEIGHTS, SPLIT)})
