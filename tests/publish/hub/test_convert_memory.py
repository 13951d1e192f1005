"""What takes minutes: the memory of the conversion, on gigabytes made for the purpose."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kernel.publish.hub.convert import write_checkpoint
from kernel.system.tensor_files import Tensor
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

MEASURED = """
import sys
from pathlib import Path
from kernel.publish.hub import convert
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
for source, target in zip(sys.argv[2::2], sys.argv[3::2]):
    getattr(convert, sys.argv[1])(Path(source), Path(target))
print(before, peak())
"""


def measured(function: str, *paths: Path) -> tuple[int, int]:
    """Peak resident bytes of a process of its own, before and after: /proc counts from its start, getrusage not."""
    command = [sys.executable, "-c", MEASURED, function, *map(str, paths)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    before, after = map(int, output.split())
    return before, after


def random_blocks(tensor: Tensor):
    rng = np.random.default_rng(len(tensor.name))
    for start in range(0, tensor.bytes, 2**26):
        yield (rng.random(min(2**26, tensor.bytes - start) // 4, dtype=np.float32) - 0.5).tobytes()


def test_memory_stays_small_for_gigabytes_of_shards(tmp_path):
    """4.5 GB in two shards, with matrices of flan-T5-xl's sizes; the bound of the real 15.8 GB is 2 GB."""
    shapes = [[(32128, 2048)] * 4 + [(5120, 2048)] * 30, [(32128, 2048)] * 4 + [(2048, 5120)] * 28]
    sources = [tmp_path / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for source, shard in zip(sources, shapes, strict=True):
        tensors = [Tensor(f"language_model.{index}.weight", "F32", shape) for index, shape in enumerate(shard)]
        write_checkpoint(source, tensors, random_blocks)
    size = sum(source.stat().st_size for source in sources)
    assert size > 4 * 10**9
    paths = [path for source in sources for path in (source, tmp_path / f"half-{source.name}")]
    try:
        before, after = measured("convert_safetensors", *paths)
        assert (tmp_path / f"half-{sources[0].name}").stat().st_size < 0.51 * sources[0].stat().st_size
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    print(f"{size / 1e9:.1f} GB: peak {after / 1e6:.0f} MB, {(after - before) / 1e6:.0f} MB above Python's own")
    assert after - before < 10**9


def test_memory_stays_small_for_a_pickle_of_gigabytes(tmp_path):
    """2 GB through torch's mapped reading; torch itself counts as ours here."""
    torch.save({f"w{index}": torch.rand(4096, 4096) for index in range(32)}, tmp_path / "source.bin")
    size = (tmp_path / "source.bin").stat().st_size
    try:
        before, after = measured("convert_pickle", tmp_path / "source.bin", tmp_path / "target.safetensors")
    finally:
        for name in ("source.bin", "target.safetensors"):
            (tmp_path / name).unlink(missing_ok=True)
    print(f"{size / 1e9:.1f} GB: peak {after / 1e6:.0f} MB, {(after - before) / 1e6:.0f} MB above Python's own")
    assert size > 2 * 10**9 and after - before < 1.5 * 10**9
