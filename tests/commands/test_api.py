"""What `import kernel` offers, and that it imports nothing heavy before it is asked."""

import subprocess
import sys

import pytest

import kernel
from kernel.errors import UserError
from kernel.evaluation.report_content import ORDERS
from tests.conftest import ROOT
from tests.evaluation.test_report import content_of, finished  # noqa: F401  (the same run)


def test_importing_kernel_imports_nothing_heavy():
    heavy = {"torch", "numpy", "pandas", "transformers", "open_clip", "sentence_transformers", "ray"}
    code = f"import kernel, sys; kernel.Recipe; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_name_that_is_not_there_lists_those_that_are():
    names = "Recipe, Sidecars, describe, evaluate, plan, run, serve, show"
    with pytest.raises(AttributeError, match=f"no attribute 'evalute'; it has {names}"):
        kernel.evalute  # noqa: B018


def test_a_run_by_function_is_a_run_by_command(image_folder, weights_folder, tmp_path):
    recipe = kernel.Recipe(num_beams=1, captions_per_image=1)
    record = kernel.run(str(image_folder), tmp_path / "run", recipe, weights_folder, device="cpu", limit=2)
    assert record["counts"]["images"] == 2 and record["recipe"]["num_beams"] == 1
    with pytest.raises(UserError, match="unknown recipe 'baselin' .did you mean 'baseline'"):
        kernel.run(image_folder, tmp_path / "other", "baselin", weights_folder)


def test_a_submission_is_evaluated(finished, weights_folder):  # noqa: F811
    score = kernel.evaluate(finished / "run" / "submission.csv", finished / "prompts.csv", weights_folder)
    assert score.n == 7 and set(score.per_image) == {"<b>bold & broken", *"abcdef"}


def test_a_plan_prints_as_a_table():
    estimated = kernel.plan("T4x2", images=100, recipe="baseline")
    assert estimated.fits and "captions" in str(estimated) and "estimate" in str(estimated)


@pytest.fixture
def displayed(monkeypatch):
    pages = []
    monkeypatch.setattr("kernel.evaluation.report.display_page", pages.append)
    return pages


def test_the_worst_images_are_shown_first(finished, displayed, tmp_path):  # noqa: F811
    kernel.show(finished / "run", n=3, by="worst", prompts=finished / "prompts.csv")
    (tmp_path / "page.html").write_text(displayed[0], encoding="utf-8")
    cards = content_of(tmp_path / "page.html", "cards")
    score = kernel.evaluate(finished / "run" / "submission.csv", finished / "prompts.csv")
    assert [card["id"] for card in cards] == sorted(score.per_image, key=score.per_image.__getitem__)[:3]
    assert [card["index"] for card in cards] == [0, 1, 2]


def test_show_works_as_its_example_says(finished, displayed, tmp_path, monkeypatch):  # noqa: F811
    """The docstring's own lines: without prompts by disagreement, with prompts the worst first."""
    (tmp_path / "RUN").symlink_to(finished / "run")
    (tmp_path / "prompts.csv").symlink_to(finished / "prompts.csv")
    monkeypatch.chdir(tmp_path)
    lines = [line.strip() for line in kernel.__doc__.splitlines() if line.strip().startswith("kernel.show(")]
    assert lines[0] == 'kernel.show("RUN")' and "prompts=" in lines[1] and len(lines) == 2
    for line, order in zip(lines, ("disagreement", "worst"), strict=True):
        exec(line, {"kernel": kernel})
        (tmp_path / "page.html").write_text(displayed[-1], encoding="utf-8")
        cards = content_of(tmp_path / "page.html", "cards")
        assert len(cards) >= 6 and cards == sorted(cards, key=ORDERS[order])


def test_orders_that_cannot_be_are_refused_with_those_that_can(finished, displayed):  # noqa: F811
    with pytest.raises(UserError, match="unknown order 'wors' .did you mean 'worst'.*disagreement"):
        kernel.show(finished / "run", by="wors")
    with pytest.raises(UserError, match="true prompts are not known"):
        kernel.show(finished / "run", by="worst")
    kernel.show(finished / "run", n=2, by="disagreement")
    assert len(displayed) == 1
