"""What needs a GPU: `make test-gpu` where there is one; elsewhere every test here is skipped, and told why."""

from pathlib import Path

import pytest

from kernel.errors import first_line
from kernel.system.devices import Device, operate

GPU = "cuda:0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("gpu")


@pytest.fixture(scope="session", autouse=True)
def cuda() -> Device:
    try:
        operate(GPU)
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"no CUDA device here: {first_line(error)}")
    return Device(GPU)
