import pytest

from kernel.errors import UserError
from kernel.pipeline.planning import machines
from kernel.pipeline.planning.gpus import GB, gpu_named
from kernel.pipeline.planning.machines import machines_named


@pytest.mark.parametrize(
    ("text", "count", "gpu", "devices"),
    [
        ("8xL4", 8, "L4", 8),
        ("4xT4", 4, "T4", 4),
        ("2xA100", 2, "A100", 2),
        ("4xT4x2", 4, "T4x2", 8),
        ("T4x2", 1, "T4x2", 2),
        ("3xcpu", 3, "cpu", 3),
        ("24GB:100TFLOPS:300GB/s:x2", 1, "24GB:100TFLOPS:300GB/s:x2", 2),
        ("5x24GB:100TFLOPS:300GB/s:x2", 5, "24GB:100TFLOPS:300GB/s:x2", 10),
    ],
)
def test_machines_are_read_by_number_and_gpu(text, count, gpu, devices):
    found = machines_named(text)
    assert (found.count, found.gpu, found.devices) == (count, gpu_named(gpu), devices)


@pytest.mark.parametrize("text", ["8xL5", "0xL4", "x", "8x", "9999999xL4", "2x0GB:1TFLOPS:1GB/s", "-1xL4"])
def test_what_is_no_machine_is_told_with_what_is(text):
    with pytest.raises(UserError, match=f"^--machines {text}: .*expected .*before it N machines.* 8xL4") as refused:
        machines_named(text)
    assert "\n" not in str(refused.value)


def test_the_shared_disk_or_the_networks_bound_what_is_moved(monkeypatch):
    eight = machines_named("8xL4")
    assert eight.moving_seconds(1000 * GB) == 1000  # the disk's 1 GB/s; eight networks would carry 10
    assert (eight.over_network(5), machines_named("L4x8").over_network(5)) == (5, 0)
    monkeypatch.setattr(machines, "ASSUMED", machines.Assumed(store_bytes_a_second=20e9))
    assert eight.moving_seconds(1000 * GB) == 100
    assert eight.moving_seconds(1000 * GB, machines=1) == 800
    assert machines_named("L4x8").moving_seconds(1000 * GB) == 50  # its own disk


def test_gradients_cross_every_machine_once_round_the_ring():
    # each device hands on 2 (n - 1) / n of them, and of the devices of one machine one to the next machine
    assert machines_named("2xL4").exchanged_bytes(100) == 100
    assert machines_named("8xL4").exchanged_bytes(100) == 175
    assert machines_named("4xT4x2").exchanged_bytes(100) == 175
    assert machines_named("L4x8").exchanged_bytes(100) == 0


def test_a_price_is_of_every_machine_and_hour():
    assert machines_named("8xL4").cost(1800, 0.8) == pytest.approx(3.2)
    assert machines_named("8xL4").cost(1800, None) is None
