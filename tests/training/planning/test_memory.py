"""The memory of a training, planned beside measured: a ViT-S of true size on the CPU, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.config import TrainingSettings
from kernel.models.encoders.towers import timm_model
from kernel.training.planning.costs import tower_costs
from kernel.training.planning.memory import planned_training_memory
from tests.conftest import ROOT
from tests.training.planning.measured import ARCHITECTURE, SIZE

BATCH = 16
# freed memory goes back to the system at once, so that the peak is of what was needed together
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}


def test_the_formula_worked_by_hand():
    # 10 weights and their copy; of 5 the gradient and two moments; two pictures
    assert planned_training_memory(10, 5, batch=2, activation_bytes=100) == 80 + 60 + 200
    # in half precision a copy of the 5, and what two processes exchange
    assert planned_training_memory(10, 5, 2, 100, half=True, processes=2) == 80 + 60 + 200 + 10 + 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and sets glibc's malloc")
@pytest.mark.parametrize("tier", ["full", "blocks"])
def test_planned_memory_is_within_15_percent_of_measured(tier, tmp_path):
    tower = tower_costs("", SIZE, lambda: timm_model(ARCHITECTURE, SIZE, Path(ARCHITECTURE)), TrainingSettings())
    own = tower.tiers[tier]
    planned = planned_training_memory(tower.parameters, own.parameters, BATCH, own.activation_bytes)
    command = [sys.executable, "-m", "tests.training.planning.measured", str(tmp_path), tier, str(BATCH)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = int(done.stdout.split()[-1])
    print(f"{tier}: planned {planned / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB, {planned / measured:.3f}")
    assert planned == pytest.approx(measured, rel=0.15)
