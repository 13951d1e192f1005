import time

import pytest

from kernel.system.terminal.progress import EVERY, progress_bar


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_where_no_terminal_shows_it_a_bar_is_one_line_in_the_end(clock, capsys):
    assert list(progress_bar(range(3), desc="captions", unit="image", mininterval=0)) == [0, 1, 2]
    captured = capsys.readouterr()
    (line,) = captured.err.split("\n")[:-1]
    assert line.startswith("captions: 100%") and "3/3" in line and "\r" not in line and captured.out == ""


def test_a_long_bar_says_where_it_is_every_minute(clock, capsys):
    with progress_bar(total=4, desc="captions", mininterval=0) as bar:
        for _ in range(4):
            clock[0] += EVERY / 2
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("|")[0] for line in lines] == ["captions:  50%", "captions: 100%", "captions: 100%"]


def test_a_note_between_does_not_repeat_the_bar(clock, capsys):
    import sys

    with progress_bar(total=2, desc="captions", mininterval=0) as bar:
        bar.update()
        bar.write("a note", file=sys.stderr)
        bar.update()
    note, line = capsys.readouterr().err.splitlines()
    assert note == "a note" and line.startswith("captions: 100%")


@pytest.mark.parametrize("options", [{"disable": True}, {"leave": False}])
def test_a_bar_that_leaves_nothing_prints_nothing(clock, capsys, options):
    for _ in progress_bar(range(3), **options):
        pass
    assert capsys.readouterr().err == ""


def test_on_a_terminal_it_is_drawn_over_itself(clock, capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in progress_bar(range(3), mininterval=0):
        pass
    assert capsys.readouterr().err.count("\r") > 2
