import json

import pytest

from kernel.errors import UserError
from kernel.sidecars.jsonl import JsonLines, jsonl_bytes
from tests.conftest import save_pictures
from tests.sidecars.records import pictures, record_of, writer_on
from tests.sidecars.trainers import musubi_captions


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def test_hugging_face_s_imagefolder_reads_pictures_with_their_captions(tmp_path, drawn):
    from datasets import load_dataset

    folder = tmp_path / "images"
    save_pictures(folder, drawn)
    images = sorted(folder.iterdir())
    (folder / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "by hand", "artist": "Ann"}\n')
    writer = writer_on(folder, images, "jsonl")
    for image in writer.left:
        writer.tell(record_of(image, f"a \u72d0 {image.stem}"))
    writer.finish()
    found = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    captions = {image.stem: f"a \u72d0 {image.stem}, fog, ink" for image in images} | {"b": "by hand"}
    assert len(found) == len(images)
    read = {row["text"]: row["image"].convert("RGB").tobytes() for row in found}
    for (picture, _), name in zip(drawn, "abcdef", strict=False):
        assert read[captions[name]] == picture.convert("RGB").tobytes()


def test_other_keys_and_rows_stay_as_they_are(tmp_path):
    images = pictures(tmp_path, "ab")
    kept = ['{"file_name": "z.png",  "text": "elsewhere"}', "not json", '{"license":   1.50}', "[1]"]
    own = '{"id": 7, "file_name": "x/../a.png", "text": "old", "boxes": [[1, 2]]}'
    (tmp_path / "metadata.jsonl").write_text("\n".join([kept[0], own, *kept[1:]]))
    writer = writer_on(tmp_path, images, "jsonl", existing="append")
    for image in images:
        writer.tell(record_of(image))
    writer.finish()
    lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
    assert [lines[0], *lines[2:5]] == kept
    assert json.loads(lines[1]) == {
        "id": 7,
        "file_name": "x/../a.png",
        "text": "old, a fox, fog, ink",
        "boxes": [[1, 2]],
    }
    assert json.loads(lines[5]) == {"file_name": "b.png", "text": "a fox, fog, ink"} and len(lines) == 6


def test_a_row_without_a_caption_is_filled(tmp_path):
    images = pictures(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(
        jsonl_bytes([("a.png", " "), ("b.png", "old")]) + b'{"file_name": "c.png"}'
    )
    writer = writer_on(tmp_path, images, "jsonl")
    assert writer.left == [images[0], images[2]]
    for image in writer.left:
        writer.tell(record_of(image))
    writer.finish()
    assert [row["text"] for row in rows_of(tmp_path)] == ["a fox, fog, ink", "old", "a fox, fog, ink"]


def test_every_row_of_a_picture_with_several_captions_is_kept(tmp_path):
    (image,) = pictures(tmp_path, "a")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "one"}\n{"file_name": "a.png", "text": "two"}\n'
    )
    writer = writer_on(tmp_path, [image], "jsonl", existing="prepend")
    writer.tell(record_of(image, "a fox", ()))
    writer.finish()
    assert [row["text"] for row in rows_of(tmp_path)] == ["a fox, one", "a fox, two"]


def test_musubi_reads_its_keys_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [path.relative_to(tmp_path) for path in pictures(tmp_path / "images")]
    writer = writer_on("images", images, "jsonl", keys=("image_path", "caption"))
    for image in images:
        writer.tell(record_of(image, image.stem))
    writer.finish()
    monkeypatch.chdir("/")
    found = musubi_captions(tmp_path / "images" / "metadata.jsonl")
    assert found == {str(tmp_path / image): f"{image.stem}, fog, ink" for image in images}


def test_each_folder_has_its_own(tmp_path):
    images = pictures(tmp_path / "x") + pictures(tmp_path / "y", "d")
    writer = writer_on(tmp_path, images, "jsonl")
    for image in images:
        writer.tell(record_of(image))
    writer.finish()
    assert [row["file_name"] for row in rows_of(tmp_path / "x")] == ["a.png", "b.png", "c.png"]
    assert [row["file_name"] for row in rows_of(tmp_path / "y")] == ["d.png"]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    "content, said",
    [
        (
            b'{"image_path": "/a.png", "caption": "x"}\n',
            "no row has the key 'file_name'; they have caption, image_path",
        ),
        (b'{"file_name": "a.png", "text": ["x", "y"]}\n', 'line 1: \'text\' is \\["x", "y"\\], expected a text'),
        (b'{"file_name": "a.png", "text": "\xff"}\n', "not UTF-8"),
    ],
)
def test_a_file_whose_captions_would_be_lost_is_refused(tmp_path, content, said):
    images = pictures(tmp_path, "a")
    (tmp_path / "metadata.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=said):
        writer_on(tmp_path, images, "jsonl", existing="overwrite")
    assert (tmp_path / "metadata.jsonl").read_bytes() == content


def test_a_lone_half_of_a_pair_in_a_row_of_others_survives(tmp_path):
    (image,) = pictures(tmp_path, "a")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "note": "\\ud83d"}\n')
    table = JsonLines(tmp_path / "metadata.jsonl")
    table.put(image, ["a \u72d0"])
    assert json.loads(table.content()) == {"file_name": "a.png", "note": "\ud83d", "text": "a \u72d0"}


def test_names_and_prompts_alone_become_lines():
    assert jsonl_bytes([("a.png", "a \u72d0")]) == '{"file_name": "a.png", "text": "a \u72d0"}\n'.encode()
    assert json.loads(jsonl_bytes([("a.png", "x")], ("image_path", "caption"))) == {
        "image_path": "a.png",
        "caption": "x",
    }
