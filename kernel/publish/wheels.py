"""The wheels that Kaggle's GPU image lacks: fetched by hash, then checked against what the image holds.

wheels/requirements.txt pins them with their sha256; wheels/kaggle-image.txt records the image.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from packaging.metadata import parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kernel.errors import UserError
from kernel.system.files import file_sha256
from kernel.system.kaggle_image import Image, exact_version, logical_lines, minor_version, read_image, read_text

REQUIREMENTS = "requirements.txt"
IMAGE = "kaggle-image.txt"
# Today's Python of the image and the one that its base image announces
PYTHONS = ("3.12", "3.13")
NEWEST_GLIBC = 35  # 2.35, that of the image's Ubuntu 22.04
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(NEWEST_GLIBC, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")
NEVER_SHIPPED = "torch"
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
    with alone(folder):
        return filled(folder, project / ".wheels.tmp", image, pins)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits for whoever else fills `folder`: two would take each other's wheels away. The lock is the folder's own
    (flock), so nothing is left behind by a kill."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def filled(folder: Path, unfinished: Path, image: Image, pins: list[Pin]) -> list[Path]:
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        held = {file_sha256(path): path for path in sorted(folder.glob("*.whl"))}
        present = [held[next(iter(pin.sha256s & held.keys()))] for pin in pins if pin.sha256s & held.keys()]
        if len(present) < len(pins):
            download(folder / REQUIREMENTS, unfinished, image.python)
        else:
            for path in present:
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


@dataclass(frozen=True)
class Wheel:
    """What a wheel's name and METADATA say; `name` is canonical."""

    file: str
    name: str
    version: Version
    tags: frozenset[Tag]
    requires_python: SpecifierSet
    requirements: list[Requirement]


def check_wheels(folder: Path, image: Image) -> list[str]:
    """What is wrong with the wheels of `folder` for this image, one line each; nothing when they would work.

    Each wheel's requirements are looked up among the image's packages and the wheels, a wheel before the
    image's package of that name, as pip would replace it.
    """
    problems = list(refused_names([path.name for path in sorted(folder.iterdir())]))
    wheels: dict[str, Wheel] = {}
    for path in sorted(folder.glob("*.whl")):
        try:
            wheel = read_wheel(path)
        except (ValueError, KeyError, zipfile.BadZipFile, OSError) as error:
            problems.append(f"{path.name}: not a readable wheel ({error}): pip would refuse it. Fetch it again")
            continue
        if wheel.name in wheels:
            problems.append(f"{wheel.file} and {wheels[wheel.name].file}: both are {wheel.name}. Keep one")
        wheels[wheel.name] = wheel
        problems += refused_package(wheel, image)
    pythons: dict[str, list[str]] = {}
    # the image's own Python, then the others of PYTHONS in their first release
    for python in [image.python, *(f"{minor}.0" for minor in PYTHONS if minor != minor_version(image.python))]:
        for wheel in wheels.values():
            for problem in [*misfits(wheel, python), *unmet_requirements(wheel, python, wheels, image)]:
                pythons.setdefault(problem, []).append(minor_version(python))
    return problems + [f"{problem} (Python {', '.join(found)})" for problem, found in pythons.items()]


def refused_names(names: list[str]) -> Iterator[str]:
    """The files that Kaggle unpacks or renames on upload."""
    for name in names:
        if name.lower().endswith(ARCHIVES):
            yield f"{name}: Kaggle unpacks archives, so pip could not read it there. Ship a wheel instead"
        if not name.isascii() or set(name) & {"+", "~"}:
            yield (
                f"{name!a}: Kaggle strips '+', '~' and what is not ASCII from names, so pip could not parse "
                "what is left. Take a release without such a name"
            )


def read_wheel(path: Path) -> Wheel:
    """Raises ValueError, KeyError or BadZipFile when name or METADATA cannot be read."""
    name, version, _, tags = parse_wheel_filename(path.name)
    with zipfile.ZipFile(path) as archive:
        inside = [member for member in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", member)]
        if len(inside) != 1:
            raise ValueError(f"{len(inside)} METADATA files, expected 1")
        metadata, _ = parse_email(archive.read(inside[0]))
    said = canonicalize_name(metadata["name"]), Version(metadata["version"])
    if said != (name, version):
        raise ValueError(f"its METADATA is of {said[0]} {said[1]}")
    requirements = [Requirement(text) for text in metadata.get("requires_dist", [])]
    return Wheel(path.name, name, version, tags, SpecifierSet(metadata.get("requires_python", "")), requirements)


def refused_package(wheel: Wheel, image: Image) -> Iterator[str]:
    if wheel.name == NEVER_SHIPPED:
        yield f"{wheel.file}: {wheel.name} is never shipped, the image has its own. Remove it"
    elif wheel.name in image.packages:
        held = image.packages[wheel.name]
        if held is None or Version(held) != wheel.version:
            yield (
                f"{wheel.file}: would replace the image's own {wheel.name} ({held or 'version unknown'}), which "
                f"the image's other packages were built with. Take it out of {REQUIREMENTS}"
            )


def misfits(wheel: Wheel, python: str) -> Iterator[str]:
    if not wheel.requires_python.contains(python, prereleases=True):
        yield f"{wheel.file}: requires Python {wheel.requires_python}, so pip would refuse it. Take another release"
    major, minor = map(int, minor_version(python).split("."))
    interpreter = f"cp{major}{minor}"
    accepted = [*cpython_tags((major, minor), abis=[interpreter], platforms=PLATFORMS),
                *compatible_tags((major, minor), interpreter, PLATFORMS)]  # fmt: skip
    if wheel.tags.isdisjoint(accepted):
        found = ", ".join(sorted(map(str, wheel.tags)))
        yield (
            f"{wheel.file}: is built for {found}, not for x86_64 Linux with glibc 2.{NEWEST_GLIBC} and every "
            "Python checked. Take a py3-none-any wheel or one that fits"
        )


def unmet_requirements(wheel: Wheel, python: str, wheels: dict[str, Wheel], image: Image) -> Iterator[str]:
    for requirement in wheel.requirements:
        if requirement.marker and not requirement.marker.evaluate(environment(python)):
            continue
        name = canonicalize_name(requirement.name)
        needs = f"{wheel.file} needs {requirement.name}{requirement.specifier}"
        if name not in wheels and name not in image.packages:
            yield f"{needs}, which neither the image nor the wheels hold. Pin it in {REQUIREMENTS}"
            continue
        if requirement.extras:
            extras = ", ".join(sorted(requirement.extras))
            yield f"{needs} with the extra {extras}, which cannot be checked. Take a release that asks for no extra"
        version = str(wheels[name].version) if name in wheels else image.packages[name]
        if version is None and requirement.specifier:
            yield f"{needs}, which cannot be checked: record the image's version of {name} in {IMAGE}"
        elif version is not None and not requirement.specifier.contains(version, prereleases=True):
            holder = wheels[name].file if name in wheels else f"the image holds {name} {version}"
            yield f"{needs}, but {holder}: they conflict. Take a release that fits"


def environment(python: str) -> dict[str, str]:
    """What markers see on the image and not on this machine."""
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "python_full_version": python,
        "platform_python_implementation": "CPython",
        "python_version": minor_version(python),
        "sys_platform": "linux",
    }
