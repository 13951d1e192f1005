"""The staged code folder alone: each module of it imports, and none but the prepare notebook's needs `publish`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.publish.kaggle.staging import stage_code
from tests.conftest import ROOT

IMPORT = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
publish = sorted(name for name in sys.modules if name.startswith("kernel.publish"))
print(json.dumps([sys.modules["kernel"].__file__, failed, publish]))
"""
HELP = """
import sys
from kernel.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, *(name for name in sys.modules if name.startswith(("kernel.publish", "kernel.commands.publish"))))
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> Path:
    return stage_code(ROOT, tmp_path_factory.mktemp("staged") / "code", "someone").folder


def modules(code: Path) -> list[str]:
    """The names of all staged modules; a package's `__main__` runs when it is imported, so only the top one counts."""
    paths = [path.relative_to(code).with_suffix("") for path in sorted((code / "kernel").rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if name == "kernel.__main__" or not name.endswith(".__main__")]


def said(code: Path, program: str, *arguments: str) -> str:
    """What a Python says whose path holds the staged folder and nothing else of the project."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        cwd=code.parent,
        env={**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def imported(code: Path, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Which of them could not be imported and why, and which modules of `publish` that took."""
    where, failed, publish = json.loads(said(code, IMPORT, *names))
    assert where == str(code / "kernel" / "__init__.py")
    return failed, publish


def test_every_module_that_is_sent_imports_without_the_rest_of_the_project(code):
    names = modules(code)
    assert {"kernel.pipeline.run", "kernel.notebook.session", "kernel.publish.prepare"} <= set(names)
    failed, _ = imported(code, names)
    assert failed == {}


def test_nothing_outside_publish_imports_it(code):
    names = [name for name in modules(code) if not name.startswith(("kernel.publish", "kernel.commands.publish"))]
    _, publish = imported(code, names)
    assert publish == []


@pytest.mark.parametrize("arguments", [["run", "--help"], ["--help"]])
def test_help_imports_nothing_of_publish(code, arguments):
    assert said(code, HELP, *arguments) == "0"


def test_publish_has_its_commands_when_it_is_asked(code):
    assert "kernel.commands.publish" in said(code, HELP, "publish", "push", "--help").split()


def test_what_only_measures_is_not_sent(code):
    assert {"miniature", "text_side", "truesize"} & {path.name for path in (code / "kernel").iterdir()} == set()
