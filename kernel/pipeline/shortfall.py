"""What a run's images got less than asked, read from its shards: whoever goes on with the run tells the same."""

from collections import Counter
from dataclasses import dataclass, field

from kernel.config import CAPTIONS, Recipe
from kernel.pipeline.run_folder import RunFolder


@dataclass
class Shortfall:
    """{id: reason} of `bad` images and of those left without captions because a captioner `failed`; ids of images
    without `features`, without `captions`, captioned by another than the asked captioner (`lesser`) or with less
    effort than asked (`reduced`), and with captions that CLIP did not weigh. `captioners`: who captioned how many."""

    images: int
    bad: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    features: set[str] = field(default_factory=set)
    captions: set[str] = field(default_factory=set)
    lesser: set[str] = field(default_factory=set)
    reduced: set[str] = field(default_factory=set)
    unweighed: set[str] = field(default_factory=set)
    captioners: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, folder: RunFolder, recipe: Recipe, asked: str) -> "Shortfall":
        """`asked`: the captioner that the run would best have."""
        _, bad = folder.read_clip()
        found = cls(len(folder.images), dict(bad), features=folder.unmade_images("clip"))
        if not recipe.needs(CAPTIONS):
            return found
        found.captions = folder.unmade_images("captions")
        weighed = set(folder.made("cosines"))
        for shard, content in folder.caption_shards().items():
            ids = [file.id for file in folder.shard_files(shard)]
            by = {image: name for image, name in zip(ids, content.captioners, strict=True) if name is not None}
            found.captioners.update(by.values())
            found.lesser |= {image for image, name in by.items() if name != asked}
            found.bad |= content.bad
            found.failed |= {image: reason for image, reason in content.failed.items() if image not in by}
            found.reduced |= set(content.reduced)
            found.unweighed |= set(by) if recipe.caption_weighting == "clip" and shard not in weighed else set()
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are less than asked, and for which reason."""
        return {
            "images": self.images,
            "bad_images": len(self.bad),
            "no_features": len(self.features),
            "caption_failures": len(self.failed),
            "fallback_captions": len(self.lesser),
            "fewer_captions": len(self.reduced),
            "no_captions": len(self.captions),
            "degraded_rows": len(
                self.features | self.captions | self.lesser | self.reduced | set(self.bad) | set(self.failed)
            ),
        }

    def problems(self, asked: str) -> list[str]:
        """A line for each kind of shortfall but bad images, which are listed one by one."""
        others = ", ".join(f"{count} by {name}" for name, count in self.captioners.items() if name != asked)
        said = {
            "have no CLIP features": self.features,
            "have no captions": self.captions,
            "have none because the captioner failed on them": self.failed,
            f"were captioned by a stand-in for {asked} ({others})": self.lesser,
            "were captioned with less effort than asked": self.reduced,
            "have captions that CLIP did not weigh": self.unweighed,
        }
        return [f"{len(found)} of {self.images} images {words}" for words, found in said.items() if found]
