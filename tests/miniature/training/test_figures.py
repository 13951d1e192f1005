"""What the committed miniature models reach on 500 pictures never trained on."""

import json
import sys

import pytest

from tests import warm
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures(weights_folder):
    command = [sys.executable, "-m", "kernel.miniature.training.figures", "--json", "--weights", str(weights_folder)]
    return json.loads(warm.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def test_clip_finds_medium_movement_and_flavors(figures):
    assert figures["pictures"] >= 500
    assert figures["medium"] >= 0.95
    assert figures["movement"] >= 0.95
    assert figures["flavors_at_3"] >= 0.85


def test_blip2_names_the_subject_and_captions_exactly(figures):
    assert figures["blip2"]["subject"] >= 0.90
    assert figures["blip2"]["caption_exact"] >= 0.60


def test_the_true_caption_outranks_one_with_another_color_or_subject(figures):
    for head in ("itm", "itc"):
        assert figures["matching"][head]["color"] >= 0.90
        assert figures["matching"][head]["subject"] >= 0.90


def test_blip_names_the_subject_and_captions_exactly(figures):
    assert figures["blip"]["subject"] >= 0.90
    assert figures["blip"]["caption_exact"] >= 0.60
