import pytest
import torch

from kernel.devices import Device, find_device
from kernel.errors import UserError


def test_auto_is_the_cpu_where_no_gpu_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == Device("cpu")


def test_half_precision_on_a_gpu_full_on_a_cpu():
    assert Device("cuda:1").dtype == torch.float16
    assert Device("cpu").dtype == torch.float32


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
