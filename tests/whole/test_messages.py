"""The messages that people meet most: each says what was found, what there is instead, and what to do next."""

import shutil

import pytest

from kernel.__main__ import main
from kernel.banks.prompt_bank import RECORD
from kernel.models.weights_folder import MANIFEST


@pytest.fixture
def folder(tmp_path, image_folder, weights_folder, monkeypatch):
    """A folder with images, the miniature weights and a file of prompts, in which the commands are given."""
    monkeypatch.chdir(tmp_path)
    for name, target in (("images", image_folder), ("weights", weights_folder)):
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(target)
    (tmp_path / "prompts.csv").write_text("imgId,prompt\na,a red fish\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def said(command: str, capsys) -> str:
    """The one line on stderr of a command that fails, its placeholders filled in."""
    assert main(command.split()) == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


RUN = "run images --weights weights --out RUN"
MESSAGES = [
    # names: the valid ones, and the nearest
    (
        f"{RUN} --recipe baselin",
        ["unknown recipe 'baselin'", "did you mean 'baseline'", "Valid recipes: baseline, text"],
    ),
    ("describe images --weights weights --language kr", ["--language kr", "Valid: en, ko"]),
    (f"{RUN} --set num_beam=3", ["unknown setting 'num_beam'", "did you mean 'num_beams'", "captions_per_image"]),
    (f"{RUN} --set num_beams=three", ["num_beams=three", "expected int, such as 5"]),
    (f"{RUN} --set estimates.neighbors=0.5", ["unknown estimate 'neighbors'", "did you mean 'neighbours'", "head"]),
    (f"{RUN} --set captioner=blipp", ["captioner 'blipp'", "did you mean 'blip'", "blip2"]),
    (f"{RUN} --set modifiers.flavours=3", ["'flavours'", "did you mean 'flavors'", "mediums"]),
    ("plan --train --machines 8xL44", ["--machines 8xL44: unknown", "did you mean 'L4'", "H100", "such as 8xL4"]),
    ("plan --machines 8xL4", ["--machines 8xL4: a run needs one machine", "--bank-prompts N", "--train", "--gpu"]),
    ("plan --gpu T44", ["--gpu T44: unknown", "did you mean 'T4'", "H100"]),
    ("publish prompts --source difusiondb --out p.parquet", ["unknown source 'difusiondb'", "did you mean", "Valid:"]),
    # what is not there: where it was looked for, what lies beside it, which command makes it
    ("run images --weights wieghts --out RUN", ["wieghts", "not found", "did you mean 'weights'", "make weights"]),
    (f"{RUN} --bank bnak", ["bnak", "not found", "did you mean 'bank'", "python -m kernel bank"]),
    ("run picturs --weights weights --out RUN", ["picturs", "folder of images"]),
    ("run empty --weights weights --out RUN", ["empty", "no image"]),
    ("report empty", ["no finished run found", "python -m kernel run"]),
    ("check none.csv images", ["none.csv", "no such file"]),
    ("evaluate none.csv prompts.csv --weights weights", ["none.csv", "no such file"]),
    ("explain images/none.png --weights weights", ["none.png"]),
    ("bank none.txt --weights weights --out BANK", ["none.txt", "no such file"]),
    ("fit empty --weights weights --bank bank --out RUN", ["empty: no pair set", "prompts.csv (imgId,prompt)"]),
    ("train empty --weights weights --out RUN", ["empty: no pair set", "prompts.csv (imgId,prompt)"]),
    ("train empty --weights weights --out RUN --set epoch=3", ["unknown setting 'epoch'", "did you mean 'epochs'"]),
    ("train empty --weights weights --out RUN --set epochs=0", ["epochs is 0", "expected 1 to 1000"]),
    ("train empty --weights weights --out RUN --workers 2", ["--workers", "--engine ray", "torchrun"]),
    (
        "train empty --weights weights --out RUN --workers 2 --engine ray --address 127.0.0.1:9",
        ["--workers: a head is fitted by one process", "another --tier"],
    ),
    ("run s3://bucket/images --out RUN", ["s3://bucket/images: 'run' takes files and folders", "'bank' and 'train'"]),
    ("describe a.png s3://bucket/b.png", ["s3://bucket/b.png: 'describe' takes files and folders", "Fetch it first"]),
    (f"{RUN} --recipe pairs", ["asks an image encoder", "kernel train PAIRS", "--recipe text"]),
    # the machine
    (f"{RUN} --device tpu", ["tpu", "expected auto, cpu, cuda or cuda:N"]),
    (f"{RUN} --device cuda:7", ["cuda:7", "--device cpu"]),
    (f"{RUN} --deadline soon", ["'soon' is no time above 0", "8h30m"]),
    ("run images --weights weights --out weights", ["no run wrote it", "an empty or a new folder"]),
]


@pytest.mark.parametrize(("command", "parts"), MESSAGES, ids=[command for command, _ in MESSAGES])
def test_a_message_says_what_was_found_and_what_there_is(folder, capsys, command, parts):
    if "--bank bnak" in command or command.startswith("fit"):
        (folder / "bank").symlink_to(folder / "weights" / "prompt_bank")
    message = said(command, capsys)
    missing = [part for part in parts if part not in message]
    assert not missing, message


def test_a_recipe_without_its_bank_names_both_ways_on(folder, weights_folder, capsys):
    (folder / "weights").unlink()
    shutil.copytree(weights_folder, folder / "weights", ignore=shutil.ignore_patterns("prompt_bank"))
    manifest = folder / "weights" / MANIFEST
    from kernel.models.weights_folder import read_manifest, write_manifest

    known = read_manifest(manifest)
    write_manifest(folder / "weights", known.models, known.captioners)
    message = said(RUN, capsys)
    assert "prompt bank" in message and "python -m kernel bank" in message and "--recipe baseline" in message


def test_a_disk_that_is_too_small_is_said_beforehand_with_what_is_needed(folder, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 9 * 10**5, 10**5))
    message = said(RUN, capsys)
    assert "0.10 MB are free" in message and "a run over 6 images may write" in message and "Free " in message


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (
            "run images --wieghts weights --out RUN",
            ["unknown option --wieghts", "did you mean '--weights'", "--deadline"],
        ),
        ("run images more --out RUN", ["unexpected 'more'"]),
        ("train images --out RUN --workers 4:2", ["'4:2' is no number of workers", "such as 4, or 2:8"]),
        ("train images --out RUN --workers many", ["'many' is no number of workers"]),
        ("runn images --out RUN", ["invalid choice: 'runn'", "evaluate"]),
        ("run images", ["required: --out"]),
    ],
)
def test_wrong_usage_is_told_with_what_there_is(folder, capsys, command, parts):
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert not [part for part in parts if part not in message], message


def test_a_bank_is_known_by_its_record(weights_folder):
    assert (weights_folder / "prompt_bank" / RECORD).is_file()
