"""Whatever lies where a file or a folder is expected, each reader ends at once: with an answer, or one line that names
the place and says why not."""

import faulthandler
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.__main__ import main
from kernel.banks.build import scored_prompts
from kernel.banks.encoding import read_choice
from kernel.banks.encoding import read_prompts as read_shard
from kernel.banks.prompt_bank import read_bank_record
from kernel.banks.prompt_files import SUFFIXES, count_prompts
from kernel.banks.word_banks import read_phrases
from kernel.errors import UserError
from kernel.estimates.constant import constant_row
from kernel.evaluation.evaluate import read_prompts
from kernel.interrogator.request import Request
from kernel.pipeline.folder.run_folder import read_run
from kernel.pipeline.images import list_images
from kernel.pipeline.submission import check_submission, read_submission
from kernel.publish.hub.items import finished_files
from kernel.publish.hub.prompts import left_record
from tests.banks.test_prompt_files_of_others import PIECES

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{f"prompts{suffix}": (f"prompts{suffix}", lambda path: count_prompts([path])) for suffix in SUFFIXES},
    "scored prompts": ("scored.csv", scored_prompts),
    "word list": ("words.txt", read_phrases),
    "prior": ("prior.txt", lambda path: constant_row(path.parent, lambda: pytest.fail("MiniLM was loaded"))),
    "submission": ("submission.csv", read_submission),
    "submission to check": ("submission.csv", lambda path: check_submission(path, ["a"])),
    "true prompts": ("prompts.csv", read_prompts),
    "bank": ("bank.json", lambda path: read_bank_record(path.parent)),
    "run": ("run.json", lambda path: read_run(path.parent)),
    "shard of prompts": ("00000.json", lambda path: read_shard(path.parent, 0)),
    "choice of prompts": ("choice-00000.json", lambda path: read_choice(path.parent, 0)),
    "request": ("request.json", lambda path: Request.read(path.parent)),
    "images": ("images", list_images),
}
DEEP = b"[" * 100_000
HEADERS = [b"imgId,prompt\n", b"imgId_eId,val\n", b"a_0,1\n", b"{", b":", b'"identity"', b"\xff\xfe\0\0"]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless_link(path: Path) -> None:
    path.symlink_to(path.name)


def forbidden_file(path: Path) -> None:
    path.touch(mode=0)


def forbidden_folder(path: Path) -> None:
    path.mkdir(mode=0)


def nothing(path: Path) -> None: ...


NOTHING = (nothing, endless_link)
NO_FILES = (*NOTHING, pipe, unix_socket, device, forbidden_file, forbidden_folder)


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """Nothing here waits for what never comes: not even Arrow, which no signal wakes."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read(path)
    assert str(refused.value).isprintable() and str(path) in str(refused.value)
    return str(refused.value)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("reader", "make"),
    # without a run.json a folder is one in which no run was begun
    [(reader, make) for reader in READERS for make in NO_FILES if reader != "run" or make not in NOTHING],
)
def test_what_is_no_file_is_refused_in_one_line(tmp_path, reader, make):
    name, read = READERS[reader]
    make(tmp_path / name)
    refusal(read, tmp_path / name)


@pytest.mark.parametrize("content", [b"", DEEP, b"\0" * 5000, b"\xff" * 5000], ids=["empty", "deep", "zeros", "ones"])
@pytest.mark.parametrize("reader", [reader for reader in READERS if reader != "images"])
def test_a_file_of_no_meaning_is_refused_in_one_line_where_it_has_none(tmp_path, reader, content):
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(content)
    try:
        assert read(tmp_path / name) in (0, 1)
        assert name == "prompts.txt"  # a line is a prompt, whatever stands in it
    except UserError as error:
        assert str(error).isprintable() and str(tmp_path / name) in str(error)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in ("images", "prior")])
@settings(deadline=None, max_examples=50)
@given(content=st.lists(st.sampled_from([*PIECES, *HEADERS]) | st.binary(max_size=8), max_size=12).map(b"".join))
def test_any_bytes_are_read_or_refused_in_one_line(reader, tmp_path_factory, content):
    name, read = READERS[reader]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        read(path)
    except UserError as error:
        assert str(error).isprintable() and str(path) in str(error)


def test_a_deep_record_of_weights_under_way_says_what_to_remove(tmp_path):
    (tmp_path / "record.json").write_bytes(DEEP)
    said = refusal(lambda path: finished_files(path.parent, []), tmp_path / "record.json")
    assert f"Remove {tmp_path} and run again" in said


@pytest.mark.parametrize("make", NO_FILES)
def test_what_is_no_record_of_a_sample_is_none(tmp_path, make):
    make(tmp_path / "prompts.parquet.json")
    assert left_record(tmp_path / "prompts.parquet") is None


def test_a_deep_record_of_a_sample_is_none(tmp_path):
    (tmp_path / "prompts.parquet.json").write_bytes(DEEP)
    assert left_record(tmp_path / "prompts.parquet") is None


# what a user may not read or write, by the commands


@pytest.fixture
def forbidden(tmp_path, image_folder, weights_folder, monkeypatch) -> Path:
    """A folder with `images` and `weights`, and what may be neither read nor written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(weights_folder)
    for name in ("closed", "words.txt"):
        (tmp_path / name).mkdir() if name == "closed" else (tmp_path / name).write_text("a cat\n")
        (tmp_path / name).chmod(0)
    (tmp_path / "ours").mkdir(mode=0o500)
    return tmp_path


@pytest.mark.usefixtures("as_a_user", "forbidden")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run closed --weights weights --out RUN", "closed: cannot be listed (Permission denied)"),
        ("describe closed --weights weights", "closed: cannot be listed (Permission denied)"),
        ("check none.csv closed", "closed: cannot be listed (Permission denied)"),
        ("constant closed --weights weights --out a.csv", "closed: cannot be listed (Permission denied)"),
        ("constant images --weights weights --out ours/a.csv", "ours/a.csv: cannot be written (Permission denied)"),
        ("describe images --weights weights --words words.txt", "words.txt: cannot be read (Permission denied)"),
        ("run images --weights weights --out RUN --set modifiers.words.txt=1", "words.txt: cannot be read (Permission"),
        ("describe images --weights weights --mode negative --words a.txt --features ours/a",
         "ours/a: cannot be written (Permission denied); give --features"),
        ("bank words.txt --weights weights --out BANK", "words.txt: cannot be read (Permission denied)"),
    ],
)  # fmt: skip
def test_what_a_user_may_not_is_one_line_and_what_to_do(command, words, capsys):
    Path("a.txt").write_text("a cat\n")
    assert main(command.split()) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[-1].startswith(f"error: {words}")
    assert "Traceback" not in captured.err
