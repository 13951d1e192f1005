"""A bank's worker processes; what they make is tested by whole builds."""

import pytest

from kernel.banks import encoding as bank_encoding
from kernel.banks.encoding import Encoding, start
from kernel.system.devices import Device


@pytest.mark.parametrize(("visible", "expected"), [(None, "1"), ("", "1"), ("4,7", "7")])
def test_a_gpus_worker_sees_no_other_gpu(monkeypatch, visible, expected):
    started = []
    monkeypatch.setattr(bank_encoding.subprocess, "Popen", lambda command, env, **how: started.append((command, env)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    start(Device("cuda:1"), 2)
    ((command, environment),) = started
    assert environment["CUDA_VISIBLE_DEVICES"] == expected and command[-1] == "cuda:0"


def test_a_worker_ends_when_its_parent_is_gone(tmp_path, weights):
    """The system closes a dead process's pipes; a shard is in hand, and its answer would have nobody to read it."""
    worker = start(Device("cpu"), 1)
    assert worker.stdin is not None and worker.stdout is not None
    print(Encoding(tmp_path, "sentences", weights).as_json(), file=worker.stdin, flush=True)
    print(0, file=worker.stdin, flush=True)
    worker.stdin.close()
    worker.stdout.close()
    assert worker.wait(timeout=300) == 0


def test_an_encoding_is_the_same_in_another_process(tmp_path, weights):
    encoding = Encoding(tmp_path, "clip", weights)
    assert Encoding.from_json(encoding.as_json()) == encoding
