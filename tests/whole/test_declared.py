"""Everything that the package imports is declared in pyproject.toml."""

import ast
import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

# what a run, training, and the way to Kaggle may need; `dev` has no say in these
EXTRAS = {
    "run": ["cluster", "stores"],
    "training": ["train", "lora", "cluster"],
    "publish": ["train", "publish"],
    "server": ["serve"],
}
NOT_SHIPPED = "miniature"
WHERE_THE_USER_HAS_IT = {"pillow-heif"}  # HEIC pictures are left out without it
FROM_KAGGLES_IMAGE = {"ipython"}  # imported in the notebook alone


def declared(extras: list[str]) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for name in extras for line in project["optional-dependencies"][name])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def imported(paths: list[Path]) -> set[str]:
    """The distributions that these files import, anywhere in them."""
    modules: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    known = importlib.metadata.packages_distributions()
    third_party = modules - set(sys.stdlib_module_names) - {"kernel"}
    return {canonicalize_name(known.get(module, [module])[0]) for module in third_party}


def part_of(path: Path) -> str:
    return next((part for part in ("publish", "training", "server") if part in path.parts), "run")


def files_of(part: str) -> list[Path]:
    paths = [path for path in sorted((ROOT / "kernel").rglob("*.py")) if NOT_SHIPPED not in path.parts]
    return [path for path in paths if part_of(path.relative_to(ROOT)) == part]


@pytest.mark.parametrize("part", EXTRAS)
def test_what_is_imported_is_declared(part):
    needed = imported(files_of(part))
    assert needed - declared(EXTRAS[part]) - FROM_KAGGLES_IMAGE - WHERE_THE_USER_HAS_IT <= {
        "kagglesdk"
    }  # the client's own other half


def test_what_only_kaggles_image_brings_is_there_to_develop_with():
    assert FROM_KAGGLES_IMAGE <= declared(["dev"])
