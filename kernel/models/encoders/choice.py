"""Which image encoders of a weights folder a recipe asks, checked before the first image."""

from kernel.config import ENCODERS, Recipe
from kernel.errors import UserError, did_you_mean
from kernel.models.encoders.record import check_models, read_encoder_record
from kernel.models.weights_folder import Weights


def chosen_encoders(recipe: Recipe, weights: Weights) -> dict[str, str]:
    """Name -> sha256, none where the recipe has no share for any. Raises UserError where it has, and there is none, or
    one answers for other models than the folder's."""
    if not recipe.needs(ENCODERS):
        return {}
    if not weights.encoders:
        raise UserError(
            f"recipe {recipe.name!r} asks an image encoder, and {weights.folder} holds none. Train one with 'python -m "
            "kernel train PAIRS --weights DIR --out ENCODER', put it there with 'python -m kernel publish weights "
            "--encoder ENCODER', or run --recipe text, which needs none"
        )
    names = [name for name, share in recipe.encoders.items() if share > 0] or list(weights.encoders)
    for name in names:
        if name not in weights.encoders:
            raise UserError(
                f"unknown image encoder {name!r}{did_you_mean(name, weights.encoders)}; {weights.folder} holds "
                f"{', '.join(weights.encoders)}"
            )
        folder = weights.encoder_folder(name)
        check_models(folder, read_encoder_record(folder), weights.models)
    return {name: weights.encoders[name] for name in names}
