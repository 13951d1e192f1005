"""A signal ends a command in words, and what never answers does not keep it from its end."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BEGIN = """
import ctypes, os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from kernel.system import interrupts
interrupts.GRACE_SECONDS = 0.2
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background would pass on "ignore"
interrupts.end_when_interrupted()
began = lambda: print("began", flush=True)
"""
HANGS = {
    "a thread, which is waited for at the end": "ThreadPoolExecutor(1)"
    ".submit(lambda: began() or os.read(os.pipe()[0], 1)).result()",
    "a call that comes back from no signal": "mutex, lock = bytes(64), ctypes.CDLL(None).pthread_mutex_lock\n"
    "while True:\n try: began(), lock(mutex), lock(mutex)\n except BaseException: pass",
    "what takes the interrupt for a failure": "while True:\n try: began(), time.sleep(60)\n except BaseException: pass",
}


def ended(code: str, number: int) -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", BEGIN + code], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "began\n"
    os.kill(process.pid, number)
    try:
        return process.wait(timeout=60), process.communicate()[1]
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("hangs", HANGS)
def test_what_never_answers_is_not_waited_for(hangs, number):
    code, errors = ended(HANGS[hangs], number)
    assert code == 1 and errors.endswith("ended: something gave no answer for 4 s; what is finished is kept, the same "
                                         "command goes on\n")  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_answers_comes_to_its_own_end(number):
    code, errors = ended("try: began(), time.sleep(60)\nexcept KeyboardInterrupt: sys.exit('own end')", number)
    assert (code, errors) == (1, "own end\n")
