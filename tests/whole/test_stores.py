"""`bank` and `train` by URLs of a real S3-speaking server, killed and gone on with from another machine's folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.banks import build, selection
from kernel.banks.build import build_bank
from kernel.config import BankSettings, TrainingSettings
from kernel.miniature.world.drawing import draw
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.miniature.world.grammar import scene_stream
from kernel.system.stores.seals import SEALS
from kernel.training import heads
from kernel.training.train import train
from tests import warm
from tests.conftest import ROOT
from tests.engines import HERE
from tests.s3_server import S3Server
from tests.training.sets import write_folder
from tests.whole.test_full_disk import mount  # noqa: F401  # a fixture

FILES = ("prompts.parquet", "clip.safetensors", "sentences.safetensors", "head.safetensors")
SHARD = 20
# the command line with small shards, that puts what is new at once, and ends itself before the call KILLED_AT, or the
# second such call where " again" stands behind it
COMMAND = f"""
import os, signal, sys, time
import kernel.__main__ as main
from kernel.banks import build, selection
from kernel.system.stores import outputs, store
from kernel.training import features, heads
build.SHARD = features.SHARD = {SHARD}
selection.ROUND, heads.STEPS, outputs.PUT_SECONDS = 8, 40, 0.01
called_before = set()
def killing(name, does):
    def called(self, of, *more):
        call = f"{{name}} {{of}}"
        if os.environ["KILLED_AT"] == call + " again" * (call in called_before):
            os.kill(os.getpid(), signal.SIGKILL)
        called_before.add(call)
        return does(self, of, *more)
    return called
if "building/" in os.environ["KILLED_AT"]:
    build.write_bank = lambda *_, **__: time.sleep(250)  # the kill comes meanwhile
for name in ("write", "put", "remove"):
    setattr(store.Store, name, killing(name, getattr(store.Store, name)))
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(dict.fromkeys(scene.prompt for scene in scenes(TEST_SEED, 160))) + "\n")
    return path


@pytest.fixture(scope="module")
def bank(prompts, weights, tmp_path_factory) -> dict[str, bytes]:
    """The files of the bank without a store."""
    out = tmp_path_factory.mktemp("local") / "bank"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SHARD", SHARD)
        patch.setattr(selection, "ROUND", 8)
        build_bank(BankSettings([prompts], near=0.95), weights.folder, out, HERE)
    return {name: (out / name).read_bytes() for name in (*FILES, "bank.json")}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    found = ((draw(scene, rng), scene.prompt) for scene, rng in scene_stream(TEST_SEED, 60))
    return write_folder(tmp_path_factory.mktemp("pairs") / "set", found)


@pytest.fixture
def url(s3, prompts) -> str:
    s3.files.put_file(str(prompts), f"{s3.bucket}/in/prompts.txt")
    return f"s3://{s3.bucket}"


@pytest.fixture
def run(s3, weights_folder) -> Callable[..., subprocess.CompletedProcess]:
    """A command of a machine whose mirror is a folder, killed before a call where one is named."""

    def ended(mirror: Path, *arguments: str, killed_at: str = "") -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", COMMAND, *arguments, "--weights", str(weights_folder), "--device", "cpu"]
        told = {**os.environ, **s3.environment, "KILLED_AT": killed_at}
        done = warm.run([*command, "--mirror", str(mirror)], cwd=ROOT, env=told, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (-signal.SIGKILL if killed_at else done.returncode), done.stderr
        return done

    return ended


def bank_arguments(url: str) -> list[str]:
    return ["bank", f"{url}/in/prompts.txt", "--out", f"{url}/out/bank", "--near", "0.95"]


def objects(s3: S3Server, prefix: str) -> dict[str, bytes]:
    """All that is there but seals."""
    start = f"{s3.bucket}/{prefix}/"
    return {
        path.removeprefix(start): s3.files.cat_file(path)
        for path in s3.files.find(start)
        if not path.startswith(start + SEALS)
    }


def assert_same(found: dict[str, bytes], bank: dict[str, bytes]) -> None:
    """Byte by byte, but for when it was made."""
    assert found.keys() == bank.keys()
    assert {name: found[name] for name in FILES} == {name: bank[name] for name in FILES}
    records = [json.loads(own["bank.json"]) for own in (found, bank)]
    assert all(record.pop("created") for record in records) and records[0] == records[1]


def test_a_bank_from_prompts_in_a_store_to_a_store_is_the_local_one(run, url, s3, bank, tmp_path):
    done = run(tmp_path / "mirror", *bank_arguments(url))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{url}/out/bank: ")
    assert_same(objects(s3, "out/bank"), bank)
    again = run(tmp_path / "another", *bank_arguments(url))
    assert again.returncode == 0 and "this very bank, whole; nothing to do" in again.stderr
    assert_same(objects(s3, "out/bank"), bank)


@pytest.mark.parametrize(
    "killed_at",
    ["put building/sentences-00003.safetensors",
     pytest.param("write .seals/building/choice-00001.json", marks=pytest.mark.slow),
     pytest.param("put clip.safetensors", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_killed_build_goes_on_on_another_machine(run, url, s3, bank, tmp_path, killed_at):
    run(tmp_path / "killed", *bank_arguments(url), killed_at=killed_at)
    left = objects(s3, "out/bank")
    assert "bank.json" not in left and killed_at.removeprefix("put ") not in left
    done = run(tmp_path / "another", *bank_arguments(url))
    assert done.returncode == 0 and "going on with what is there" in done.stderr, done.stderr
    assert "going on with the last build" in done.stderr
    assert_same(objects(s3, "out/bank"), bank)


@pytest.mark.slow
def test_a_damaged_object_is_made_again_and_somebody_elses_stays(run, url, s3, bank, tmp_path):
    run(tmp_path / "killed", *bank_arguments(url), killed_at="put clip.safetensors")
    damaged = f"{s3.bucket}/out/bank/building/sentences-00002.safetensors"
    s3.files.pipe(damaged, bytes(s3.files.info(damaged)["size"]))
    s3.files.pipe(f"{s3.bucket}/out/bank/notes.txt", b"of somebody else")
    done = run(tmp_path / "another", *bank_arguments(url))
    assert done.returncode == 0, done.stderr
    assert "building/sentences-00002.safetensors does not fit its seal; it is made again" in done.stderr
    assert "1 objects there are somebody else's and stay as they are, the first is notes.txt" in done.stderr
    found = objects(s3, "out/bank")
    assert found.pop("notes.txt") == b"of somebody else"
    assert_same(found, bank)


def test_a_place_with_other_objects_is_refused_before_anything_is_made(run, url, s3, tmp_path):
    s3.files.pipe(f"{s3.bucket}/out/bank/notes.txt", b"of somebody else")
    done = run(tmp_path, *bank_arguments(url))
    assert done.returncode == 1 and "holds 1 objects that no such command wrote" in done.stderr.splitlines()[-1]
    assert objects(s3, "out/bank") == {"notes.txt": b"of somebody else"}


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_another_machine_goes_on(run, url, s3, bank, tmp_path, mount):  # noqa: F811
    done = run(mount(160 * 2**10), *bank_arguments(url))
    assert done.returncode == 1 and "No space left on device" in done.stderr.splitlines()[-1], done.stderr
    left = objects(s3, "out/bank")
    assert "building/cleaned.json" in left and "bank.json" not in left
    done = run(tmp_path / "another", *bank_arguments(url))
    assert done.returncode == 0 and "going on with what is there" in done.stderr
    assert_same(objects(s3, "out/bank"), bank)


TRAININGS = [
    ("head", {}, "put split.json"),
    pytest.param("blocks", {"epochs": 4, "batch": 10, "workers": 0, "average": 0.9},
                 f"write {SEALS}training/checkpoint.safetensors again", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("tier", "settings", "killed_at"), TRAININGS)
def test_a_killed_training_goes_on_on_another_machine(
    run, url, s3, pairs, weights, tmp_path, monkeypatch, tier, settings, killed_at
):
    monkeypatch.setattr(heads, "STEPS", 40)
    own = TrainingSettings(**settings)
    expected = train(pairs, weights.folder, tmp_path / "local", tier=tier, settings=own, device="cpu")
    for path in pairs.rglob("*.*"):
        s3.files.put_file(str(path), f"{s3.bucket}/in/pairs/{path.relative_to(pairs)}")
    told = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    arguments = ["train", f"{url}/in/pairs", "--out", f"{url}/out/own", "--tier", tier, *told]
    run(tmp_path / "killed", *arguments, killed_at=killed_at)
    left = objects(s3, "out/own")
    assert any("/prompts-" in name for name in left) and "encoder.json" not in left
    assert ("training/checkpoint.safetensors" in left) == (tier != "head")
    done = run(tmp_path / "another", *arguments)
    assert done.returncode == 0 and "going on with what is there" in done.stderr, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{url}/out/own: ")
    found = objects(s3, "out/own")
    assert json.loads(found["encoder.json"]) == json.loads(json.dumps(expected))
    for name in ("model.safetensors", "split.json"):
        assert found[name] == (tmp_path / "local" / name).read_bytes()
