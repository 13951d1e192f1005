import os
import sys

import pytest

from kernel.system.processes import ending, stream


def test_what_the_child_says_is_passed_on_with_its_command(capsys):
    assert (
        stream([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"], dict(os.environ)) == 0
    )
    said = capsys.readouterr().out
    assert said.startswith(f"$ {sys.executable} -c")
    assert "out\n" in said and "err\n" in said


def test_a_childs_exit_code_is_returned():
    assert stream([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ)) == 3


def test_a_child_that_kills_itself_returns_its_signal():
    assert stream([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], dict(os.environ)) == -9


def test_the_child_runs_in_the_folder_given(tmp_path, capsys):
    stream([sys.executable, "-c", "import os; print(os.getcwd())"], dict(os.environ), tmp_path)
    assert str(tmp_path.resolve()) in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "exit code 1"), (-9, "killed by SIGKILL; out of memory does that"), (-11, "killed by SIGSEGV")],
)
def test_endings_in_words(code, words):
    assert ending(code) == words
