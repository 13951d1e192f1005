import gc
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest

from kernel.system import memory
from kernel.system.memory import PeakMemory, anonymous_bytes, leave_to_the_end, long_lived, return_freed_memory
from tests.conftest import ROOT

MB = 10**6
SIZE = 200 * MB
# of other threads of the tests' process, and of what Python itself takes meanwhile
SLACK = 20 * MB

tells_anonymous = pytest.mark.skipif(not memory.STATUS.is_file(), reason="this system's /proc tells no RssAnon")


def allocated(size: int) -> np.ndarray:
    """An array whose every page was written, so that it is resident."""
    return np.ones(size, dtype=np.uint8)


def wait_until_seen(peak: PeakMemory, size: int) -> None:
    """Waits until the block's own thread has seen `size` bytes more than at its entry: each block's samples at
    moments of their own."""
    until = time.monotonic() + 60
    while peak.host - peak.before < size:
        assert time.monotonic() < until
        time.sleep(0.005)


@tells_anonymous
def test_what_is_allocated_and_freed_inside_a_block_is_seen():
    with PeakMemory() as peak:
        array = allocated(SIZE)
        wait_until_seen(peak, SIZE - SLACK)
        del array
        after = anonymous_bytes()
    assert SIZE - SLACK < peak.host - peak.before < SIZE + SLACK
    assert after < peak.host - SIZE + SLACK
    assert peak.device is None


@tells_anonymous
def test_what_is_still_held_at_the_end_counts_though_no_sample_saw_it(monkeypatch):
    monkeypatch.setattr(memory, "INTERVAL_SECONDS", 3600)
    with PeakMemory() as peak:
        array = allocated(SIZE)
    assert peak.host - peak.before > SIZE - SLACK
    assert array[-1] == 1


@tells_anonymous
def test_a_mapped_file_that_was_read_does_not_count(tmp_path):
    allocated(SIZE).tofile(tmp_path / "weights")
    with PeakMemory() as peak:
        mapped = np.memmap(tmp_path / "weights", dtype=np.uint8, mode="r")
        assert int(mapped.sum(dtype=np.int64)) == SIZE
    assert peak.host - peak.before < SLACK


@tells_anonymous
def test_an_inner_block_sees_its_own_and_the_outer_one_all():
    with PeakMemory() as outer:
        kept = allocated(SIZE)
        with PeakMemory() as inner:
            more = allocated(SIZE)
            wait_until_seen(inner, SIZE - SLACK)
            wait_until_seen(outer, 2 * SIZE - SLACK)
            del more
        assert kept[-1] == 1
    assert inner.before - outer.before > SIZE - SLACK
    assert SIZE - SLACK < inner.host - inner.before < SIZE + SLACK
    assert 2 * SIZE - SLACK < outer.host - outer.before < 2 * SIZE + SLACK


def test_a_block_that_fails_ends_its_samples_too():
    with pytest.raises(ZeroDivisionError), PeakMemory() as peak:
        _ = 1 // 0
    assert not peak.thread.is_alive()
    assert peak.host >= peak.before > 0


def test_without_proc_the_peak_is_the_process_s(tmp_path, monkeypatch):
    """As on macOS: getrusage's most resident bytes, which never fall."""
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    with PeakMemory() as peak:
        array = allocated(SIZE)
    del array
    assert peak.host >= peak.before > 10 * MB
    assert anonymous_bytes() >= peak.host


def test_torch_is_not_imported_for_the_cpu():
    said = (
        "import sys; from kernel.system.memory import PeakMemory\n"
        "with PeakMemory('cpu'): pass\nprint('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", said]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip() == "False"


def test_a_gpu_is_asked_for_its_own_peak(monkeypatch):
    import torch

    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda name: asked.append(("reset", name)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda name: asked.append(("most", name)) or 123)
    with PeakMemory("cuda:1") as peak:
        assert asked == [("reset", "cuda:1")]
    assert (peak.device, asked[-1]) == (123, ("most", "cuda:1"))


FREED = """
import sys
import numpy as np
from kernel.system.memory import anonymous_bytes, return_freed_memory
blocks = [np.ones(2**17 - 64, dtype=np.uint8) for _ in range(2000)]
kept = blocks[::100]
del blocks
before = anonymous_bytes()
return_freed_memory()
print(before - anonymous_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_freed_memory_goes_back_though_some_of_the_heap_is_still_used():
    """2,000 blocks under the size that is mapped by itself; every hundredth stays and holds the heap's end up."""
    output = subprocess.run([sys.executable, "-c", FREED], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert int(output) > 200 * MB


def test_returning_freed_memory_where_nothing_can_is_no_error(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    return_freed_memory()


def test_what_is_long_lived_is_not_gone_through_by_collections_until_the_end():
    with long_lived():
        assert gc.get_freeze_count() > 1000
        own: list[object] = []
        own.append(own)
        del own
        assert gc.collect() >= 1
    assert gc.get_freeze_count() == 0


def test_what_came_since_is_left_to_the_end_too_but_no_garbage():
    class Model:
        pass

    with long_lived():
        before, kept = gc.get_freeze_count(), [[number] for number in range(1000)]
        # last, as so many new lists set off a collection of their own
        garbage = Model()
        garbage.itself = garbage
        seen = weakref.ref(garbage)
        del garbage
        leave_to_the_end()
        assert seen() is None
        assert gc.get_freeze_count() >= before + len(kept)
    assert gc.get_freeze_count() == 0
