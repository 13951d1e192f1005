import pytest

from kernel.errors import UserError
from kernel.pipeline.planning.gpus import GB, TFLOPS, gpu_named


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("T4", "T4", 1),
        ("T4x2", "T4", 2),
        ("t4X2", "T4", 2),
        ("L4x4", "L4", 4),
        ("A100", "A100", 1),
        ("H100", "H100", 1),
        ("cpu", "cpu", 1),
    ],
)
def test_a_gpu_is_found_by_name_and_number(text, name, count):
    gpu = gpu_named(text)
    assert (gpu.name, gpu.count) == (name, count)


def test_a_t4_has_its_published_numbers():
    gpu = gpu_named("T4")
    assert (gpu.half_peak, gpu.single_peak, gpu.bandwidth) == (65 * TFLOPS, 8.1 * TFLOPS, 320 * GB)
    assert gpu.memory / 2**30 == pytest.approx(14.75, abs=0.01)


def test_a_gpu_is_read_from_memory_and_speeds():
    gpu = gpu_named("24GB:100TFLOPS:300.5GB/s:x2")
    assert (gpu.memory, gpu.half_peak, gpu.bandwidth, gpu.count) == (24 * GB, 100 * TFLOPS, 300.5 * GB, 2)
    assert gpu.single_peak == 12.5 * TFLOPS
    assert gpu.label == "24GB:100TFLOPS:300.5GB/s x 2"
    assert gpu_named("24GB:100TFLOPS:300GB/s").count == 1


@pytest.mark.parametrize("text", ["P100", "p100", "P100x2"])
def test_a_p100_is_told_why_it_cannot(text):
    with pytest.raises(UserError, match="no kernels for it .*T4 x2"):
        gpu_named(text)


@pytest.mark.parametrize("text", ["", "T5", "T4x0", "cpux2", "x2", "T4x-1", "nonsense"])
def test_an_unknown_name_gets_one_line_with_the_names(text):
    with pytest.raises(UserError, match="unknown.*T4, L4, A100, H100, cpu") as refused:
        gpu_named(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["24GB:100TFLOPS", "0GB:1TFLOPS:1GB/s", "24GB:0TFLOPS:1GB/s", "24:100:300", "1GB:1TFLOPS:1GB/s:x0", "a:b:c", ":"],
)
def test_numbers_that_cannot_be_read_get_one_line_with_the_syntax(text):
    with pytest.raises(UserError, match="expected numbers above 0 as MEMORYGB:SPEEDTFLOPS:BANDWIDTHGB/s") as refused:
        gpu_named(text)
    assert "\n" not in str(refused.value)
