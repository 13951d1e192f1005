"""What every worker of a run must know. Plain data, so that it can be handed to another process."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kernel.banks.word_banks import Part, Phrases, features_file, join_parts, parts_of, shipped_features
from kernel.config import Recipe
from kernel.models.weights_folder import Weights
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import ImageFile
from kernel.system.work import plain


@dataclass(frozen=True)
class Job:
    """A run that was prepared: its recipe, its checked weights, its open run folder, the prompt bank that was given,
    and the row (384,) of images of which nothing is known; of the stage `words` the lists to be encoded, the folder for
    their features where that is not the run's own, and the model of the weights that makes them; and the language of
    the captions."""

    recipe: Recipe
    weights: Weights
    folder: RunFolder
    bank: Path | None
    fallback: list[float]
    words: tuple[Phrases, ...] = ()
    features: Path | None = None
    clip: str = "clip"
    language: str = "English"

    @property
    def features_folders(self) -> tuple[Path, Path]:
        """Where features of word lists lie: those that the weights folder brings, those that are computed."""
        return shipped_features(self.weights), self.features or self.folder.folder / "features"

    def of_unknown(self, words: Iterable[Phrases]) -> "Job":
        """The same with those of the lists whose features no folder holds."""
        sha256, folders = self.weights.sha256(self.clip), self.features_folders
        return replace(self, words=tuple(own for own in words if features_file(own, sha256, folders) is None))

    def word_parts(self) -> list[Part]:
        return parts_of(self.words, self.weights.sha256(self.clip), self.features_folders[-1])

    def missing_parts(self) -> dict[int, int]:
        """Of each part that is yet to be encoded, by its number, how many phrases it holds."""
        return {item: len(own.phrases) for item, own in enumerate(self.word_parts()) if not own.path.is_file()}

    def join_words(self) -> list[str]:
        """Makes one file of the parts of each list; the names of the lists of which parts are missing."""
        sha256, folder = self.weights.sha256(self.clip), self.features_folders[-1]
        return [own.name for own in self.words if not join_parts(own, sha256, folder)]

    def as_json(self) -> str:
        return plain(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        content: dict[str, Any] = json.loads(text)
        folder, weights = content["folder"], content["weights"]
        images = [ImageFile(own["id"], Path(own["path"])) for own in folder["images"]]
        return cls(
            Recipe(**content["recipe"]),
            Weights.from_plain(weights),
            RunFolder(**{**folder, "folder": Path(folder["folder"]), "images": images}),
            Path(content["bank"]) if content["bank"] else None,
            content["fallback"],
            tuple(Phrases(**own) for own in content["words"]),
            Path(content["features"]) if content["features"] else None,
            content["clip"],
            content["language"],
        )
