import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kernel import build_bank as module
from kernel.build_bank import build_bank
from kernel.clip import ClipEncoder
from kernel.config import BankSettings
from kernel.errors import UserError
from kernel.miniature.pictures import scenes
from kernel.neighbours import nearest, neighbour_estimate
from kernel.prompt_bank import PromptBank
from kernel.sentences import SentenceEncoder
from tests.conftest import ROOT, TEST_SEED


@pytest.fixture(scope="module")
def prompts():
    return list(dict.fromkeys(scene.prompt for scene in scenes(TEST_SEED, 300)))[:120]


@pytest.fixture
def source(tmp_path, prompts):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts) + "\n")
    return path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 50)


def opened(folder, weights):
    return PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))


def test_every_row_belongs_to_its_prompt(tmp_path, source, weights, cpu):
    build_bank(BankSettings([source], near=1.0), weights.folder, tmp_path / "bank", "cpu")
    bank = opened(tmp_path / "bank", weights)
    held = bank.prompts(range(len(bank.features)))
    features = ClipEncoder.load(weights, cpu).encode_texts(held, 64)
    embeddings = SentenceEncoder.load(weights, cpu).encode(held, 64)
    assert np.abs(bank.features.astype(np.float32) - features).max() < 1e-3
    assert np.abs(bank.embeddings.astype(np.float32) - embeddings).max() < 1e-3


def test_near_duplicates_and_unusable_lines_are_dropped_and_counted(tmp_path, source, prompts, weights):
    source.write_text("\n".join([*prompts, prompts[0], "", "12345", prompts[1].upper()]) + "\n")
    record = build_bank(BankSettings([source], near=0.999), weights.folder, tmp_path / "bank", "cpu")
    dropped = record["dropped"]
    assert (dropped["duplicate"], dropped["empty"], dropped["no letter"]) == (1, 1, 1)
    assert dropped["near duplicate"] >= 1  # MiniLM reads no capitals
    assert record["read"] == len(prompts) + 4 == record["count"] + sum(dropped.values())


def test_nothing_under_way_is_left(tmp_path, source, weights):
    build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", "cpu")
    names = {"prompts.parquet", "clip.safetensors", "sentences.safetensors", "head.safetensors", "bank.json"}
    assert {path.name for path in (tmp_path / "bank").iterdir()} == names


def test_a_second_build_finds_the_bank_whole(tmp_path, source, weights, capfd, monkeypatch):
    first = build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", "cpu")
    monkeypatch.setattr(module, "clean_stage", None)  # would fail when called
    assert build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", "cpu") == first
    assert "nothing to do" in capfd.readouterr().err


def test_a_killed_build_goes_on_to_the_same_bank(tmp_path, source, weights):
    out = tmp_path / "killed"
    code = "import sys, kernel.build_bank as b, kernel.__main__ as m; b.SHARD = 50; sys.exit(m.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bank", str(source), "--weights", str(weights.folder), "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (out / "building" / "clip-00000.safetensors").is_file() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "bank.json").exists()
    encoded = (out / "building" / "sentences-00000.safetensors").stat().st_mtime_ns
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "going on with the last build" in done.stderr
    assert encoded < (out / "bank.json").stat().st_mtime_ns
    build_bank(BankSettings([source]), weights.folder, tmp_path / "whole", "cpu")
    for name in ("clip.safetensors", "sentences.safetensors", "head.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    killed, whole = opened(out, weights), opened(tmp_path / "whole", weights)
    assert killed.prompts(range(len(killed.features))) == whole.prompts(range(len(whole.features)))


def test_the_scored_prompts_stay_out_and_are_counted(tmp_path, source, prompts, weights):
    scored = tmp_path / "scored.csv"
    with scored.open("w", newline="") as file:
        csv.writer(file).writerows([("imgId", "prompt"), ("a", prompts[3]), ("b", prompts[70].upper())])
    record = build_bank(BankSettings([source], None, scored, near=1.0), weights.folder, tmp_path / "bank", "cpu")
    bank = opened(tmp_path / "bank", weights)
    held = bank.prompts(range(len(bank.features)))
    assert prompts[3] not in held and prompts[70] not in held
    assert record["excluded"]["equal"] == 1
    assert record["excluded"]["near"] >= 1
    assert record["count"] + sum(record["dropped"].values()) + record["excluded"]["equal"] + record["excluded"][
        "near"
    ] == len(prompts)


def test_a_bank_that_holds_the_scored_prompts_inflates_the_score_and_the_guard_ends_that(
    tmp_path, source, prompts, weights, cpu
):
    """The nearest prompt's vector as the answer, on texts' own features: planted prompts are found, unless guarded."""
    scored = tmp_path / "scored.txt"
    scored.write_text("\n".join(prompts[:20]) + "\n")
    features = ClipEncoder.load(weights, cpu).encode_texts(prompts[:20], 64)
    truth = SentenceEncoder.load(weights, cpu).encode(prompts[:20], 64)
    scores = {}
    for exclude in (None, scored):
        out = tmp_path / f"bank-{exclude is None}"
        build_bank(BankSettings([source], None, exclude, near=1.0), weights.folder, out, "cpu")
        bank = opened(out, weights)
        indices, cosines = nearest(features, bank.features, 1, cpu)
        answer = neighbour_estimate(indices, cosines, bank.embeddings, "published", 1.0)
        scores[exclude] = float((answer * truth).sum(axis=1).mean())
    assert scores[None] > 0.999
    assert scores[scored] < 0.97


def test_another_threshold_starts_over(tmp_path, source, weights):
    build_bank(BankSettings([source], near=1.0), weights.folder, tmp_path / "bank", "cpu")
    every = json.loads((tmp_path / "bank" / "bank.json").read_text())["count"]
    record = build_bank(BankSettings([source], near=0.7), weights.folder, tmp_path / "bank", "cpu")
    assert record["count"] < every


def test_a_folder_of_something_else_is_not_touched(tmp_path, source, weights):
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no bank"):
        build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", "cpu")
    assert (tmp_path / "bank" / "thesis.txt").read_text() == "mine"


def test_files_without_a_usable_prompt_are_refused(tmp_path, weights):
    (tmp_path / "empty.txt").write_text("\n\n42\n")
    with pytest.raises(UserError, match="no usable prompt"):
        build_bank(BankSettings([tmp_path / "empty.txt"]), weights.folder, tmp_path / "bank", "cpu")


def test_when_every_prompt_is_scored_it_says_so(tmp_path, source, weights):
    with pytest.raises(UserError, match="no prompt is left"):
        build_bank(BankSettings([source], None, source), weights.folder, tmp_path / "bank", "cpu")


def test_one_prompt_makes_a_bank(tmp_path, weights):
    (tmp_path / "one.txt").write_text("a red fish on a hill\n")
    build_bank(BankSettings([tmp_path / "one.txt"]), weights.folder, tmp_path / "bank", "cpu")
    assert opened(tmp_path / "bank", weights).prompts([0]) == ["a red fish on a hill"]


def test_the_cost_of_the_text_tower_is_said_beforehand(tmp_path, source, weights, capfd):
    build_bank(BankSettings([source], near=1.0), weights.folder, tmp_path / "bank", "cpu")
    assert "prompts through CLIP's text tower at" in capfd.readouterr().err


def test_the_cost_of_vit_g_is_the_published_47_gflops():
    """302 M parameters in the blocks of ViT-g-14's text tower (24 layers of width 1,024), 77 tokens."""
    import open_clip
    import torch

    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-g-14"))
    clip = ClipEncoder(model, None, None, None)
    assert module.text_tower_gflops(clip) == pytest.approx(47, abs=1)


def test_the_prepared_weights_are_checked_before_anything_is_read(tmp_path, source):
    with pytest.raises(UserError, match="not found; expected a weights folder"):
        build_bank(BankSettings([source]), tmp_path / "none", tmp_path / "bank", "cpu")
    assert not (tmp_path / "bank").exists()
