"""Which files are taken of a repository, and what pins.json must look like."""

import json
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.hub.pins import PINS, Catalogue, FileChoice, needed_files, pinned_repositories, read_pins

BLOB = {"bytes": 1, "blob": "0" * 40}


@pytest.fixture
def pins(tmp_path) -> Path:
    """A copy of the committed pins, to be changed."""
    path = tmp_path / "pins.json"
    path.write_bytes(PINS.read_bytes())
    return path


def repin(pins: Path, model: str, **changes: object) -> None:
    content = json.loads(pins.read_text())
    content["repositories"][model].update(changes)
    pins.write_text(json.dumps(content))


def test_the_committed_pins_are_read_and_name_four_repositories():
    assert {model: repository.name.split("/")[0] for model, repository in read_pins(PINS).items()} == {
        "clip": "laion", "blip2": "Salesforce", "blip": "Salesforce", "sentences": "sentence-transformers"}  # fmt: skip


def test_the_committed_sha256_is_the_scorers(weights_folder):
    pinned = read_pins(PINS)["sentences"].files["model.safetensors"]
    assert pinned.hash == pinned.hash_of(weights_folder / "sentences" / "model.safetensors")


def test_gits_hash_of_a_known_file_is_gits(tmp_path):
    from kernel.publish.hub.pins import PinnedFile

    # what `git hash-object` says of a file that holds "hello" and a line feed
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert PinnedFile(6, blob="0" * 40).hash_of(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_safetensors_file_is_preferred_to_a_pickle():
    names = ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "open_clip_config.json"]
    assert needed_files("clip", names) == ["open_clip_config.json", "open_clip_model.safetensors"]


def test_a_pickle_is_taken_where_there_is_nothing_else():
    names = ["open_clip_pytorch_model.bin", "pytorch_model.bin", "model.safetensors", "open_clip_config.json"]
    assert needed_files("clip", names) == ["open_clip_config.json", "open_clip_pytorch_model.bin"]


@pytest.mark.parametrize("model", ["blip2", "blip", "sentences"])
def test_no_pickle_is_taken_of_the_others(model):
    names = ["config.json", "modules.json", "1_Pooling/config.json", "pytorch_model.bin"]
    with pytest.raises(ValueError, match="it has no model.safetensors and no shards of it"):
        needed_files(model, names)


def test_shards_are_taken_in_order():
    names = ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "config.json"]
    assert needed_files("blip2", names)[1:] == sorted(names[:2])


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_incomplete_shards_are_refused(missing):
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3) if number != missing]
    with pytest.raises(ValueError, match="its shards are incomplete"):
        needed_files("blip2", ["config.json", *names])


@pytest.mark.parametrize("files", [{}, {"model.safetensors": BLOB}, {"config.json": BLOB}])
def test_unpinned_files_stop_with_the_command_that_pins_them(pins, files):
    repin(pins, "blip2", files=files)
    with pytest.raises(UserError, match=r"are not pinned .*Run 'python -m kernel publish weights --pin' first"):
        pinned_repositories(pins, ["blip2"])


def test_only_the_models_asked_for_must_be_pinned(pins):
    repin(pins, "blip", files={"config.json": BLOB, "model.safetensors": BLOB})
    assert list(pinned_repositories(pins, ["blip"])) == ["blip"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../outside.json", "/etc/passwd"])
def test_a_pinned_file_that_is_not_needed_is_refused(pins, name):
    repin(pins, "blip2", files={"config.json": BLOB, "model.safetensors": BLOB, name: BLOB})
    with pytest.raises(UserError, match=f"lists {name} of Salesforce/blip2-flan-t5-xl, which is not needed"):
        pinned_repositories(pins, ["blip2"])


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": "main"},
        {"revision": "15efd0f"},
        {"files": {"config.json": {"bytes": 1}}},
        {"files": {"config.json": {"bytes": "1", "blob": "0" * 40}}},
        {"files": {"config.json": {"bytes": 1, "sha256": "0" * 40}}},
        {"files": {"config.json": {"bytes": -5, "blob": "0" * 40}}},
        {"files": {"config.json": {"bytes": 1e30, "blob": "0" * 40}}},
        {"files": {"config.json": {"bytes": 2**40 + 1, "blob": "0" * 40}}},
        {"files": []},
    ],
)
def test_pins_of_another_shape_are_refused(pins, changes):
    repin(pins, "clip", **changes)
    with pytest.raises(UserError, match="pins.json: not the pins of the repositories"):
        read_pins(pins)


def test_a_null_revision_is_one_to_be_asked_for_and_has_no_files(pins):
    repin(pins, "clip", revision=None)
    assert read_pins(pins)["clip"].revision == ""
    repin(pins, "clip", files={"open_clip_config.json": BLOB})
    with pytest.raises(UserError, match="revision None is no commit of 40 hex digits"):
        read_pins(pins)


def test_files_known_by_name_must_all_be_there_and_no_others_are_taken():
    files = Catalogue("x", "dataset", "pin", {"a": FileChoice(("one.parquet", "two.parquet"), weights=())})
    assert needed_files("a", ["three.parquet", "two.parquet", "one.parquet"], files) == ["one.parquet", "two.parquet"]
    with pytest.raises(ValueError, match="it has no two.parquet"):
        needed_files("a", ["one.parquet"], files)


def test_missing_pins_are_named(tmp_path):
    with pytest.raises(UserError, match=r"pins.json: cannot be read \(No such file or directory\)"):
        read_pins(tmp_path / "pins.json")
