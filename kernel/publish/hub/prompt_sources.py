"""The public sources of prompts: what each is, under which licence, and where in its files the prompts are.

Repositories, revisions, sizes and hashes stand in the section `prompts` of pins.json; captions are got by hand, as no
hub has them under their publishers' names. Licences are those that the
repository's own page states; who wrote the single prompts was asked by none of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernel.errors import UserError, did_you_mean
from kernel.publish.hub.pins import Catalogue, FileChoice, read_pins

NOT_STATED = "none stated"


@dataclass(frozen=True)
class PromptSource:
    """One source: its .parquet files and the columns that are read of them, or its zip of captions.

    `licence` is an SPDX identifier, or what the page says, or NOT_STATED; `credit` whom it wants named. `prompt`: ""
    where the column is found as a bank finds it. `nsfw` is a column of scores from 0 to 1. `noise` matches what
    stands in the column without being part of a prompt. `address`: where the zip is, if not on the hub; `members`:
    its files that hold captions.
    """

    name: str
    licence: str
    about: str
    files: tuple[str, ...]
    prompt: str
    nsfw: str | None = None
    noise: re.Pattern[str] | None = None
    credit: str = ""
    address: str = ""
    members: tuple[str, ...] = ()

    def fetched_by_hand(self, scratch: Path) -> Path:
        """Where the zip is looked for. Raises UserError where it is not there."""
        path = scratch / self.name / self.files[0]
        if not path.is_file():
            raise UserError(
                f"{path}: not found; the source {self.name} is not on the hub, and nobody pinned what its own server "
                f"sends. Get {self.address} in the browser, put it there and run again"
            )
        return path


# Midjourney's own: pictures given by address, and its settings, which end a prompt ("--ar 16:9 --v 3").
MIDJOURNEY_NOISE = re.compile(r"<?https?://\S+|(?:^|\s)(?:--|—)\s?[a-z].*$", re.IGNORECASE | re.DOTALL)

SOURCES = {
    source.name: source
    for source in (
        # Of its two scores `prompt_nsfw` is the text's own, from a model of toxicity (arXiv 2210.14896, section 2.3).
        # `image_nsfw`, 2.0 for a blurred picture, differs between the pictures of one prompt and is not read.
        PromptSource(
            "diffusiondb",
            "CC0-1.0",
            "DiffusionDB 2M: prompts of 2 million pictures by Stable Diffusion, 1.5 million different ones",
            ("metadata.parquet",),
            "prompt",
            "prompt_nsfw",
        ),
        PromptSource(
            "diffusiondb-large",
            "CC0-1.0",
            "DiffusionDB Large, which includes 2M: 14 million pictures, 1.8 million different prompts",
            ("metadata-large.parquet",),
            "prompt",
            "prompt_nsfw",
        ),
        PromptSource(
            "midjourney",
            "Apache-2.0",
            "250,000 prompts from Midjourney's public Discord, June and July 2022; collected by people without ties "
            "to Midjourney",
            tuple(f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")),
            "text",
            noise=MIDJOURNEY_NOISE,
        ),
        PromptSource(
            "lexica",
            NOT_STATED,
            "80,000 prompts extracted from the site Lexica.art; its page says 'license: unknown'",
            ("data/train.parquet", "data/eval.parquet"),
            "Prompt",
        ),
        PromptSource(
            "sd-4.4M",
            "openrail",
            "the prompts of 4.4 million pictures that the competition's 12th place made; most of the 7 GB are vectors",
            ("metadata.parquet",),
            "",
        ),
        PromptSource(
            "coco",
            "CC-BY-4.0",
            "COCO Captions: 617,000 sentences that people wrote of 123,000 photos",
            ("annotations_trainval2017.zip",),
            "",
            credit="COCO Consortium, Microsoft COCO Captions (arXiv 1504.00325), cocodataset.org",
            address="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
            members=("annotations/captions_train2017.json", "annotations/captions_val2017.json"),
        ),
        PromptSource(
            "vizwiz",
            "CC-BY-4.0",
            "VizWiz-Captions: 156,000 sentences that people wrote of 31,000 photos by people who are blind",
            ("annotations.zip",),
            "",
            credit="Gurari, Zhao, Zhang, Bhattacharya: Captioning Images Taken by People Who Are Blind (arXiv "
            "2002.08565), vizwiz.org",
            address="https://vizwiz.cs.colorado.edu/VizWiz_final/caption/annotations.zip",
            members=("annotations/train.json", "annotations/val.json"),
        ),
    )
}

PROMPTS = Catalogue(
    "prompts",
    "dataset",
    "python -m kernel publish prompts --pin",
    {name: FileChoice(source.files, weights=()) for name, source in SOURCES.items() if not source.address},
)


def chosen_sources(names: Iterable[str], accepted: Iterable[str] = ()) -> list[PromptSource]:
    """The sources of these names, each once. Raises UserError for an unknown one and for one that nobody licensed."""
    accepted = set(accepted)
    for name in (*(names := list(dict.fromkeys(names))), *accepted):
        if name not in SOURCES:
            raise UserError(f"unknown source {name!r}{did_you_mean(name, SOURCES)}. Valid: {', '.join(SOURCES)}")
    for name in names:
        if SOURCES[name].licence == NOT_STATED and name not in accepted:
            raise UserError(
                f"source {name}: its page states no licence, so nobody has permitted its use, and nothing was taken. "
                f"To take it on your own responsibility add --accept-licence {name}; with a licence there are "
                f"{', '.join(source.name for source in SOURCES.values() if source.licence != NOT_STATED)}"
            )
    return [SOURCES[name] for name in names]


def listing(pins: Path) -> list[str]:
    """Lines about every source, for people."""
    lines = []
    pinned = read_pins(pins, PROMPTS)
    for name, source in SOURCES.items():
        where = f"to be got by hand from {source.address}, credit: {source.credit}"
        if name in pinned:
            size = sum(file.bytes for file in pinned[name].files.values())
            where = f"{size / 1e9:.2f} GB" if size else "size not pinned yet"
            where += f", {pinned[name]}"
        lines.append(f"{name}: licence {source.licence}, {where}")
        lines.append(f"  {source.about}")
    return lines
