"""What a CPU computes does not hang on where in memory its numbers came to lie: resumed runs end in the same bytes."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# a fresh process each, as MKL chooses at its first product; one row by a matrix is where it looks at the alignment
PRODUCTS = """
import torch
torch.manual_seed(0)
row, matrix = torch.randn(1, 384), torch.randn(384, 384)
answers = set()
for offset in range(16):
    memory = torch.empty(matrix.numel() + 32)
    first = -memory.data_ptr() // 4 % 16 + offset
    moved = memory[first : first + matrix.numel()].view(matrix.shape).copy_(matrix)
    answers.add((row @ moved.T).numpy().tobytes())
print(len(answers))
"""


@pytest.mark.parametrize("order", ["import kernel, torch", "import torch, kernel"])
def test_products_are_the_same_bytes_wherever_the_numbers_lie(order):
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    command = [sys.executable, "-c", f"{order}\n{PRODUCTS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1\n"
