"""Captions out of the zips of annotations that COCO and VizWiz publish: JSON of one form, which COCO's made common."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import FailFast
from typing_extensions import TypedDict

from kernel.errors import first_line
from kernel.publish.hub.client import fitting
from kernel.publish.hub.pairs.stored import unpacked

MOST_BYTES = 2**29  # of one JSON: COCO's largest is 92 MB


class Annotation(TypedDict):
    """A caption; VizWiz says of each whether its writer, or a reader, found the picture not to be described."""

    caption: str
    is_precanned: NotRequired[bool]
    is_rejected: NotRequired[bool]


class Annotations(TypedDict):
    annotations: Annotated[list[Annotation], FailFast()]


def captions_in(path: Path, members: tuple[str, ...]) -> Iterator[str]:
    """The captions of these files of the zip, in order, empty where the picture is said not to be described.

    Raises OSError and ValueError for what is no such zip.
    """
    try:
        archive = zipfile.ZipFile(path)
        names = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"no zip ({first_line(error)}). Fetch it again") from error
    with archive:
        for member in members:
            if member not in names:
                raise ValueError(f"has no {member}; expected {', '.join(members)}. Fetch the publisher's own zip")
            for own in fitting(Annotations, unpacked(archive, member, MOST_BYTES))["annotations"]:
                yield "" if own.get("is_precanned") or own.get("is_rejected") else own["caption"]
