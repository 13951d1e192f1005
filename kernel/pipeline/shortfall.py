"""What a run's images got less than asked, read from its shards: whoever goes on with the run tells the same."""

from collections import Counter
from dataclasses import dataclass, field

from kernel.config import CAPTIONS, Recipe
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.stages.load import kept


@dataclass
class Shortfall:
    """{id: reason} of `bad` images and of those left without captions because a captioner `failed`; ids of images
    that a stage did not come to, by what they are `lacking`; of those captioned by another than the asked captioner
    (`lesser`) or with less effort than asked (`reduced`); and of those with captions that CLIP did not weigh.
    `captioners`: who captioned how many."""

    images: int
    bad: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, set[str]] = field(default_factory=dict)
    lesser: set[str] = field(default_factory=set)
    reduced: set[str] = field(default_factory=set)
    unweighed: set[str] = field(default_factory=set)
    captioners: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, folder: RunFolder, recipe: Recipe, asked: str) -> "Shortfall":
        """`asked`: the captioner that the run would best have."""
        found = cls(len(folder.images), results.read_clip(folder)[1])
        for stage in kept():
            if stage.writes and stage.lack:
                found.lacking[stage.lack] = folder.unmade_images(stage.writes) if stage.wanted(recipe) else set()
        if not recipe.needs(CAPTIONS):
            return found
        weighed = set(folder.made(results.COSINES))
        for shard, content in results.caption_shards(folder).items():
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
            **{f"no_{what}": len(ids) for what, ids in self.lacking.items()},
            "caption_failures": len(self.failed),
            "fallback_captions": len(self.lesser),
            "fewer_captions": len(self.reduced),
            "degraded_rows": len(set().union(*self.lacking.values(), self.lesser, self.reduced, self.bad, self.failed)),
        }

    def problems(self, asked: str) -> list[str]:
        """A line for each kind of shortfall but bad images, which are listed one by one."""
        others = ", ".join(f"{count} by {name}" for name, count in self.captioners.items() if name != asked)
        said = {
            **{f"have no {what}": ids for what, ids in self.lacking.items()},
            "have none because the captioner failed on them": self.failed,
            f"were captioned by a stand-in for {asked} ({others})": self.lesser,
            "were captioned with less effort than asked": self.reduced,
            "have captions that CLIP did not weigh": self.unweighed,
        }
        return [f"{len(found)} of {self.images} images {words}" for words, found in said.items() if found]
