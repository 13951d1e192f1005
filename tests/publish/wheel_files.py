"""Hand-made wheels for the tests of publishing."""

import zipfile
from pathlib import Path


def make_wheel(folder: Path, name: str = "thing-1.0-py3-none-any.whl", lines: str = "", inside: str = "") -> Path:
    """A wheel with `lines` in its METADATA, as of project and version `inside`, by default those of its name."""
    project, version = (inside or name).split("-")[:2]
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        info = f"{project}-{version}.dist-info"
        archive.writestr(f"{project}/__init__.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n{lines}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path
