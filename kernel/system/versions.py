"""Which versions this was made for, beside those installed."""

import hashlib
import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path

from kernel.errors import UserError

# pyproject.toml's ranges, which do not travel to Kaggle: there the package is imported from a folder, not installed.
DECLARED = {
    "python": ">=3.11,<3.14",
    "torch": ">=2.6",
    "open_clip_torch": ">=3.2,<4",
    "transformers": ">=5.0,<6",
    "sentence-transformers": ">=5.0",
    "safetensors": ">=0.5",
    "numpy": ">=2.0",
    "pandas": ">=2.2",
    "pillow": ">=11",
    "pydantic": ">=2.10",
}
DECIDING = ("torch", "open_clip_torch", "transformers", "sentence-transformers", "numpy", "pillow")


# This does travel, in the code dataset beside the package: what Kaggle's image held when the wheels were checked.
IMAGE_RECORD = Path(__file__).parents[2] / "wheels" / "kaggle-image.txt"


def check_versions(image_record: Path = IMAGE_RECORD) -> list[str]:
    """Compares what is installed with what was declared and, on Kaggle, with the image that the wheels were checked on.

    Reads the packages' metadata and imports none of them. Returns warnings, one line each. Raises UserError for a
    version outside the declared range, naming every such package.
    """
    found = {name: installed(name) for name in DECLARED}
    outside, warnings = [], []
    for name, version in found.items():
        fits = None if version is None else within_range(version, DECLARED[name])
        if version is None or fits is False:
            outside.append(f"{name} {version or 'is not installed'} (expected {DECLARED[name]})")
        elif fits is None:
            warnings.append(f"{name}: its version {version!r} cannot be compared with {DECLARED[name]}")
    if outside:
        raise UserError(
            f"installed packages that this was not made for: {', '.join(outside)}. Run 'make setup'; on Kaggle pin the "
            "image that worked ('publish push --pin') or publish the wheels anew ('make wheels', 'make dataset')"
        )
    image = os.environ.get("KAGGLE_DOCKER_IMAGE")
    if image is not None:
        warnings += differences(found, image, image_record)
    return warnings


def deciding_versions() -> dict[str, str | None]:
    """Of the packages whose versions decide what bytes come out, without local labels: cpu and cu128 are one torch."""
    found = {name: installed(name) for name in DECIDING}
    return {name: version and version.partition("+")[0] for name, version in found.items()}


@cache
def code_sha256() -> str:
    """Names this very package by its sources, as they lie on this machine."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def within_range(version: str, declared: str) -> bool | None:
    """Whether a version lies in a range of DECLARED; None where it is no version that can be compared."""
    # transformers requires packaging, so it is wherever a run can be
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        # previews count as the versions they come before; older releases of packaging refuse them unless told so
        return SpecifierSet(declared).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return None


def installed(name: str) -> str | None:
    """The version of a distribution, or of "python"; None where there is none."""
    try:
        return platform.python_version() if name == "python" else str(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None


def differences(found: dict[str, str | None], image: str, record: Path) -> list[str]:
    """At most one line: what this image holds that the record of the checked one does not, by public version."""
    from kernel.system.kaggle_image import read_image

    try:
        checked = read_image(record)
    except UserError as error:
        return [f"versions were not compared with the image that the wheels were checked on: {error}"]
    expected = {"python": checked.python, **checked.packages}
    other = []
    for name, version in found.items():
        was = expected.get(name)
        # without the local label: 2.10.0+cu128 and 2.10.0+cu126 are one torch, and a device is tried before use
        if was and version and was.partition("+")[0] != version.partition("+")[0]:
            other.append(f"{name} {version} (checked: {was})")
    if not other:
        return []
    return [
        f"this image ({image}) holds {', '.join(other)}: other versions than those that the wheels were checked on. If "
        "the run fails, pin the image that worked ('publish push --pin')"
    ]
