"""Ctrl-C at every moment of a wait on the service."""

import signal
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle.client import wait_until


@pytest.fixture(autouse=True)
def default_ctrl_c():
    """What a command in a terminal starts with, also when the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupted(look, interval: float = 3600) -> str:
    with pytest.raises(UserError) as error:
        wait_until(look, interval=interval, limit=7200, overdue="overdue", interrupted="interrupted, go on so")
    return str(error.value)


def test_ctrl_c_inside_a_finalizer_is_not_swallowed():
    class Session:
        pass

    def look() -> None:
        session = Session()
        weakref.finalize(session, press_ctrl_c)  # called as look() returns; what it raises is ignored by Python

    assert interrupted(look) == "interrupted, go on so"


def test_ctrl_c_during_a_look_ends_the_wait_after_it():
    looks = []

    def look() -> None:
        looks.append("begun")
        press_ctrl_c()
        looks.append("ended")

    assert interrupted(look) == "interrupted, go on so"
    assert looks == ["begun", "ended"]


def test_a_second_ctrl_c_ends_a_look_that_hangs():
    ended = []

    def look() -> None:
        press_ctrl_c()
        press_ctrl_c()
        ended.append("not reached")

    assert interrupted(look) == "interrupted, go on so"
    assert not ended


def test_ctrl_c_during_the_last_look_is_not_forgotten():
    def look() -> str:
        press_ctrl_c()
        return "found"

    assert interrupted(look) == "interrupted, go on so"


def test_the_handler_is_as_before_after_the_wait():
    assert wait_until(lambda: "found", interval=0, limit=1, overdue="", interrupted="") == "found"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupted(press_ctrl_c)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def look() -> str:
        press_ctrl_c()
        return "found"

    assert wait_until(look, interval=0, limit=1, overdue="", interrupted="") == "found"


def test_a_wait_in_a_thread_leaves_ctrl_c_to_the_main_one():
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(
            wait_until, iter([None, "found"]).__next__, interval=0, limit=1, overdue="", interrupted=""
        )
        assert found.result() == "found"
