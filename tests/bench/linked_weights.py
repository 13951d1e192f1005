"""A weights folder of links, to which an encoder is added without touching the one that it was made of."""

import os
import shutil
from pathlib import Path

from kernel.models.encoders.into_weights import add_encoder
from kernel.models.weights_folder import MANIFEST


def with_encoder(weights: Path, own: Path, encoder: Path, name: str) -> Path:
    """`own`, anew: the models of `weights`, and the encoder as `name`."""
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(weights, own, copy_function=os.link)
    manifest = (own / MANIFEST).read_bytes()
    (own / MANIFEST).unlink()  # a link: what is written into it would be written into the other folder
    (own / MANIFEST).write_bytes(manifest)
    add_encoder(own, encoder, name)
    return own
