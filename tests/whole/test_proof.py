"""What docs/proof.md says is held by a test is held by one that there is."""

import ast
import re

import pytest

from tests.conftest import ROOT

NAMED = re.findall(r"`(\w[\w/]*)::(\w+)`", (ROOT / "docs" / "proof.md").read_text())


def test_every_fault_that_was_found_has_its_line():
    assert len(NAMED) > 30


@pytest.mark.parametrize(("module", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_test_that_holds_it_is_there(module, name):
    tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
