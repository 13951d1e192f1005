"""What was captioned of one shard's images, and by whom: what a run degraded stands beside what it degraded."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class CaptionShard:
    """Captions of a shard's images in their order, and of each who captioned it, None where nobody did.

    `sha256` names the weights of every captioner that took part. By id: `bad` and `failed` hold the reasons of bad
    images and of those that a captioner failed on, `reduced` those captioned with less effort than the recipe asks,
    `unmade` those that were not come to.
    """

    captions: list[list[str]]
    captioners: list[str | None]
    sha256: dict[str, str] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    reduced: list[str] = field(default_factory=list)
    unmade: list[str] = field(default_factory=list)

    def over(self, lesser: "CaptionShard", ids: list[str]) -> "CaptionShard":
        """This one, but where it failed on an image what the lesser captioner said of it stands."""
        captions, captioners, reduced = list(self.captions), list(self.captioners), list(self.reduced)
        for index, image_id in enumerate(ids):
            if image_id in self.failed:
                captions[index], captioners[index] = lesser.captions[index], lesser.captioners[index]
                reduced += [own for own in lesser.reduced if own == image_id]
        known = lesser.sha256 | self.sha256
        sha256 = {name: known[name] for name in known if name in captioners}
        return CaptionShard(captions, captioners, sha256, self.bad, self.failed, reduced, self.unmade)

    def could_be_better(self, ids: list[str], lesser: Collection[str]) -> bool:
        """Whether one of the lesser captioners captioned an image that no better one has failed on since."""
        return any(own in lesser and image not in self.failed for image, own in zip(ids, self.captioners, strict=True))

    def is_by(self, known: Mapping[str, str]) -> bool:
        """Whether every captioner that took part is known with these very weights."""
        return self.sha256.items() <= known.items()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
