"""The notebook, executed, as its reader sees it: cards inline, a short last word, and no trouble in the browser."""

import json
import os
import re
import subprocess
import sys

import pytest

from kernel.notebook.children import RUN_TYPE
from kernel.notebook.inputs import COMPETITION
from kernel.notebook.session import RERUN
from kernel.publish.kaggle.staging import stage_code
from tests.conftest import ROOT
from tests.evaluation.test_report import finished  # noqa: F401  (a run to show)
from tests.publish.wheel_files import make_wheel

HTML = ["--to", "html", "--template", "basic", "--execute", "--ExecutePreprocessor.timeout=-1"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory, drawn, weights_folder):
    """The committed run over six drawn pictures, as nbconvert shows it."""
    folder = tmp_path_factory.mktemp("notebook")
    datasets, working = folder / "input" / "datasets" / "someone", folder / "working"
    images = folder / "input" / "competitions" / COMPETITION / "images"
    for path in (datasets / "wheels" / "wheels", images, working):
        path.mkdir(parents=True)
    stage_code(ROOT, folder / "code", "someone").folder.rename(datasets / "code")
    (datasets / "weights").symlink_to(weights_folder)
    make_wheel(datasets / "wheels" / "wheels")
    (datasets / "wheels" / "wheels" / "requirements.txt").write_text("")  # all that it needs is installed here
    rows = ["imgId,prompt"]
    for name, (picture, scene) in zip("abcdef", drawn, strict=False):
        picture.save(images / f"{name}.png")
        rows.append(f'{name},"{scene.prompt}"')
    (images.parent / "prompts.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != RERUN}
    environment |= {"IMAGE_TO_PROMPTS_INPUT": str(folder / "input"), RUN_TYPE: "Batch"}
    notebook = (ROOT / "notebooks" / "image_to_prompts.ipynb").read_text(encoding="utf-8")
    (working / "notebook.ipynb").write_text(notebook, encoding="utf-8")
    converted(working, environment)
    return working / "notebook.html"


def converted(folder, environment):
    command = [sys.executable, "-m", "nbconvert", *HTML, "notebook.ipynb"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_executed_notebook_shows_score_cards_and_a_short_last_word(page, executed):
    page.goto(executed.as_uri())
    shown = page.frame_locator("iframe")
    assert shown.locator("article").count() == 6
    assert re.fullmatch(r"0\.\d{3}", shown.locator(".figure").text_content())
    shown.get_by_label("search in ids and texts").fill("no such words anywhere")
    assert shown.locator("article").count() == 0
    last = page.locator("pre").last.text_content()
    assert last.startswith("submission.csv is valid for 6 images") and last.count("\n") <= 1


def test_the_worst_images_stand_inline_in_any_notebook(page, finished, tmp_path):  # noqa: F811
    call = f"kernel.show({str(finished / 'run')!r}, n=3, by='worst', prompts={str(finished / 'prompts.csv')!r})"
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None,
            "source": f"import kernel\n{call}"}  # fmt: skip
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": [cell], "metadata": python, "nbformat": 4, "nbformat_minor": 4}
    (tmp_path / "notebook.ipynb").write_text(json.dumps(notebook))
    converted(tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    page.goto((tmp_path / "notebook.html").as_uri())
    shown = page.frame_locator("iframe")
    cosines = [float(text.removeprefix("cosine ")) for text in shown.locator("article h3 b").all_text_contents()]
    assert len(cosines) == 3 and cosines == sorted(cosines)
