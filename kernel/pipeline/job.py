"""What every worker of a run must know. Plain data, so that it can be handed to another process."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernel.banks.word_banks import Phrases, shipped_features
from kernel.config import Recipe
from kernel.models.weights_folder import Weights
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import ImageFile


@dataclass(frozen=True)
class Job:
    """A run that was prepared: its recipe, its checked weights, its open run folder, the prompt bank that was given,
    and the row (384,) of images of which nothing is known; of the stage `words` the lists to be encoded, and the folder
    for their features where that is not the run's own."""

    recipe: Recipe
    weights: Weights
    folder: RunFolder
    bank: Path | None
    fallback: list[float]
    words: tuple[Phrases, ...] = ()
    features: Path | None = None

    @property
    def features_folders(self) -> tuple[Path, Path]:
        """Where features of word lists lie: those that the weights folder brings, those that are computed."""
        return shipped_features(self.weights), self.features or self.folder.folder / "features"

    def as_json(self) -> str:
        """Numbers keep every bit: a float32 is a float64 too, and JSON writes these exactly."""
        folder = self.folder
        return json.dumps(
            {
                "recipe": asdict(self.recipe),
                "weights": [str(self.weights.folder), self.weights.models, self.weights.captioners],
                "folder": str(folder.folder),
                "images": [[image.id, str(image.path)] for image in folder.images],
                "identity": folder.identity,
                "bank": str(self.bank) if self.bank else None,
                "fallback": self.fallback,
                "words": [asdict(own) for own in self.words],
                "features": str(self.features) if self.features else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Job":
        content: dict[str, Any] = json.loads(text)
        recipe = Recipe(**content["recipe"])
        weights, models, captioners = content["weights"]
        images = [ImageFile(image_id, Path(path)) for image_id, path in content["images"]]
        return cls(
            recipe,
            Weights(Path(weights), models, captioners),
            RunFolder(Path(content["folder"]), images, recipe.shard_images, content["identity"]),
            Path(content["bank"]) if content["bank"] else None,
            content["fallback"],
            tuple(Phrases(**own) for own in content["words"]),
            Path(content["features"]) if content["features"] else None,
        )
