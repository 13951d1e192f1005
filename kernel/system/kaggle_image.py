"""Reads wheels/kaggle-image.txt: what Kaggle's GPU image held when somebody last looked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kernel.errors import UserError


@dataclass(frozen=True)
class Image:
    """What a Kaggle image holds. `digest` is its whole name, `gcr.io/...@sha256:...`.

    `packages` maps canonical names to versions with their local labels, None where the version is unknown.
    """

    python: str
    digest: str
    packages: dict[str, str | None]


def read_image(path: Path) -> Image:
    """What is recorded of an image: `# python: 3.12.13`, `# image: NAME@sha256:...` and lines as of `pip freeze`.

    A line without an exact version (`name`, `name @ https://...`, `-e git+...#egg=name`) says only that the
    package is there. Raises UserError when a header is missing or a line cannot be read.
    """
    text = read_text(path)
    python = re.search(r"^# python: (\d+\.\d+\.\d+)\s*$", text, re.MULTILINE)
    digest = re.search(r"^# image: (\S+)\s*$", text, re.MULTILINE)
    if not python or not digest:
        missing = "# python: 3.12.13" if digest else "# image: NAME@sha256:..."
        raise UserError(f"{path}: no line like {missing!r}. Copy what the 'prepare' notebook prints, headers and all")
    packages: dict[str, str | None] = {}
    for number, line in logical_lines(text):
        package = re.sub(r"^-e\s.*#egg=([\w.-]+).*", r"\1", line)
        if package.startswith("-e "):
            continue  # `pip freeze` names a local folder's package only in a comment
        try:
            requirement = Requirement(package)
        except InvalidRequirement as error:
            raise UserError(
                f"{path}, line {number}: found {line!r}, expected NAME==VERSION or NAME as 'pip freeze' writes it. "
                "Mend the line, or put '#' before it"
            ) from error
        name, version = canonicalize_name(requirement.name), exact_version(requirement)
        if packages.setdefault(name, version) != version:
            raise UserError(
                f"{path}, line {number}: {name} is {version or 'of unknown version'} here and "
                f"{packages[name] or 'of unknown version'} above; expected each package once. Remove the wrong line"
            )
    return Image(python[1], digest[1], packages)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it is a file of the project. Restore it") from error


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line with its number, without comments and blank lines; a backslash at its end joins the next one to it."""
    joined = ""
    for number, line in enumerate(text.splitlines(), 1):
        joined += re.sub(r"(^|\s)#.*", "", line).strip()
        if joined.endswith("\\"):
            joined = joined[:-1].rstrip() + " "
            continue
        if joined:
            yield number, joined
        joined = ""
    if joined:
        yield number, joined.strip()


def exact_version(requirement: Requirement) -> str | None:
    """The version of `name==version`, None for anything else."""
    specifiers = list(requirement.specifier)
    if len(specifiers) == 1 and specifiers[0].operator == "==" and not specifiers[0].version.endswith(".*"):
        return specifiers[0].version
    return None


def minor_version(python: str) -> str:
    """Example: "3.12.13" -> "3.12" """
    return ".".join(python.split(".")[:2])
