import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kernel.banks import build as module
from kernel.banks import encoding, selection
from kernel.banks.build import build_bank
from kernel.banks.near_duplicates import NearDuplicates
from kernel.banks.nearest import nearest, neighbour_estimate
from kernel.banks.prompt_bank import PromptBank
from kernel.config import BankSettings
from kernel.errors import UserError
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.workers.processes import WorkerProcess
from tests import warm
from tests.conftest import ROOT
from tests.engines import HERE, TWO

pytestmark = pytest.mark.usefixtures("warm_processes")


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
    monkeypatch.setattr(selection, "ROUND", 2)


def opened(folder, weights):
    return PromptBank.open(folder, weights.sha256("clip"), weights.sha256("sentences"))


def test_every_row_belongs_to_its_prompt(tmp_path, source, weights, cpu):
    build_bank(BankSettings([source], near=1.0), weights.folder, tmp_path / "bank", HERE)
    bank = opened(tmp_path / "bank", weights)
    held = bank.prompts(range(len(bank.features)))
    features = ClipEncoder.load(weights, cpu).encode_texts(held, 64)
    embeddings = SentenceEncoder.load(weights, cpu).encode(held, 64)
    assert np.abs(bank.features.astype(np.float32) - features).max() < 1e-3
    assert np.abs(bank.embeddings.astype(np.float32) - embeddings).max() < 1e-3


def test_near_duplicates_and_unusable_lines_are_dropped_and_counted(tmp_path, source, prompts, weights):
    source.write_text("\n".join([*prompts, prompts[0], "", "12345", prompts[1].upper()]) + "\n")
    record = build_bank(BankSettings([source], near=0.999), weights.folder, tmp_path / "bank", HERE)
    dropped = record["dropped"]
    assert (dropped["duplicate"], dropped["empty"], dropped["no letter"]) == (1, 1, 1)
    assert dropped["near duplicate"] >= 1  # MiniLM reads no capitals
    assert record["read"] == len(prompts) + 4 == record["count"] + sum(dropped.values())


def test_nothing_under_way_is_left(tmp_path, source, weights):
    build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", HERE)
    names = {"prompts.parquet", "clip.safetensors", "sentences.safetensors", "head.safetensors", "bank.json"}
    assert {path.name for path in (tmp_path / "bank").iterdir()} == names


def test_a_second_build_finds_the_bank_whole(tmp_path, source, weights, capfd, monkeypatch):
    first = build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", HERE)
    monkeypatch.setattr(module, "clean_stage", None)  # would fail when called
    assert build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", HERE) == first
    assert "nothing to do" in capfd.readouterr().err


def test_a_killed_build_goes_on_to_the_same_bank(tmp_path, source, weights):
    out = tmp_path / "killed"
    code = "import sys, kernel.banks.build as b, kernel.__main__ as m; b.SHARD = 50; sys.exit(m.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bank", str(source), "--weights", str(weights.folder), "--out", str(out)]
    process = warm.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (out / "building" / "clip-00000.safetensors").is_file() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "bank.json").exists()
    encoded = (out / "building" / "sentences-00000.safetensors").stat().st_mtime_ns
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "going on with the last build" in done.stderr
    assert encoded < (out / "bank.json").stat().st_mtime_ns
    build_bank(BankSettings([source]), weights.folder, tmp_path / "whole", HERE)
    for name in ("clip.safetensors", "sentences.safetensors", "head.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    killed, whole = opened(out, weights), opened(tmp_path / "whole", weights)
    assert killed.prompts(range(len(killed.features))) == whole.prompts(range(len(whole.features)))


COUNTING = """
import os, signal, sys
import kernel.banks.build as b, kernel.__main__ as m
from kernel.banks import selection
from kernel.banks.near_duplicates import NearDuplicates
from kernel.pipeline.workers.processes import WorkerProcess
from tests.engines import HERE, TWO
b.SHARD, selection.ROUND = 50, 1
compare, compared = NearDuplicates.keep, 0
def keep(self, rows):
    global compared
    if compared == {dies_after}:
        os.kill(os.getpid(), signal.SIGKILL)
    compared += 1
    return compare(self, rows)
NearDuplicates.keep = keep
code = m.main(sys.argv[1:])
print("compared", compared)
sys.exit(code)
"""


def test_a_build_killed_while_it_selects_compares_only_what_is_left(tmp_path, source, weights):
    """Three shards; the first process kills itself when it comes to the third one."""
    out = tmp_path / "killed"
    arguments = ["bank", str(source), "--weights", str(weights.folder), "--out", str(out), "--near", "0.7"]

    def built(dies_after: int | None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", COUNTING.format(dies_after=dies_after), *arguments]
        return warm.run(command, cwd=ROOT, capture_output=True, text=True)

    assert built(dies_after=2).returncode == -signal.SIGKILL
    again = built(dies_after=None)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "compared 1"
    build_bank(BankSettings([source], near=0.7), weights.folder, tmp_path / "whole", HERE)
    for name in ("clip.safetensors", "sentences.safetensors", "head.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    records = [json.loads((folder / "bank.json").read_text()) for folder in (out, tmp_path / "whole")]
    assert records[0]["dropped"] == records[1]["dropped"] and records[0]["dropped"]["near duplicate"] > 0


@pytest.fixture
def interrupted(tmp_path, source, prompts, weights, monkeypatch):
    """A build that ended when all was selected, and what it compares when it goes on."""
    scored = tmp_path / "scored.txt"
    scored.write_text(f"{prompts[3]}\n{prompts[70].upper()}\n")
    settings = BankSettings([source], None, scored, near=0.95)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "clip_stage", full)
        with pytest.raises(UserError, match="finished shards are kept"):
            build_bank(settings, weights.folder, tmp_path / "bank", HERE)
    compared = []
    really = NearDuplicates.keep
    monkeypatch.setattr(NearDuplicates, "keep", lambda self, rows: compared.append(len(rows)) or really(self, rows))
    return settings, compared


def test_a_build_that_goes_on_after_selection_compares_nothing_again(tmp_path, weights, interrupted):
    settings, compared = interrupted
    record = build_bank(settings, weights.folder, tmp_path / "bank", HERE)
    assert compared == []
    whole = build_bank(settings, weights.folder, tmp_path / "whole", HERE)
    assert (record["dropped"], record["excluded"]) == (whole["dropped"], whole["excluded"])
    assert record["excluded"]["equal"] == 1 and record["excluded"]["near"] >= 1


def test_a_choice_of_other_rows_is_made_again_with_all_after_it(tmp_path, weights, interrupted):
    settings, compared = interrupted
    path = encoding.rows_path(tmp_path / "bank" / "building", "sentences", 1)
    encoding.write_rows(path, encoding.read_rows(path)[::-1])
    build_bank(settings, weights.folder, tmp_path / "bank", HERE)
    assert len(compared) == 2


def test_two_devices_build_the_bank_of_one(tmp_path, source, weights, monkeypatch):
    """Two real processes on this CPU, each with a shard in hand from the start; the bank has the same bytes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []
    really = WorkerProcess.__init__
    monkeypatch.setattr(WorkerProcess, "__init__", lambda self, *given: started.append(self) or really(self, *given))
    build_bank(BankSettings([source], near=0.95), weights.folder, tmp_path / "two", TWO)
    assert len(started) == 7  # two a model, three of the two rounds of near duplicates; none was begun anew
    build_bank(BankSettings([source], near=0.95), weights.folder, tmp_path / "one", HERE)
    assert len(started) == 7
    for name in ("prompts.parquet", "clip.safetensors", "sentences.safetensors", "head.safetensors"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.fixture
def fault(tmp_path, monkeypatch):
    """Puts code into every worker process of a build; `first()` is True but once, in whatever process."""

    def put(code: str, function: str) -> None:
        site = SITE.format(code=code, function=function, marker=str(tmp_path / "marker"))
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(site)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    return put


SITE = """
import os, signal, sys
def first():
    try:
        os.close(os.open({marker!r}, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False
if "kernel.pipeline.workers.worker" in " ".join(sys.orig_argv):
    from kernel.models.sentences import SentenceEncoder
    really = {function}
    def disturbed(*arguments):
        {code}
        return really(*arguments)
    {function} = disturbed
"""


def test_what_a_killed_worker_had_in_hand_is_made_by_another(tmp_path, source, weights, fault, capfd):
    fault("if first(): os.kill(os.getpid(), signal.SIGKILL)", "SentenceEncoder.encode")
    record = build_bank(BankSettings([source], near=1.0), weights.folder, tmp_path / "bank", TWO)
    assert record["count"] == len(opened(tmp_path / "bank", weights).features)
    assert "killed by SIGKILL" in capfd.readouterr().err


def test_when_no_worker_makes_anything_the_build_ends_and_says_why(tmp_path, source, weights, fault):
    fault("raise RuntimeError('device-side assert')", "SentenceEncoder.encode")
    with pytest.raises(UserError, match="device-side assert.*run again"):
        build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", TWO)
    assert not (tmp_path / "bank" / "bank.json").exists()


def test_a_full_disk_is_told_as_such(tmp_path, source, weights, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kernel.banks.encoding.write_rows", full)
    with pytest.raises(UserError, match="cannot be written \\(No space left on device\\)"):
        build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", HERE)


def test_the_scored_prompts_stay_out_and_are_counted(tmp_path, source, prompts, weights):
    scored = tmp_path / "scored.csv"
    with scored.open("w", newline="") as file:
        csv.writer(file).writerows([("imgId", "prompt"), ("a", prompts[3]), ("b", prompts[70].upper())])
    record = build_bank(BankSettings([source], None, scored, near=1.0), weights.folder, tmp_path / "bank", HERE)
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
        build_bank(BankSettings([source], None, exclude, near=1.0), weights.folder, out, HERE)
        bank = opened(out, weights)
        indices, cosines = nearest(features, bank.features, 1, cpu)
        answer = neighbour_estimate(indices, cosines, bank.embeddings, "published", 1.0)
        scores[exclude] = float((answer * truth).sum(axis=1).mean())
    assert scores[None] > 0.999
    assert scores[scored] < 0.97


def test_another_threshold_starts_over(tmp_path, source, weights):
    build_bank(BankSettings([source], near=1.0), weights.folder, tmp_path / "bank", HERE)
    every = json.loads((tmp_path / "bank" / "bank.json").read_text())["count"]
    record = build_bank(BankSettings([source], near=0.7), weights.folder, tmp_path / "bank", HERE)
    assert record["count"] < every


def test_a_folder_of_something_else_is_not_touched(tmp_path, source, weights):
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no bank"):
        build_bank(BankSettings([source]), weights.folder, tmp_path / "bank", HERE)
    assert (tmp_path / "bank" / "thesis.txt").read_text() == "mine"


def test_files_without_a_usable_prompt_are_refused(tmp_path, weights):
    (tmp_path / "empty.txt").write_text("\n\n42\n")
    with pytest.raises(UserError, match="no usable prompt"):
        build_bank(BankSettings([tmp_path / "empty.txt"]), weights.folder, tmp_path / "bank", HERE)


def test_when_every_prompt_is_scored_it_says_so(tmp_path, source, weights):
    with pytest.raises(UserError, match="no prompt is left"):
        build_bank(BankSettings([source], None, source), weights.folder, tmp_path / "bank", HERE)


@pytest.mark.parametrize(("name", "words"), [("gone.csv", "no such file"), ("empty.txt", "nothing would be excluded")])
def test_scored_prompts_that_cannot_be_read_are_told_before_anything_is_made(tmp_path, source, weights, name, words):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=f"{name}: .*{words}"):
        build_bank(BankSettings([source], None, tmp_path / name), weights.folder, tmp_path / "bank", HERE)
    assert not (tmp_path / "bank").exists()


def test_one_prompt_makes_a_bank(tmp_path, weights):
    (tmp_path / "one.txt").write_text("a red fish on a hill\n")
    build_bank(BankSettings([tmp_path / "one.txt"]), weights.folder, tmp_path / "bank", HERE)
    assert opened(tmp_path / "bank", weights).prompts([0]) == ["a red fish on a hill"]


def test_the_cost_of_the_text_tower_is_said_beforehand(tmp_path, source, weights, capfd):
    build_bank(BankSettings([source], near=1.0), weights.folder, tmp_path / "bank", HERE)
    assert "prompts through CLIP's text tower at" in capfd.readouterr().err


def test_the_cost_of_vit_g_is_the_published_47_gflops():
    """302 M parameters in the blocks of ViT-g-14's text tower (24 layers of width 1,024), 77 tokens."""
    import open_clip
    import torch

    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-g-14"))
    assert module.text_tower_gflops(model) == pytest.approx(47, abs=1)


def test_the_prepared_weights_are_checked_before_anything_is_read(tmp_path, source):
    with pytest.raises(UserError, match="not found; expected a weights folder"):
        build_bank(BankSettings([source]), tmp_path / "none", tmp_path / "bank", HERE)
    assert not (tmp_path / "bank").exists()
