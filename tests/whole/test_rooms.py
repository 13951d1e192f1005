"""The rules of the rooms in pyproject.toml, each seen to fail where a line breaks it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BROKEN = {
    "rooms": ("kernel/system/files.py", "import kernel.models.clip"),
    "stages": ("kernel/pipeline/stages/clip.py", "import kernel.pipeline.stages.captions"),
    "network": ("kernel/banks/nearest.py", "def fetch():\n    import requests"),
    "commands-network": ("kernel/commands/options.py", "import huggingface_hub"),
    "stores": ("kernel/banks/build.py", "def fetch():\n    import fsspec"),
    "shipped": ("kernel/publish/prepare.py", "import kernel.miniature.world.drawing"),
    "tests": ("kernel/banks/nearest.py", "import tests.conftest"),
    "circles": ("kernel/system/files.py", "import kernel.system.tensor_files"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("kernel", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=lambda folder, names: {
            own for own in names if not own.endswith(".py") and not Path(folder, own).is_dir()
        })  # fmt: skip
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken_rules(project: Path) -> str:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-logo", "--no-cache"], cwd=project, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout


def test_no_rule_is_broken_here(project):
    assert broken_rules(project) == ""


@pytest.mark.parametrize("rule", BROKEN)
def test_a_line_that_breaks_a_rule_is_found(project, rule):
    name, line = BROKEN[rule]
    path = project / name
    path.write_text(f"{path.read_text()}\n{line}\n")
    found = broken_rules(project)
    assert f"{rule_named(rule)} BROKEN" in " ".join(found.split())


def rule_named(rule: str) -> str:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} == set(BROKEN)
    return next(contract["name"] for contract in contracts if contract["id"] == rule)
