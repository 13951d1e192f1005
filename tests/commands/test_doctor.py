"""What `doctor` finds on this machine, with folders that are right and wrong, and with parts that are not there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.__main__ import main
from kernel.commands import doctor
from kernel.commands.doctor import MISSING, OK, WRONG, Finding, can_start, examine
from kernel.models.encoders.into_weights import add_encoder
from kernel.models.weights_folder import MANIFEST
from kernel.system import versions
from kernel.system.versions import DECLARED
from tests.conftest import ROOT
from tests.models.encoders.by_hand import save_encoder

SECRET = "KGAT_0secret0"


def states(findings: list[Finding]) -> dict[str, str]:
    return {own.name: own.state for own in findings}


def said(findings: list[Finding], name: str) -> str:
    (own,) = [own.said for own in findings if own.name == name]
    return own


@pytest.fixture
def folder(tmp_path, weights_folder) -> Path:
    """A copy of the miniature weights that the test may break: its files are links until they are written anew."""
    return Path(shutil.copytree(weights_folder, tmp_path / "weights", copy_function=os.link))


def written_anew(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_what_is_whole_is_ok_and_a_run_can_start(weights_folder, capsys):
    assert main(["doctor", "--weights", str(weights_folder), "--deep"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in (OK, MISSING, WRONG) for line in lines[:-1])
    assert lines[-1] == "a run can start"
    of_run = {"python", *DECLARED, "device", "weights", "weights, clip", "weights, blip2", "weights, blip",
              "weights, matching", "weights, sentences", "recipe", "disk"}  # fmt: skip
    found = examine(weights_folder)
    assert {own.name for own in found if own.needed} == of_run
    assert {name for name, state in states(found).items() if state == OK} >= of_run


def test_json_is_one_object_and_nothing_else(weights_folder, capsys):
    assert main(["doctor", "--weights", str(weights_folder), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["ready"] is True
    assert {"name": "python", "state": "ok", "said": said(examine(weights_folder), "python"), "needed": True} in (
        content["findings"]
    )


def test_no_weights_are_missing_with_the_commands_that_make_them(tmp_path, capsys):
    assert main(["doctor", "--weights", str(tmp_path / "none")]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if " weights: " in line]
    assert line.startswith("missing  weights: ") and "make miniature" in line and "make weights" in line
    assert lines[-1].startswith("no run can start")
    assert not any("recipe" in line.split(":")[0] for line in lines)


def test_a_file_of_another_size_is_wrong(folder):
    written_anew(folder / "prior.txt", b"a fish\n")
    findings = examine(folder)
    assert states(findings)["weights"] == WRONG and not can_start(findings)
    assert "7 bytes, the manifest says" in said(findings, "weights")


def test_a_changed_byte_is_seen_by_a_deep_look_alone(folder):
    path = folder / "clip" / "open_clip_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    written_anew(path, bytes(content))
    shallow, deep = examine(folder), examine(folder, deep=True)
    assert states(shallow)["weights"] == OK and "--deep" in said(shallow, "weights")
    assert states(deep)["weights"] == WRONG and "differs from the manifest's" in said(deep, "weights")
    assert not can_start(deep)


def test_a_folder_without_a_model_that_every_run_needs_is_told(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    written_anew(folder / MANIFEST, json.dumps({**manifest, "captioners": []}).encode())
    findings = examine(folder)
    assert states(findings)["weights, a captioner"] == MISSING and not can_start(findings)


def without_bank(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    shutil.rmtree(folder / "prompt_bank")
    manifest["files"] = [own for own in manifest["files"] if not own["path"].startswith("prompt_bank/")]
    written_anew(folder / MANIFEST, json.dumps(manifest).encode())


def test_the_recipe_is_text_with_a_bank_and_baseline_without(folder):
    assert said(examine(folder), "recipe").startswith("text, with captions by blip2")
    without_bank(folder)
    findings = examine(folder)
    assert said(findings, "recipe").startswith("baseline, ") and "python -m kernel bank" in said(findings, "recipe")
    assert can_start(findings)


def test_a_bank_made_with_other_models_is_wrong(folder):
    path = folder / "prompt_bank" / "bank.json"
    content = path.read_bytes().replace(json.loads(path.read_text())["clip"].encode(), b"0" * 64)
    written_anew(path, content)
    findings = examine(folder)
    assert states(findings)["recipe"] == WRONG and "cannot be compared" in said(findings, "recipe")
    assert not can_start(findings)


def test_encoders_are_told_and_one_that_was_trained_for_other_models_is_wrong(folder, weights, tmp_path):
    add_encoder(folder, save_encoder(tmp_path / "vit", weights))
    findings = examine(folder)
    assert states(findings)["weights, encoders/vit"] == OK and can_start(findings)
    assert said(findings, "weights, encoders/vit").startswith(
        "CLIP's features, mean cosine 0.8125 on pictures held out"
    )
    path = folder / "encoders" / "vit" / "encoder.json"
    path.write_bytes(path.read_bytes().replace(weights.sha256("sentences").encode(), b"0" * 64))
    findings = examine(folder)
    assert states(findings)["weights, encoders/vit"] == WRONG and not can_start(findings)
    assert "trained with the MiniLM model 00000000..." in said(findings, "weights, encoders/vit")


def test_a_version_outside_its_range_is_wrong_and_one_that_is_not_there_missing(weights_folder, monkeypatch):
    found = {"torch": "2.5.1", "pandas": None, "numpy": "from source"}
    installed = versions.installed
    monkeypatch.setattr(versions, "installed", lambda name: found.get(name, installed(name)))
    findings = examine(weights_folder)
    assert (states(findings)["torch"], said(findings, "torch")) == (WRONG, "2.5.1, expected >=2.6. Run 'make setup'")
    assert states(findings)["pandas"] == MISSING and states(findings)["numpy"] == WRONG
    assert states(findings)["transformers"] == OK and not can_start(findings)
    found.clear()
    found["numpy"] = "from source"
    assert can_start(examine(weights_folder))


def test_a_folder_that_cannot_be_written_is_wrong(weights_folder, monkeypatch):
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc, in which nobody can make a file")
    monkeypatch.chdir("/proc/self")
    findings = examine(weights_folder)
    assert states(findings)["disk"] == WRONG and "/proc" in said(findings, "disk") and not can_start(findings)


def doctor_in(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *options, "-m", "kernel", "doctor"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_torch_that_cannot_be_imported_is_told_and_the_rest_still_looked_at(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file\\nmore')")
    done = doctor_in({"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr == ""
    (line,) = [line for line in done.stdout.splitlines() if " device: " in line]
    assert line.startswith("wrong    device: cannot be looked at (OSError: libcudart.so.13: cannot open shared")
    assert "make setup" in line and "more" not in line
    assert "ok       disk: " in done.stdout


def test_it_answers_where_nothing_is_installed():
    done = doctor_in({}, "-S")
    assert done.returncode == 1 and done.stderr == ""
    for line in (
        "missing  torch: not installed, expected >=2.6. Run 'make setup'",
        "missing  numpy: ",
        "ok       disk",
    ):
        assert line in done.stdout, done.stdout


@pytest.mark.parametrize("place", ["KAGGLE_API_TOKEN", "KAGGLE_KEY", "kaggle.json", "access_token"])
def test_no_secret_is_printed(place, tmp_path, weights_folder, monkeypatch, capsys):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_USERNAME", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if place.startswith("KAGGLE"):
        monkeypatch.setenv("KAGGLE_USERNAME", "jane-0secret0")
        monkeypatch.setenv(place, SECRET)
    else:
        (tmp_path / ".kaggle").mkdir()
        (tmp_path / ".kaggle" / place).write_text(json.dumps({"username": "jane-0secret0", "key": SECRET}))
    for more in ([], ["--json"]):
        assert main(["doctor", "--weights", str(weights_folder), *more]) == 0
    out, err = capsys.readouterr()
    assert "ok       Kaggle credentials: in " in out and place in out
    assert "0secret0" not in out + err


def test_no_credentials_stop_no_run(tmp_path, weights_folder, monkeypatch):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_USERNAME", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    findings = examine(weights_folder)
    assert states(findings)["Kaggle credentials"] == MISSING and can_start(findings)
    assert "KAGGLE_API_TOKEN" in said(findings, "Kaggle credentials")


def test_a_browser_is_found_by_any_of_its_names(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.browser() is None
    (tmp_path / "google-chrome").write_text("#!/bin/sh\n")
    (tmp_path / "google-chrome").chmod(0o755)
    assert doctor.browser() == str(tmp_path / "google-chrome")
