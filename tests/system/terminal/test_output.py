"""Output that cannot be written, in processes of their own: told as that, never as a model's failure or a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.pipeline.constant import write_constant
from tests.conftest import ROOT

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


def kernel(*arguments: str | Path, stdout: int, environment: dict[str, str] | None = None, **options):
    command = [sys.executable, "-m", "kernel", *map(str, arguments)]
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, env=environment, **options)


def into_closed_pipe(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    """The command's end when nobody reads what it prints."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return kernel(*arguments, stdout=writing, **options)
    finally:
        os.close(writing)


def into_full_disk(*arguments: str | Path) -> subprocess.CompletedProcess:
    with open("/dev/full", "w") as full:
        return kernel(*arguments, stdout=full.fileno())


@pytest.fixture(scope="module")
def valid(tmp_path_factory, weights_folder, drawn) -> list[str | Path]:
    """`check` of a submission that is valid for one image, whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("valid")
    (folder / "images").mkdir()
    drawn[0][0].save(folder / "images" / "größe 猫.png")
    write_constant(folder / "images", weights_folder, folder / "größe.csv")
    return ["check", folder / "größe.csv", folder / "images"]


@pytest.mark.parametrize("command", [["publish", "prompts", "--list"], ["run", "--help"]], ids=" ".join)
def test_a_closed_pipe_ends_a_command_quietly(command):
    done = into_closed_pipe(*command)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_closed_pipe_ends_check_quietly(valid):
    done = into_closed_pipe(*valid)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("devices", ["cpu", pytest.param("cpu,cpu", marks=pytest.mark.slow)])
def test_a_closed_pipe_ends_describe_at_its_first_line_quietly(image_folder, weights_folder, tmp_path, devices):
    """With one process and with a thread for each of several: the line is printed from within a stage."""
    options = ["--mode", "negative", "--device", devices, "--features", tmp_path / "features"]
    done = into_closed_pipe("describe", image_folder, "--weights", weights_folder, *options)
    said = done.stderr.decode()
    assert done.returncode == 1
    assert not [word for word in ("Traceback", "cannot be used", "Broken pipe", "interrupted") if word in said], said


def test_a_full_disk_under_stdout_is_one_line(valid):
    done = into_full_disk(*valid)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert line.startswith("error: stdout cannot be written (No space left on device)")


def printed(code: str, **options) -> subprocess.CompletedProcess:
    """What comes of `code` as a command's process; it is given the module `kernel.system.terminal.output` and `sys`."""
    code = (
        f"import sys\nfrom kernel.system.terminal.output import printing\n"
        f"def command():\n {code}\n return 0\nsys.exit(printing(command))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, **options)


def test_notes_that_nobody_can_read_stop_nothing():
    with open("/dev/full", "w") as full:
        done = printed("print('a note', file=sys.stderr, flush=True); print('result')", stderr=full)
    assert (done.returncode, done.stdout) == (0, b"result\n")


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, ASCII], ids=["ascii", "C locale"])
def test_letters_that_stdout_lacks_are_escaped_and_a_submission_is_the_same_in_any_locale(valid, environment):
    done = kernel(*valid, stdout=subprocess.PIPE, environment=environment)
    assert done.returncode == 0, done.stderr
    assert b"valid for 1 images" in done.stdout
    if environment is not ASCII:
        assert b"gr\\xf6\\xdfe.csv" in done.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_describe_prints_a_name_that_no_encoding_has(encoding):
    """As JSON, which must stay JSON, and the name comes back whole."""
    record = {"image": os.fsdecode("größe \U0001f431 ".encode() + b"\xe9.png"), "prompt": "猫"}
    code = f"from kernel.commands.describe import Printer; Printer([], True).tell({record!a})"
    done = printed(code, stderr=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode(encoding)) == record


def test_describe_prints_a_name_that_is_not_utf_8_as_text():
    record = {"image": "\udce9.png", "prompt": "a"}
    code = f"from kernel.commands.describe import Printer; Printer([], False).tell({record!a})"
    done = printed(code, stderr=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stdout) == (0, b"\\udce9.png\ta\n"), done.stderr
