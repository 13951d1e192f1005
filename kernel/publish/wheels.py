"""The wheels that Kaggle's GPU image lacks: fetched by hash, then checked against what the image holds.

wheels/requirements.txt pins them with their sha256; wheels/kaggle-image.txt records the image.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kernel.errors import UserError
from kernel.publish.wheel_checks import IMAGE, NEVER_SHIPPED, PLATFORMS, REQUIREMENTS, check_wheels, refused_names
from kernel.system.files import file_sha256
from kernel.system.kaggle_image import exact_version, logical_lines, minor_version, read_image, read_text

PIP_SECONDS = 600


@dataclass(frozen=True)
class Pin:
    """One line of requirements.txt: canonical name, version and the sha256s of its wheels."""

    name: str
    version: Version
    sha256s: frozenset[str]


def fill_wheels(project: Path) -> list[Path]:
    """Makes project/wheels/ hold exactly the wheels that its requirements.txt pins, and returns them.

    Wheels that are there with the right sha256 are not downloaded again; other wheels are removed. Raises
    UserError when pip fails or the wheels do not fit the image, and then leaves the wheels as they were.
    """
    folder = project / "wheels"
    image = read_image(folder / IMAGE)
    pins = read_requirements(folder / REQUIREMENTS)
    unfinished = project / ".wheels.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        present = [pinned_wheel(folder, pin) for pin in pins]
        if None in present:
            download(folder / REQUIREMENTS, unfinished, image.python)
        else:
            for path in filter(None, present):
                shutil.copy2(path, unfinished)
        others = [path.name for path in sorted(folder.iterdir()) if path.suffix != ".whl"]
        problems = [*refused_names(others), *check_wheels(unfinished, image)]
        if problems:
            raise UserError(f"{folder}: what would go up does not work on Kaggle: {'; '.join(problems)}")
        names = {path.name for path in unfinished.iterdir()}
        for stale in [path for path in folder.glob("*.whl") if path.name not in names]:
            stale.unlink()
        return [path.replace(folder / path.name) for path in sorted(unfinished.iterdir())]
    finally:
        shutil.rmtree(unfinished)


def read_requirements(path: Path) -> list[Pin]:
    """The pins of a requirements file. Raises UserError for a line without a version or a sha256, and for torch."""
    pins = []
    for number, line in logical_lines(read_text(path)):
        specification, *options = re.split(r"\s+(?=--)", line)
        found = [re.fullmatch(r"--hash=sha256:([0-9a-f]{64})", option) for option in options]
        try:
            requirement = Requirement(specification)
            version = exact_version(requirement)
            if version is None or not found or None in found:
                raise InvalidRequirement(line)
        except InvalidRequirement as error:
            raise UserError(
                f"{path}, line {number}: found {line!r}, expected NAME==VERSION --hash=sha256:...: only a pinned file "
                "is fetched. Fetch it with 'pip download --no-deps' and take its sha256 from 'pip hash'"
            ) from error
        name = canonicalize_name(requirement.name)
        if name == NEVER_SHIPPED:
            raise UserError(f"{path}, line {number}: {name} is never shipped, the image has its own. Remove the line")
        pins.append(Pin(name, Version(version), frozenset(match[1] for match in found if match)))
    if not pins:
        raise UserError(f"{path}: pins no wheel; expected lines NAME==VERSION --hash=sha256:...")
    return pins


def pinned_wheel(folder: Path, pin: Pin) -> Path | None:
    """The wheel in `folder` that `pin` names, with the right sha256."""
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except ValueError:
            continue
        if (name, version) == (pin.name, pin.version) and file_sha256(path) in pin.sha256s:
            return path
    return None


def download(requirements: Path, out: Path, python: str) -> None:
    """Fetches the pinned wheels, and nothing that they require, with pip."""
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    command += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", minor_version(python)]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    command += ["--dest", str(out), "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{requirements}: 'pip download' was not done after {PIP_SECONDS} s. Run the same command again"
        ) from error
    if done.returncode:
        said = done.stderr.partition("ERROR:")[2] or done.stderr
        raise UserError(
            f"{requirements}: 'pip download' failed: {' '.join(said.split())[:600]}. Check the connection and the "
            "pins, then run the same command again"
        )
