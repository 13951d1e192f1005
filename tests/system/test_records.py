"""Any JSON in any place of a record is a valid record or one line that says what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.banks.encoding import read_choice, read_prompts
from kernel.banks.prompt_bank import BankRecord, Fusion, read_bank_record
from kernel.errors import UserError
from kernel.models.weights_folder import read_manifest
from kernel.pipeline.folder.run_folder import read_run
from kernel.publish.hub.pins import PINS, read_pins
from kernel.publish.kaggle.left_records import left_record
from kernel.publish.kaggle.push import Pushed
from kernel.publish.kaggle.submit import Submission
from kernel.system import records
from kernel.system.records import read_record

SHA256 = "0" * 64
FILE = {"path": "prompts.parquet", "bytes": 1, "sha256": SHA256}
MODEL = {"class": "CLIP", "source": "a/b", "revision": "main", "sha256": SHA256, "tokenizer": {"size": 1}}
BANK_FILES = [{**FILE, "path": name} for name in
              ("prompts.parquet", "head.safetensors", "clip.safetensors", "sentences.safetensors")]  # fmt: skip
PUSHED = {"kernel": "a/b", "version": 1, "before": 0, "url": "https://x", "code_sha256": SHA256,
          "content_sha256": SHA256, "commit": None, "recipe": "text", "status": None}  # fmt: skip
RECORDS: dict[str, tuple[dict, Callable[[Path], Any]]] = {
    "manifest.json": (
        {"format": 1, "models": {"clip": MODEL}, "captioners": ["clip"], "files": [FILE]},
        read_manifest,
    ),
    "bank.json": (
        {"format": 1, "clip": SHA256, "sentences": SHA256, "count": 3, "files": BANK_FILES, "dropped": {"empty": 1},
         "excluded": {"name": "a.csv", "sha256": SHA256}, "read": 4, "build": {"near": 0.9}},
        lambda path: read_bank_record(path.parent),
    ),
    "fusion.json": (
        {"format": 2, "clip": SHA256, "sentences": SHA256, "encoders": {"own": SHA256},
         "shares": {"text": {"prompts": 1.0}}},
        lambda path: read_record(path, Fusion, "fitted shares", "Fit again"),
    ),
    "00000.json": (["a cat"], lambda path: read_prompts(path.parent, 0)),
    "choice-00000.json": (
        {"seal": SHA256, "stays": [0], "equal": 0, "near": 0},
        lambda path: read_choice(path.parent, 0),
    ),
    "pins.json": (json.loads(PINS.read_text()), read_pins),
    "run.json": ({"identity": {"clip": {"files": 1}}, "counts": {"images": 3}}, lambda path: read_run(path.parent)),
    "push.json": (PUSHED, lambda path: left_record(path, Pushed)),
    "submission.json": (
        {"kernel": "a/b", "version": 1, "ref": 77, "status": "PENDING", "message": "m", "after": 0,
         "asked": "2026-11-28T12:00:00+00:00", "recipe": None, "commit": None},
        lambda path: left_record(path, Submission),
    ),
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def places(content: Any) -> list[tuple]:
    """Every place in a record, as keys from its top; the first is the whole."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else []
    return [(), *((key, *rest) for key, value in inner for rest in places(value))]


def put(content: Any, place: tuple, value: Any) -> Any:
    if not place:
        return value
    copy = content.copy()
    copy[place[0]] = put(content[place[0]], place[1:], value)
    return copy


def said(read: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as refused:
        read()
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_as_it_is_written_is_read(name, tmp_path):
    content, read = RECORDS[name]
    (tmp_path / name).write_text(json.dumps(content))
    assert read(tmp_path / name)


@pytest.mark.parametrize("name", RECORDS)
@settings(deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_is_a_record_or_one_line(name, tmp_path_factory, data):
    content, read = RECORDS[name]
    path = tmp_path_factory.getbasetemp() / name
    other = put(content, data.draw(st.sampled_from(places(content))), data.draw(JSON))
    path.write_text(json.dumps(other), encoding="utf-8")
    try:
        read(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"kernel":' * 5000, b'{"a": "\\ud800"}'])
@pytest.mark.parametrize("name", RECORDS)
def test_what_is_no_json_is_one_line(name, tmp_path, content):
    (tmp_path / name).write_bytes(content)
    assert "Invalid JSON" in said(lambda: RECORDS[name][1](tmp_path / name))


def test_every_wrong_key_is_named_with_what_was_found_and_expected(tmp_path):
    path = tmp_path / "push.json"
    path.write_text(json.dumps({**PUSHED, "version": "6", "kernel": None}))
    line = said(lambda: left_record(path, Pushed))
    assert "kernel is None: input should be a valid string" in line
    assert "version is '6': input should be a valid integer" in line


@pytest.mark.parametrize("value", [True, 1.5, "1", [1]])
def test_nothing_is_converted(tmp_path, value):
    path = tmp_path / "push.json"
    path.write_text(json.dumps({**PUSHED, "version": value}))
    assert f"version is {value!r}: input should be a valid integer" in said(lambda: left_record(path, Pushed))


def test_many_wrong_keys_are_counted(tmp_path):
    (tmp_path / "bank.json").write_text("{}")
    line = said(lambda: read_record(tmp_path / "bank.json", BankRecord, "a bank's record", "Make it again"))
    assert line.endswith("(format is missing; clip is missing; sentences is missing; and 4 more). Make it again")


def test_keys_of_a_newer_version_are_passed_over(tmp_path):
    path = tmp_path / "push.json"
    path.write_text(json.dumps({**PUSHED, "seen": 3}))
    assert left_record(path, Pushed) == PUSHED


def test_a_file_of_any_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MOST_BYTES", 2**20)
    (tmp_path / "push.json").write_bytes(b" " * (2**20 + 1))
    assert "more than 1 MiB" in said(lambda: left_record(tmp_path / "push.json", Pushed))


@pytest.mark.parametrize("share", ["NaN", "-1.0", "2"])
def test_shares_that_are_no_shares_are_refused(tmp_path, share):
    content = json.dumps(RECORDS["fusion.json"][0]).replace("1.0", share)
    (tmp_path / "fusion.json").write_text(content)
    assert "not to 1" in said(lambda: RECORDS["fusion.json"][1](tmp_path / "fusion.json"))
