import json
import subprocess

import pytest
import torch

from kernel.errors import UserError
from kernel.system.devices import Device, find_device, find_devices, host_memory


def test_auto_is_the_cpu_where_no_gpu_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == Device("cpu")


def test_half_precision_on_a_gpu_full_on_a_cpu():
    assert Device("cuda:1").dtype == torch.float16
    assert Device("cpu").dtype == torch.float32


def test_a_device_that_nobody_asked_the_driver_about_goes_by_its_name():
    assert (Device("cpu").title, Device("cuda:1").title) == ("cpu", "cuda:1")


def test_a_gpu_whose_first_operation_fails_is_refused_with_the_cure(monkeypatch):
    """What a P100 does under a torch without its kernels: available, then dead at the first operation."""

    def no_kernel(*arguments, **keywords):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernel)
    with pytest.raises(UserError, match="no kernel image is available.*choose the accelerator 'GPU T4 x2'"):
        find_device("auto")


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N"):
        find_device("gpu")


# the devices of a run


def test_the_cpu_works_where_no_gpu_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_devices("auto") == [Device("cpu", memory=host_memory())]
    assert find_devices("cpu,cpu") == [Device("cpu", memory=host_memory())] * 2


def test_auto_is_every_gpu_as_its_driver_tells(monkeypatch):
    asked = []

    def tried(command, **options):
        asked.append(command[1:])
        found = [["Tesla T4", 15_835_660_288], ["Tesla T4", 15_835_660_288]]
        return subprocess.CompletedProcess(command, 0, f"a library's words\n{json.dumps(found)}\n", "")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(subprocess, "run", tried)
    assert find_devices() == [Device(f"cuda:{index}", "Tesla T4", 15_835_660_288) for index in (0, 1)]
    assert asked == [["-m", "kernel.system.devices", "cuda:0", "cuda:1"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, so its first operation does not fail")
def test_a_gpu_that_fails_in_a_process_of_its_own_is_refused_with_the_cure():
    with pytest.raises(UserError, match="--device cuda: a first operation failed .+choose the accelerator 'GPU T4 x2'"):
        find_devices("cuda")


def test_a_gpu_named_twice_is_refused():
    with pytest.raises(UserError, match="names a GPU twice"):
        find_devices("cuda:0,cuda")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "cpu:1", "", "cuda:0,,cpu"])
def test_unknown_names_among_several_are_refused(asked):
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N, or several with commas"):
        find_devices(asked)
