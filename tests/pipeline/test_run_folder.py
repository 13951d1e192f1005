import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.errors import UserError
from kernel.pipeline.caption_shard import CaptionShard
from kernel.pipeline.images import ImageFile, images_sha256
from kernel.pipeline.run_folder import RunFolder, open_run, read_run, seal_path
from kernel.system.files import write_json, write_whole

IDENTITY = {
    "clip": {"images": "3f2a", "device": "cpu"},
    "captions": {"images": "3f2a", "device": "cpu", "num_beams": 5},
    "estimates": {"recipe": {"num_beams": 5}},
}
ON_CUDA = {**IDENTITY, "clip": {**IDENTITY["clip"], "device": "cuda"}}
FEWER_BEAMS = {
    **IDENTITY,
    "captions": {**IDENTITY["captions"], "num_beams": 3},
    "estimates": {"recipe": {"num_beams": 3}},
}
UNUSUAL = ["größe 猫", 'say "hi"', "two words", "a,b"]


def image_files(*ids: str) -> list[ImageFile]:
    return [ImageFile(image_id, Path("images", f"{image_id}.png")) for image_id in ids]


def opened(folder: Path, identity: dict = IDENTITY, images: int = 5, shard_images: int = 2) -> RunFolder:
    return open_run(folder, image_files(*map(str, range(images))), shard_images, identity)[0]


def said(folder: Path, identity: dict = IDENTITY) -> str:
    return open_run(folder, image_files("a"), 1, identity)[1]


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# shards


@pytest.mark.parametrize(
    ("images", "shard_images", "borders"),
    [
        (5, 2, [(0, 2), (2, 4), (4, 5)]),
        (4, 2, [(0, 2), (2, 4)]),
        (1, 256, [(0, 1)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
        (0, 2, []),
    ],
)
def test_shards_are_full_but_the_last(tmp_path, images, shard_images, borders):
    assert RunFolder(tmp_path, image_files(*map(str, range(images))), shard_images).borders == borders


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 12))
def test_shards_hold_every_image_once_and_in_order(images, shard_images):
    files = image_files(*map(str, range(images)))
    run = RunFolder(Path("run"), files, shard_images)
    assert [file for shard in range(len(run.borders)) for file in run.shard_files(shard)] == files


def test_a_shards_file_is_named_by_stage_and_number(tmp_path):
    assert RunFolder(tmp_path, [], 1).shard_path("clip", 12) == tmp_path / "clip" / "00012.safetensors"


def test_image_features_come_back_in_image_order_whatever_order_shards_were_written_in(tmp_path):
    run = opened(tmp_path)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    for shard in (2, 0, 1):
        start, stop = run.borders[shard]
        run.write_clip(shard, rows[start:stop], {}, [])
    assert run.read_clip()[0].tolist() == rows.tolist()


def test_bad_images_of_all_shards_come_back_with_their_reasons(tmp_path):
    run = opened(tmp_path, shard_images=4)
    reasons = {UNUSUAL[0]: "OSError: 'größe 猫.png' ist kaputt", UNUSUAL[1]: 'broken "header"\\'}
    run.write_clip(0, np.zeros((4, 3), dtype=np.float32), {UNUSUAL[0]: reasons[UNUSUAL[0]]}, [])
    run.write_clip(1, np.zeros((1, 3), dtype=np.float32), {UNUSUAL[1]: reasons[UNUSUAL[1]]}, [])
    assert run.read_clip()[1] == reasons


def captioned(captions: list[list[str]], **more) -> CaptionShard:
    return CaptionShard(captions, ["blip2" if own else None for own in captions], **more)


def test_captions_of_all_shards_come_back_in_image_order(tmp_path):
    run = opened(tmp_path, shard_images=3)
    first, second = [["a fish", "größe 猫"], [], ['a "sign"']], [["x"], ["y", ""]]
    run.write_captions(1, captioned(second, bad={"4": "gone"}))
    run.write_captions(0, captioned(first, bad={"1": "ValueError: größe"}))
    assert run.read_captions() == (first + second, {"1": "ValueError: größe", "4": "gone"})


def test_a_shard_that_was_not_made_has_no_captions_and_is_counted(tmp_path):
    run = opened(tmp_path)
    shard = captioned([["x"], ["x"]], failed={"4": "ValueError"}, reduced=["3"])
    run.write_captions(1, shard)
    captions, _ = run.read_captions()
    assert captions == [[], [], ["x"], ["x"], []]
    assert run.caption_shards() == {1: shard}
    assert run.unmade_images("captions") == {file.id for shard in (0, 2) for file in run.shard_files(shard)}


def test_a_part_of_a_shard_is_read_but_made_again_by_the_next_run(tmp_path):
    run = opened(tmp_path)
    (first, second) = (file.id for file in run.shard_files(0))
    run.write_captions(0, captioned([["x"], ["y"]]))
    run.write_captions(0, captioned([["x"], []], unmade=[second]))
    run.write_clip(0, np.eye(2, dtype=np.float32), {}, [first])
    assert run.read_captions()[0][:2] == [["x"], []]
    later = {file.id for shard in (1, 2) for file in run.shard_files(shard)}
    assert (run.unmade_images("clip"), run.unmade_images("captions")) == ({first} | later, {second} | later)
    again = opened(tmp_path)
    assert again.made("captions") == [] and again.made("clip") == []


def test_modifiers_come_back_as_they_were(tmp_path):
    run = opened(tmp_path)
    run.write_modifiers([["a woodcut", "größe"], []])
    assert run.read_modifiers() == [["a woodcut", "größe"], []]


def test_an_estimate_is_kept_bit_by_bit(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 384)).astype(np.float32)
    usable = np.array([True, False, True, True, False])
    opened(tmp_path).write_estimate("prompts", rows, usable)
    found, found_usable = opened(tmp_path).read_estimate("prompts")
    assert found.tobytes() == rows.tobytes()
    assert found_usable.tolist() == usable.tolist()


def test_an_id_that_utf8_cannot_hold_does_not_stop_the_captions(tmp_path):
    run = opened(tmp_path)
    run.write_captions(0, captioned([[]], bad={"\udce9": "bad"}))
    assert json.loads(run.shard_path("captions", 0).read_text(encoding="utf-8"))["bad"] == {"?": "bad"}


# opening a run folder


@pytest.mark.parametrize("name", ["run", "deep/er/run"])
def test_a_new_folder_is_made_with_its_stages_and_its_record(tmp_path, name):
    opened(tmp_path / name)
    assert tree(tmp_path / name) == {"clip", "captions", "cosines", "estimates", "run.json"}


def test_an_empty_folder_is_a_new_run(tmp_path):
    assert said(tmp_path) == f"{tmp_path}: new run"


def test_the_same_run_goes_on(tmp_path):
    opened(tmp_path)
    assert said(tmp_path) == f"{tmp_path}: going on with the last run"


def test_a_run_killed_while_it_wrote_its_first_record_is_a_new_run(tmp_path):
    (tmp_path / ".run.json.tmp").write_text('{"ident')
    assert said(tmp_path) == f"{tmp_path}: new run"
    assert "run.json" in tree(tmp_path) and ".run.json.tmp" not in tree(tmp_path)


def test_a_run_that_goes_on_keeps_what_was_written(tmp_path):
    run = opened(tmp_path)
    run.write_captions(0, captioned([["a"]]))
    run.write_run({"identity": IDENTITY, "counts": {"images": 5}})
    (tmp_path / "submission.csv").write_text("older")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    opened(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_changed_run_says_what_changed_and_which_stages_that_takes(tmp_path):
    opened(tmp_path)
    expected = f"{tmp_path}: num_beams, recipe changed since the last run: captions, estimates made again"
    assert said(tmp_path, FEWER_BEAMS) == expected


def test_something_new_in_the_identity_is_a_change(tmp_path):
    opened(tmp_path)
    more = {**IDENTITY, "estimates": {**IDENTITY["estimates"], "bank": "5e1f"}}
    assert said(tmp_path, more) == f"{tmp_path}: bank changed since the last run: estimates made again"


def test_a_changed_run_removes_the_outputs_of_the_changed_stages_alone(tmp_path):
    run = opened(tmp_path)
    run.write_captions(0, captioned([["a"]]))
    run.write_clip(0, np.zeros((2, 3), dtype=np.float32), {}, [])
    run.write_estimate("prompts", np.zeros((5, 384), dtype=np.float32), np.ones(5, dtype=bool))
    (tmp_path / "submission.csv").write_text("older")
    again = opened(tmp_path, FEWER_BEAMS)
    kept = {"clip/00000.safetensors", "clip/00000.safetensors.sha256"}
    assert tree(tmp_path) == {"clip", *kept, "captions", "cosines", "estimates", "run.json"}
    assert again.has_shard("clip", 0)


def test_a_changed_run_goes_on_the_next_time(tmp_path):
    opened(tmp_path)
    opened(tmp_path, ON_CUDA)
    assert said(tmp_path, ON_CUDA) == f"{tmp_path}: going on with the last run"


# seals


@pytest.fixture
def sealed(tmp_path) -> RunFolder:
    run = opened(tmp_path)
    run.write_captions(0, captioned([["a fish"], ["a cat"]]))
    run.write_captions(1, captioned([["a dog"], ["a hill"]]))
    assert run.has_shard("captions", 0) and run.has_shard("captions", 1)
    return run


@pytest.mark.parametrize("keep", [0, 1, 20])
def test_a_shard_that_was_cut_is_none(sealed, keep):
    path = sealed.shard_path("captions", 0)
    path.write_bytes(path.read_bytes()[:keep])
    assert not sealed.has_shard("captions", 0)
    assert sealed.has_shard("captions", 1)


def test_a_shard_in_anothers_place_is_none(sealed):
    for of in (lambda path: path, seal_path):
        one, other = (of(sealed.shard_path("captions", shard)) for shard in (0, 1))
        one.write_bytes(other.read_bytes())
    assert not sealed.has_shard("captions", 0)


def test_a_shard_of_another_run_is_none(sealed, tmp_path):
    elsewhere = opened(tmp_path / "elsewhere", FEWER_BEAMS)
    for of in (lambda path: path, seal_path):
        of(elsewhere.shard_path("captions", 0)).write_bytes(of(sealed.shard_path("captions", 0)).read_bytes())
    assert not elsewhere.has_shard("captions", 0)


@pytest.mark.parametrize("of", [lambda path: path, seal_path])
def test_a_shard_without_its_seal_or_a_seal_without_its_shard_is_none(sealed, of):
    of(sealed.shard_path("captions", 0)).unlink()
    assert not sealed.has_shard("captions", 0)


def test_a_run_that_ended_before_its_stages_were_made_goes_on(tmp_path, monkeypatch):
    really_make = Path.mkdir

    def make(path, *arguments, **options):
        if path.name == "captions":
            raise OSError(28, "No space left on device")
        really_make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", make)
    with pytest.raises(UserError, match="No space left"):
        opened(tmp_path / "run")
    monkeypatch.undo()
    assert said(tmp_path / "run") == f"{tmp_path / 'run'}: going on with the last run"


def test_a_run_whose_record_could_not_be_written_can_start_again(tmp_path, monkeypatch):
    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UserError, match="No space left"):
        opened(tmp_path / "run")
    monkeypatch.undo()
    assert said(tmp_path / "run") == f"{tmp_path / 'run'}: new run"


def test_a_folder_that_no_run_wrote_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds files but no run\.json.*Give --out an empty or a new folder"):
        opened(tmp_path)


def test_a_refused_folder_stays_as_it_was(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError):
        opened(tmp_path)
    assert tree(tmp_path) == {"thesis.txt"}


@pytest.mark.parametrize("name", ["in_the_way", "in_the_way/run", "in_the_way/deep/run"])
def test_a_file_in_the_way_is_refused(tmp_path, name):
    (tmp_path / "in_the_way").touch()
    with pytest.raises(UserError, match=f"{name}: cannot be written .* or give --out another folder"):
        opened(tmp_path / name)


def test_a_failure_names_the_free_space_of_an_existing_folder(tmp_path):
    opened(tmp_path)
    (tmp_path / "clip").rmdir()
    (tmp_path / "clip").touch()
    with pytest.raises(UserError, match=r"cannot be written \(File exists\); \d+ MiB are free there"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "null", "{}", '{"identity": 3}', '{"identity": null}', '"identity"', "\xff"]
)
def test_a_record_that_no_run_wrote_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.json: not a run's record .*Give --out an empty or a new folder"):
        opened(tmp_path)


def test_a_record_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UserError, match=r"run\.json: cannot be read \(Is a directory\)"):
        opened(tmp_path)


def test_a_runs_record_comes_back_as_it_was_written(tmp_path):
    content = {"identity": IDENTITY, "bad_images": {"größe 猫": "OSError: \u2028"}, "shards": [[0, 2]]}
    opened(tmp_path).write_run(content)
    assert read_run(tmp_path) == content


def test_a_folder_without_a_record_has_none(tmp_path):
    assert read_run(tmp_path) is None


def test_a_folder_that_is_not_there_has_no_record(tmp_path):
    assert read_run(tmp_path / "gone") is None


# naming the images


@pytest.fixture
def two_images(tmp_path) -> list[ImageFile]:
    files = [ImageFile(name, tmp_path / f"{name}.png") for name in ("größe 猫", "b")]
    for file in files:
        file.path.write_bytes(b"12345")
        os.utime(file.path, ns=(1_000_000_000, 1_000_000_000))
    return files


def test_unchanged_images_keep_their_name(two_images):
    assert images_sha256(two_images) == images_sha256(list(two_images))


def test_a_file_of_another_size_changes_the_images_name(two_images):
    before = images_sha256(two_images)
    two_images[1].path.write_bytes(b"123456")
    os.utime(two_images[1].path, ns=(1_000_000_000, 1_000_000_000))
    assert images_sha256(two_images) != before


def test_a_file_written_later_changes_the_images_name(two_images):
    before = images_sha256(two_images)
    os.utime(two_images[1].path, ns=(1_000_000_000, 1_000_000_001))
    assert images_sha256(two_images) != before


def test_a_renamed_file_changes_the_images_name(two_images, tmp_path):
    before = images_sha256(two_images)
    moved = two_images[1].path.rename(tmp_path / "c.png")
    assert images_sha256([two_images[0], ImageFile("c", moved)]) != before


def test_a_file_fewer_changes_the_images_name(two_images):
    assert images_sha256(two_images[:1]) != images_sha256(two_images)


def test_a_removed_file_changes_the_images_name(two_images):
    before = images_sha256(two_images)
    two_images[1].path.unlink()
    assert images_sha256(two_images) != before


@pytest.mark.parametrize("exists", [True, False])
def test_names_that_utf8_cannot_hold_are_told_apart(tmp_path, exists):
    paths = [tmp_path / os.fsdecode(name) for name in (b"\xe9.png", b"\xea.png")]
    if exists:
        for path in paths:
            path.touch()
            os.utime(path, ns=(1_000_000_000, 1_000_000_000))
    one, other = (images_sha256([ImageFile("x", path)]) for path in paths)
    assert one != other


# writing whole


def test_write_whole_replaces_the_older_file(tmp_path):
    (tmp_path / "a").write_bytes(b"older")
    write_whole(tmp_path / "a", b"newer")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"newer"}


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_only_the_older_file(tmp_path, monkeypatch, failing):
    (tmp_path / "a").write_bytes(b"older")
    really_write = Path.write_bytes

    def fail(path, argument):
        if failing == "write_bytes":
            really_write(path, argument[:2])  # what fitted on the disk
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", b"newer")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"older"}


def test_json_is_written_as_readable_utf8(tmp_path):
    write_json(tmp_path / "a.json", {"größe": [1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "größe": [\n  1\n ]\n}\n'
