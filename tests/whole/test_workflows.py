"""What CI, the nightly run, the hook before a commit and the form for a bug call is what the project has."""

import subprocess
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT


def content(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def makes(command: str) -> bool:
    """Whether the Makefile has the target of a `make TARGET`."""
    assert command.startswith("make ")
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    return done.returncode == 0


def test_the_hook_before_a_commit_is_the_makefile_s_own_lint():
    ((repository,),) = [content(".pre-commit-config.yaml")["repos"]]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["language"], hook["entry"]) == ("local", "system", "make lint")
    assert hook["pass_filenames"] is False and makes(hook["entry"])


@pytest.mark.parametrize(
    ("name", "triggers", "commands"),
    [("ci", {"push", "pull_request"}, ["bash .ci/run"]),
     ("nightly", {"schedule", "workflow_dispatch"}, ["make browser", "make test-slow"])],
)  # fmt: skip
def test_a_workflow_runs_the_project_s_own_commands_on_the_oldest_python_and_may_only_read(name, triggers, commands):
    file = ROOT / ".github" / "workflows" / f"{name}.yml"
    workflow = content(str(file))
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow[True]) == triggers  # YAML 1.1 reads the key `on` as true
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] > 0 and all(step["timeout-minutes"] > 0 for step in job["steps"])
    assert [step["run"] for step in job["steps"] if "run" in step] == commands
    assert [command for command in commands if command.startswith("make ") and not makes(command)] == []
    assert (ROOT / ".ci" / "run").is_file()
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert f'requires-python = ">={python},' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "secrets." not in file.read_text(encoding="utf-8")


def test_every_workflow_is_one_of_these():
    assert {file.name for file in (ROOT / ".github" / "workflows").iterdir()} == {"ci.yml", "nightly.yml"}


def test_every_step_of_ci_is_a_target_of_the_makefile():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    steps = [line for line in lines if line.startswith("make ")]
    assert "make lint" in steps and "make test" in steps
    assert [step for step in steps if not makes(step)] == []
    assert not makes("make nothing-of-this-name")


def test_a_bug_is_told_with_what_the_doctor_says():
    form = content(".github/ISSUE_TEMPLATE/bug.yml")
    asked = {own["id"]: own for own in form["body"]}
    assert "python -m kernel doctor" in asked["doctor"]["attributes"]["label"]
    assert asked["doctor"]["validations"]["required"] is True
    assert {"command", "expected"} <= set(asked)


def test_formatting_changes_nothing_that_lint_refuses():
    """`make format` and `make lint` are the same two tools over the same files."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert makes("make format")
    for line in ("ruff format .", "ruff check --fix .", "ruff check .", "ruff format --check ."):
        assert f"\t$(BIN)/{line}\n" in makefile
