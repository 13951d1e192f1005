import hashlib
import json
import os
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kernel.errors import UserError
from kernel.models import weights_folder
from kernel.models.tokenizers import KNOWN_SENTENCE, check_tokenizer, tokenizer_record
from kernel.models.weights_folder import MANIFEST, open_weights, write_manifest
from kernel.system import files
from kernel.system.files import file_sha256
from kernel.system.tensor_files import Tensor
from tests.system.test_tensor_files import entry, put

MODELS = {
    name: {"class": name.title(), "source": f"somewhere/{name}", "revision": "1"}
    for name in ("clip", "blip2", "blip", "sentences")
}
CAPTIONERS = ["blip2", "blip"]
FILES = {
    "clip/open_clip_config.json": "{}",
    "captioners/blip2/config.json": '{"a": 1}',
    "captioners/blip/config.json": '{"b": 1}',
    "sentences/config.json": '{"c": 1}',
    "sentences/spiece.model": "pieces",
    "word_banks/mediums.txt": "a woodcut\n",
    "prior.txt": "a cat\n",
}
TENSORS = "clip/open_clip_model.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small weights folder with its manifest."""
    folder = tmp_path / "weights"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    save_file({"w": np.arange(4, dtype=np.float32)}, folder / TENSORS)
    write_manifest(folder, MODELS, CAPTIONERS)
    return folder


def manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


def change_manifest(folder: Path, **changes: object) -> None:
    (folder / MANIFEST).write_text(json.dumps({**manifest(folder), **changes}))


def change_entry(folder: Path, name: str, **changes: object) -> None:
    """Other values in the manifest's entry of one file."""
    entries = manifest(folder)["files"]
    change_manifest(folder, files=[{**entry, **changes} if entry["path"] == name else entry for entry in entries])


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        open_weights(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_folder_as_its_manifest_says_opens(folder):
    weights = open_weights(folder)
    assert (weights.folder, set(weights.models), weights.captioners) == (folder, set(MODELS), CAPTIONERS)


def test_a_folder_reached_by_a_link_opens(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert open_weights(tmp_path / "link").captioners == CAPTIONERS


@pytest.mark.parametrize(
    ("name", "where"),
    [("clip", "clip"), ("sentences", "sentences"), ("blip2", "captioners/blip2"), ("blip", "captioners/blip")],
)
def test_a_models_folder_is_its_name_and_captioners_lie_together(folder, name, where):
    assert open_weights(folder).model_folder(name) == folder / where


def test_a_models_sha256_is_the_manifests(folder):
    assert open_weights(folder).sha256("clip") == manifest(folder)["models"]["clip"]["sha256"]


# the manifest


def test_write_manifest_lists_every_file_with_its_size_and_sha256(folder):
    found = {entry["path"]: (entry["bytes"], entry["sha256"]) for entry in manifest(folder)["files"]}
    contents = {name: (folder / name).read_bytes() for name in [*FILES, TENSORS]}
    assert found == {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()}


def test_a_manifest_whose_writing_breaks_off_leaves_the_one_before(folder, monkeypatch):
    before = (folder / MANIFEST).read_bytes()
    really = {name: getattr(Path, name) for name in ("write_text", "write_bytes")}

    def broken(name: str):
        def write(path: Path, content, **settings: object) -> None:
            really[name](path, content[:10], **settings)
            raise OSError(28, "No space left on device")

        return write

    for name in really:
        monkeypatch.setattr(Path, name, broken(name))
    with pytest.raises(OSError):
        write_manifest(folder, MODELS, CAPTIONERS)
    assert (folder / MANIFEST).read_bytes() == before


def test_write_manifest_keeps_what_is_said_of_a_model(folder):
    assert {**manifest(folder)["models"]["clip"], "sha256": None} == {**MODELS["clip"], "sha256": None}


def test_the_sha256_of_abc_is_the_standards(tmp_path):
    # FIPS 180-2, appendix B.1
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_models_sha256_is_over_its_paths_and_their_sha256s(folder):
    listed = [f"open_clip_config.json {sha256(folder, 'clip/open_clip_config.json')}"]
    listed += [f"open_clip_model.safetensors {sha256(folder, TENSORS)}"]
    expected = hashlib.sha256("\n".join(listed).encode()).hexdigest()
    assert manifest(folder)["models"]["clip"]["sha256"] == expected


def sha256(folder: Path, name: str) -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("clip/open_clip_config.json", "clip"),
        ("captioners/blip/config.json", "blip"),  # and not blip2, whose name begins alike
        ("captioners/blip2/config.json", "blip2"),
        ("sentences/spiece.model", "sentences"),
        ("word_banks/mediums.txt", None),
    ],
)
def test_a_changed_file_changes_its_own_models_sha256_alone(folder, name, changed):
    before = manifest(folder)["models"]
    (folder / name).write_text("changed")
    write_manifest(folder, MODELS, CAPTIONERS)
    after = manifest(folder)["models"]
    assert [model for model in MODELS if after[model]["sha256"] != before[model]["sha256"]] == [changed] * bool(changed)


def test_a_renamed_file_changes_its_models_sha256(folder):
    before = manifest(folder)["models"]["sentences"]["sha256"]
    (folder / "sentences/config.json").rename(folder / "sentences/other.json")
    write_manifest(folder, MODELS, CAPTIONERS)
    assert manifest(folder)["models"]["sentences"]["sha256"] != before


def test_a_missing_manifest_is_refused_with_how_to_make_one(folder):
    (folder / MANIFEST).unlink()
    assert re.search(r"manifest\.json: not found; .*'make miniature'.*'make weights'", refusal(folder))


def test_a_missing_folder_is_refused_as_a_missing_manifest(tmp_path):
    assert "manifest.json: not found" in refusal(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b"{}", b'"format"'])
def test_what_is_no_manifest_is_refused(folder, content):
    (folder / MANIFEST).write_bytes(content)
    assert "manifest.json: not a weights manifest of format 1" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": "1"},
        {"files": None},
        {"files": [{"path": "prior.txt"}]},
        {"files": [{"path": "prior.txt", "bytes": "6", "sha256": "0" * 64}]},
        {"files": [{"path": "prior.txt", "bytes": 6, "sha256": "0" * 8}]},
        {"files": [{"path": 3, "bytes": 6, "sha256": "0" * 64}]},
        {"files": ["prior.txt"]},
        {"models": None},
        {"models": ["clip"]},
        {"captioners": None},
        {"captioners": ["blip3"]},
    ],
)
def test_a_manifest_of_another_shape_is_refused(folder, changes):
    change_manifest(folder, **changes)
    assert "manifest.json: not a weights manifest of format 1" in refusal(folder)


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "..", "", "a/b"])
def test_a_model_whose_name_leads_out_of_the_folder_is_refused(folder, name):
    """Its files would be none of those that the manifest vouches for."""
    change_manifest(folder, models={**manifest(folder)["models"], name: {**MODELS["blip"], "sha256": "0" * 64}})
    assert f"models [{name!r}] are no names of folders" in refusal(folder)


@pytest.mark.parametrize(
    "tokenizer", ["x", [], {"size": "100"}, {"special_ids": {"pad": "x"}}, {"ids": ["5\n\x1b[2J"]}, {"sentence": 3}]
)
def test_a_tokenizers_record_of_another_type_is_refused(folder, tokenizer):
    models = manifest(folder)["models"]
    change_manifest(folder, models={**models, "clip": {**models["clip"], "tokenizer": tokenizer}})
    assert "not a weights manifest of format 1 (models.clip.tokenizer" in refusal(folder)


@pytest.mark.parametrize("key", ["format", "files", "models", "captioners"])
def test_a_manifest_that_lacks_a_part_is_refused_naming_it(folder, key):
    content = manifest(folder)
    del content[key]
    (folder / MANIFEST).write_text(json.dumps(content))
    assert f"not a weights manifest of format 1 ({key} is missing)" in refusal(folder)


@pytest.mark.parametrize("key", ["class", "source", "revision", "sha256"])
def test_a_model_that_lacks_a_record_is_refused(folder, key):
    models = manifest(folder)["models"]
    del models["clip"][key]
    change_manifest(folder, models=models)
    assert f"(models.clip.{key} is missing)" in refusal(folder)


def test_a_captioner_that_is_no_model_is_refused_with_the_captioners(folder):
    change_manifest(folder, captioners=["blip2", "blip3"])
    assert "captioners ['blip2', 'blip3'] are not all among the models" in refusal(folder)


@pytest.mark.parametrize("path", ["../outside.txt", "clip/../../outside.txt", "clip/.."])
def test_a_listed_path_that_leaves_the_folder_is_refused(folder, path):
    (folder.parent / "outside.txt").write_text(FILES["prior.txt"])
    change_entry(folder, "prior.txt", path=path)
    assert f"lists '{path}', which lies outside the folder" in refusal(folder)


def test_a_listed_absolute_path_is_refused_even_into_the_folder(folder):
    change_entry(folder, "prior.txt", path=str(folder / "prior.txt"))
    assert "which lies outside the folder" in refusal(folder)


# the files


def test_a_missing_file_is_refused(folder):
    (folder / "prior.txt").unlink()
    assert "prior.txt: missing, though the manifest lists it" in refusal(folder)


@pytest.mark.parametrize("name", ["more.txt", "clip/.hidden.json", "captioners/other/config.json"])
def test_a_file_that_the_manifest_does_not_list_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    assert f"{name}: not listed in manifest.json, so nothing vouches for it" in refusal(folder)


@pytest.mark.parametrize("name", ["features", "features.json"])
def test_a_link_to_a_folder_is_refused_whatever_it_holds(folder, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (folder / "word_banks" / name).symlink_to(tmp_path / "elsewhere")
    assert f"word_banks/{name}: " in refusal(folder)


def test_an_empty_folder_does_no_harm(folder):
    (folder / "word_banks/features").mkdir()
    assert open_weights(folder).captioners == CAPTIONERS


def test_one_altered_byte_is_refused_with_both_sha256s(folder):
    expected = file_sha256(folder / TENSORS)
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(data)
    found = file_sha256(folder / TENSORS)
    said = f"{TENSORS}: sha256 {found[:8]}... differs from the manifest's {expected[:8]}...: the file is damaged"
    assert said in refusal(folder)


def test_nothing_is_opened_before_every_file_is_hashed_whatever_is_done_meanwhile(folder, monkeypatch):
    """Hashing begins before what is done meanwhile, and waits here for its end; the folder waits for all of it."""
    begun, over, hashed, opened = threading.Event(), threading.Event(), [], []
    really = weights_folder.check_header

    def check_header(path: Path) -> list[Tensor]:
        assert set(hashed) == {folder / name for name in (*FILES, TENSORS)}
        opened.append(path)
        return really(path)

    def slow(path: Path) -> str:
        begun.set()
        assert over.wait(60)
        hashed.append(path)
        return file_sha256(path)

    def meanwhile() -> None:
        assert begun.wait(60) and not hashed
        over.set()

    monkeypatch.setattr(files, "file_sha256", slow)
    monkeypatch.setattr(weights_folder, "check_header", check_header)
    open_weights(folder, meanwhile=meanwhile)
    assert opened == [folder / TENSORS]


def test_of_several_wrong_files_the_first_by_name_is_told_whichever_is_hashed_first(folder):
    (folder / TENSORS).write_bytes(bytes((folder / TENSORS).stat().st_size))
    (folder / "captioners/blip2/config.json").write_text('{"a": 2}')
    (folder / "sentences/spiece.model").write_text("pIeces")
    assert "captioners/blip2/config.json: sha256 " in refusal(folder)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_is_refused_with_both_lengths(folder, change):
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes((data + b"x")[: len(data) + change])
    assert f"{TENSORS}: {len(data) + change} bytes, the manifest says {len(data)}" in refusal(folder)


UNSAFE = ["a.bin", "a.pt", "a.pth", "a.pkl", "a.pickle", "a.ckpt", "a.npy", "a.PT", "a.py", "a", "a.safetensors.bin"]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_file_that_can_hold_a_pickle_is_refused_even_when_it_is_listed(folder, name):
    (folder / "clip" / name).write_bytes(pickle.dumps({}))
    write_manifest(folder, MODELS, CAPTIONERS)
    assert f"clip/{name}: this kind of file can hold a pickle" in refusal(folder)


@pytest.mark.parametrize("name", UNSAFE)
def test_a_file_that_can_hold_a_pickle_is_refused_as_such_when_it_is_not_listed(folder, name):
    (folder / "clip" / name).write_bytes(pickle.dumps({}))
    assert f"clip/{name}: this kind of file can hold a pickle" in refusal(folder)


def safetensors_header(length: int) -> bytes:
    return length.to_bytes(8, "little")


@pytest.mark.parametrize(
    "content",
    [
        *(pickle.dumps({"w": [1.0] * 9}, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
        b"PK\x03\x04" + bytes(100),  # torch.save writes a zip file
        safetensors_header(2) + b"[]",
        safetensors_header(100) + b"{}",
        safetensors_header(0),
        safetensors_header(8),
        b"{",
        b"",
    ],
)
def test_a_pickle_renamed_to_safetensors_is_refused_even_when_it_is_listed(folder, content):
    (folder / TENSORS).write_bytes(content)
    write_manifest(folder, MODELS, CAPTIONERS)
    assert f"{TENSORS}: named safetensors but is not (a renamed pickle?)" in refusal(folder)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"w": entry([-2, -2], 0, 8)}, "named safetensors but is not"),
        ({"w": entry([4], -8, 0)}, "named safetensors but is not"),
        ({"a": entry([2], 0, 4), "b": entry([4], 0, 8)}, "named safetensors but is not"),
        ({"w": entry([2], 0, 4)}, "bytes, its header says"),
        ({"w": entry([6], 0, 12)}, "ends before 'w' does"),
    ],
)
def test_a_header_that_cannot_be_is_refused_before_a_loader_runs(folder, header, said):
    put(folder / TENSORS, header, bytes(8))
    write_manifest(folder, MODELS, CAPTIONERS)
    assert f"{TENSORS}: " in refusal(folder) and said in refusal(folder)


def test_a_listed_pipe_is_refused_and_not_waited_for(folder):
    (folder / "prior.txt").unlink()
    os.mkfifo(folder / "prior.txt")
    change_entry(folder, "prior.txt", bytes=0)
    assert "prior.txt: missing" in refusal(folder)


# tokenizers

RECORD = tokenizer_record(100, {"pad": 0, "bos": None}, [5, 6, 7])


def tokenizer_refusal(found: dict, expected: dict | None = RECORD, embedding_rows: int = 128) -> str:
    with pytest.raises(UserError) as refused:
        check_tokenizer("clip", found, expected, embedding_rows)
    return str(refused.value)


def test_a_tokenizers_record_holds_the_sentence_that_made_its_ids():
    assert RECORD == {"size": 100, "special_ids": {"pad": 0, "bos": None}, "sentence": KNOWN_SENTENCE, "ids": [5, 6, 7]}


def test_a_tokenizers_record_survives_json():
    record = tokenizer_record(100, {"pad": 0, "bos": None}, np.array([5, 6, 7]))
    assert json.loads(json.dumps(record)) == RECORD


@pytest.mark.parametrize("embedding_rows", [100, 128])
def test_the_models_own_tokenizer_passes(embedding_rows):
    assert check_tokenizer("clip", dict(RECORD), RECORD, embedding_rows) is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("size", 101, "size are 101, the manifest says 100"),
        ("special_ids", {"pad": 0, "bos": 1}, "special_ids are {'pad': 0, 'bos': 1}, the manifest says {'pad': 0, "),
        ("ids", [5, 7, 6], "ids are [5, 7, 6], the manifest says [5, 6, 7]"),
    ],
)
def test_another_tokenizer_is_refused_with_both_values(key, value, said):
    assert f"clip: the tokenizer's {said}" in tokenizer_refusal({**RECORD, key: value})


def test_a_refused_tokenizer_says_what_would_follow():
    refused = tokenizer_refusal({**RECORD, "size": 101})
    assert "its ids would mean other words to this model. Put the model's own tokenizer back" in refused


def test_a_tokenizer_larger_than_the_embedding_is_refused_though_recorded():
    said = "clip: the tokenizer has 100 tokens, the model's embedding 99 rows"
    assert said in tokenizer_refusal(dict(RECORD), embedding_rows=99)


def test_a_model_without_a_tokenizer_record_is_refused():
    assert "clip: the manifest holds no tokenizer record" in tokenizer_refusal(dict(RECORD), expected=None)
