import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.pipeline.folder import results, run_folder
from kernel.pipeline.folder.run_folder import RunFolder, read_run, seal_path
from kernel.pipeline.images import ImageFile, images_sha256
from kernel.system.files import write_json, write_whole
from tests.pipeline.folders import FEWER_BEAMS, IDENTITY, captioned, image_files, opened


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
    assert RunFolder(tmp_path, [], 1).shard_path(results.CLIP, 12) == tmp_path / "clip" / "00012.safetensors"


# seals


@pytest.fixture
def sealed(tmp_path) -> RunFolder:
    run = opened(tmp_path)
    results.write_captions(run, 0, captioned([["a fish"], ["a cat"]]))
    results.write_captions(run, 1, captioned([["a dog"], ["a hill"]]))
    assert run.has_shard(results.CAPTIONS, 0) and run.has_shard(results.CAPTIONS, 1)
    return run


@pytest.mark.parametrize("keep", [0, 1, 20])
def test_a_shard_that_was_cut_is_none(sealed, keep):
    path = sealed.shard_path(results.CAPTIONS, 0)
    path.write_bytes(path.read_bytes()[:keep])
    assert not sealed.has_shard(results.CAPTIONS, 0)
    assert sealed.has_shard(results.CAPTIONS, 1)


def test_a_shard_in_anothers_place_is_none(sealed):
    for of in (lambda path: path, seal_path):
        one, other = (of(sealed.shard_path(results.CAPTIONS, shard)) for shard in (0, 1))
        one.write_bytes(other.read_bytes())
    assert not sealed.has_shard(results.CAPTIONS, 0)


def test_a_shard_of_another_run_is_none(sealed, tmp_path):
    elsewhere = opened(tmp_path / "elsewhere", FEWER_BEAMS)
    for of in (lambda path: path, seal_path):
        of(elsewhere.shard_path(results.CAPTIONS, 0)).write_bytes(
            of(sealed.shard_path(results.CAPTIONS, 0)).read_bytes()
        )
    assert not elsewhere.has_shard(results.CAPTIONS, 0)


@pytest.mark.parametrize("of", [lambda path: path, seal_path])
def test_a_shard_without_its_seal_or_a_seal_without_its_shard_is_none(sealed, of):
    of(sealed.shard_path(results.CAPTIONS, 0)).unlink()
    assert not sealed.has_shard(results.CAPTIONS, 0)


@pytest.mark.parametrize(("said", "writes", "whole"), [("a cat", 0, True), ("a cat", 1, True), ("a hen", 1, False)])
def test_whoever_ends_while_writing_a_shard_again_takes_no_seal_that_fits(sealed, monkeypatch, said, writes, whole):
    """A machine that was given up for lost may live on until another has made what it had in hand."""
    done = []

    def ends(path: Path, data: bytes) -> None:
        if len(done) == writes:
            raise InterruptedError
        write_whole(path, data)
        done.append(path)

    monkeypatch.setattr(run_folder, "write_whole", ends)
    with pytest.raises(InterruptedError):
        results.write_captions(sealed, 0, captioned([["a fish"], [said]]))
    assert sealed.has_shard(results.CAPTIONS, 0) is whole


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
