"""Counts the published models on the meta device and writes published.json, so that no plan has to:
`python -m kernel.pipeline.planning.published` after one was added, or another one's record or the counting changed.

A model's costs stand under the sha256 of all that they are counted from: of a record that changed none are found, and
a plan counts it anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import unwrap
from typing import Any

from kernel.models.image_text_matching import PUBLISHED as MATCHING
from kernel.models.image_text_matching import PUBLISHED_CONFIG as OF_MATCHING
from kernel.pipeline.planning.model_costs import (
    PUBLISHED,
    captioner_costs,
    encoder_costs,
    key_of,
    matching_costs,
    sentence_costs,
)
from kernel.pipeline.planning.models import CAPTIONERS, CLIP, ENCODER, ENCODER_TOWER, as_data, published_clip
from kernel.pipeline.planning.stage_costs import ASSUMED
from kernel.system.files import write_json


@dataclass(frozen=True)
class Counting:
    """What `costs` is given to count a published model, and what that is called."""

    name: str
    costs: Callable[..., Any]
    given: tuple[Any, ...]

    @property
    def key(self) -> str:
        return key_of(unwrap(self.costs), *self.given)

    def counted(self) -> Any:
        return unwrap(self.costs)(*self.given)


def countings() -> Iterator[Counting]:
    """All that plans ask of published models."""
    yield Counting("all-MiniLM-L6-v2", sentence_costs, (ASSUMED.prompt_tokens,))
    for half in (False, True):
        dtype = "half" if half else "float32"
        yield Counting(f"{CLIP}, {dtype}", published_clip, (half,))
        yield Counting(f"{ENCODER}, {dtype}", encoder_costs, (ENCODER, [ENCODER_TOWER], half))
        matching = (MATCHING, OF_MATCHING, ASSUMED.caption_tokens, half)
        yield Counting(f"{MATCHING}, {dtype}", matching_costs, matching)
        for name, published in CAPTIONERS.items():
            yield Counting(f"{name}, {dtype}", captioner_costs, (published, half))


def main() -> None:
    write_json(PUBLISHED, {own.key: {"name": own.name, "costs": as_data(own.counted())} for own in countings()})


if __name__ == "__main__":
    main()
