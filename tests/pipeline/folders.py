"""Run folders of images that are nowhere."""

from pathlib import Path

from kernel.pipeline.folder.results import CaptionShard
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import ImageFile
from kernel.pipeline.preparation import open_run

IDENTITY = {
    "clip": {"images": "3f2a", "device": "cpu"},
    "captions": {"images": "3f2a", "device": "cpu", "num_beams": 5},
    "estimates": {"recipe": {"num_beams": 5}},
}
FEWER_BEAMS = {
    **IDENTITY,
    "captions": {**IDENTITY["captions"], "num_beams": 3},
    "estimates": {"recipe": {"num_beams": 3}},
}


def image_files(*ids: str) -> list[ImageFile]:
    return [ImageFile(image_id, Path("images", f"{image_id}.png")) for image_id in ids]


def opened(folder: Path, identity: dict = IDENTITY, images: int = 5, shard_images: int = 2) -> RunFolder:
    return open_run(folder, image_files(*map(str, range(images))), shard_images, identity)[0]


def captioned(captions: list[list[str]], **more) -> CaptionShard:
    return CaptionShard(captions, ["blip2" if own else None for own in captions], **more)
