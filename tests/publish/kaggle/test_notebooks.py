import ast
import json
import os
import subprocess
import sys

import nbformat
import pytest

from kernel.errors import UserError
from kernel.publish.kaggle.notebooks import build_notebooks, built, check_built, check_inputs_named
from kernel.publish.kaggle.staging import stage_code
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def code_cells(source):
    return [cell.source for cell in nbformat.reads(built(source.read_text()), 4).cells if cell.cell_type == "code"]


def test_all_three_notebooks_are_there():
    assert [source.name for source in SOURCES] == ["image_to_prompts.py", "prepare.py", "train.py"]


def test_the_committed_notebooks_equal_their_sources():
    check_built(ROOT)


def test_building_twice_gives_the_same_bytes():
    text = SOURCES[0].read_text()
    assert built(text) == built(text)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_thin(source):
    cells = code_cells(source)
    trees = [ast.parse(cell) for cell in cells]
    kinds = {type(node) for tree in trees for node in ast.walk(tree)}
    assert len(cells) <= 6
    assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_names_its_kernel_as_the_push_needs(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_names_no_input_but_the_mounts_root(source):
    assert [line for line in source.read_text().splitlines() if "/kaggle/input" in line] == [
        'INPUT = os.environ.get("IMAGE_TO_PROMPTS_INPUT", "/kaggle/input")'
    ]


FIRST_CELL = """
import os, sys
listed = []
sys.addaudithook(lambda event, of: listed.append(str(of[0])) if event in ("os.listdir", "os.scandir") else None)
{cell}
print(CODE, any("images" in path for path in listed), len(listed) > 0)
"""


@pytest.mark.parametrize("mount", ["some-slug", "datasets/someone/some-slug"])
def test_the_first_cell_imports_the_mounted_code_and_never_lists_the_images(tmp_path, project, mount):
    code = stage_code(project, tmp_path / "code", "someone").folder
    (tmp_path / "input" / mount).parent.mkdir(parents=True)
    code.rename(tmp_path / "input" / mount)
    for competition in ("cats", "competitions/cats"):
        (tmp_path / "input" / competition / "images").mkdir(parents=True)
    program = FIRST_CELL.format(cell=code_cells(SOURCES[0])[0])
    environment = {**os.environ, "IMAGE_TO_PROMPTS_INPUT": str(tmp_path / "input")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "input" / mount), "False", "True"]


def test_the_first_cell_says_when_no_code_is_mounted(tmp_path):
    environment = {**os.environ, "IMAGE_TO_PROMPTS_INPUT": str(tmp_path)}
    command = [sys.executable, "-c", code_cells(SOURCES[0])[0]]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "expected one code dataset (image-to-prompts.json)" in done.stderr


def test_a_changed_notebook_is_refused(project):
    notebook = project / "notebooks" / "image_to_prompts.ipynb"
    notebook.write_text(notebook.read_text().replace("session.finish()", "pass"))
    with pytest.raises(UserError, match="image_to_prompts.ipynb: differs from image_to_prompts.py.*make notebooks"):
        check_built(project)


def test_a_missing_notebook_is_refused_and_building_mends_it(project):
    (project / "notebooks" / "prepare.ipynb").unlink()
    with pytest.raises(UserError, match="prepare.ipynb: missing"):
        check_built(project)
    build_notebooks(project)
    check_built(project)


@pytest.mark.parametrize("path", ["datasets/someone/weights/manifest.json", "weights/a.txt", "competitions/cats"])
def test_a_path_of_a_mounted_input_may_be_named(tmp_path, path):
    (tmp_path / "a.ipynb").write_text(f"open('/kaggle/input/{path}')")
    check_inputs_named(tmp_path / "a.ipynb", ["someone/weights", "cats"])


def test_a_path_that_nothing_mounts_is_refused_with_the_sources(tmp_path):
    (tmp_path / "a.ipynb").write_text("open('/kaggle/input/other-weights/a.txt')")
    with pytest.raises(UserError, match="names /kaggle/input/other-weights/a.txt, which nothing mounts.*cats, weights"):
        check_inputs_named(tmp_path / "a.ipynb", ["someone/weights", "cats"])
