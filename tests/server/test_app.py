"""The API on the miniature models: what it answers, and its words where it cannot."""

import errno
import os
import shutil
import stat
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile

import pytest
from fastapi import UploadFile
from PIL import Image

import kernel
from kernel.interrogator.request import MODES
from kernel.server import app
from tests.server.conftest import parts


def described(client, pictures, **asked):
    answer = client.post("/describe", files=parts(pictures), data=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()["records"]


@pytest.mark.parametrize("mode", MODES)
def test_the_records_are_those_of_describe(client, pictures, on_disk, weights_folder, place, mode):
    expected = kernel.describe(on_disk, mode, weights_folder, top=3, device="cpu", features=place.features)
    for record in expected:
        record["image"] = record["image"].rpartition("/")[2]
    assert described(client, pictures, mode=mode, top=3) == expected


def test_what_is_chosen_is_what_describe_is_told(client, pictures, on_disk, weights_folder, place):
    chosen = {"captioner": "blip", "without": ["mediums", "movements"]}
    expected = kernel.describe(
        on_disk / "a.png", weights=weights_folder, device="cpu", features=place.features, **chosen
    )
    (record,) = described(client, pictures[:1], **chosen)
    assert record == {**expected[0], "image": "a.png"} and {part["bank"] for part in record["parts"]} == {"flavors"}


def test_bad_pictures_are_records_with_their_reason(client, pictures, monkeypatch):
    monkeypatch.setattr(app, "MOST_PICTURE_BYTES", 100_000)
    large = ("large.png", pictures[0][1] + b"0" * 100_000)
    bomb = BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    sent = [("no.png", b"no picture"), pictures[1], ("empty", b""), large, ("bomb.png", bomb.getvalue())]
    records = described(client, sent)
    assert [record["image"] for record in records] == ["no.png", "b.png", "empty", "large.png", "bomb.png"]
    assert records[0]["error"] == "UnidentifiedImageError: cannot identify image file 'no.png'"
    assert records[1]["prompt"] and "error" not in records[1]
    assert "error" in records[2] and "expected at most 0 MiB a picture" in records[3]["error"]
    assert "over Pillow's limit" in records[4]["error"]
    assert described(client, [large]) == [{"image": "large.png", "mode": "fast", "error": records[3]["error"]}]


def test_names_from_outside_are_never_paths(client, pictures, place):
    names = ["../../../etc/passwd", "/etc/passwd", "a\x00b.png", "c:\\d.png", "e" * 900 + ".png", "<b>f</b>.png"]
    records = described(client, [(name, pictures[0][1]) for name in names], mode="negative", top=1)
    assert len(records) == 6 and all(record["prompt"] for record in records)
    assert all(record["image"].isprintable() and len(record["image"]) < 600 for record in records)


def test_the_nearest_prompts_of_the_bank(client, pictures, weights):
    from kernel.banks.nearest import nearest
    from kernel.banks.prompt_bank import PromptBank
    from kernel.models.clip import ClipEncoder
    from kernel.system.devices import Device

    assert client.get("/options").json()["nearest"] == app.MOST_NEAREST
    (record,) = described(client, pictures[:1], nearest=3)
    bank = PromptBank.open(weights.folder / "prompt_bank", weights.sha256("clip"), weights.sha256("sentences"))
    row = ClipEncoder.load(weights, Device("cpu")).encode_images([Image.open(BytesIO(pictures[0][1])).convert("RGB")])
    indices, cosines = nearest(row, bank.features, 3, Device("cpu"))
    assert [own["prompt"] for own in record["nearest"]] == bank.prompts(indices[0])
    assert [own["similarity"] for own in record["nearest"]] == pytest.approx(cosines[0].tolist(), abs=1e-5)
    assert "nearest" not in described(client, pictures[:1])[0]


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"mode": "clasic"}, "unknown mode 'clasic' (did you mean 'classic'?). Valid: classic, fast, best, negative"),
        ({"captioner": "blipp"}, "holds no captioner 'blipp' (did you mean 'blip'?); it has blip2, blip"),
        ({"without": "flavor"}, "no word bank 'flavor' to leave out (did you mean 'flavors'?)"),
        ({"without": ["flavors", "mediums", "movements"]}, "no word bank is left that it could take terms of"),
        ({"top": "x"}, "top: Input should be a valid integer"),
        ({"top": "-1"}, "top: Input should be greater than or equal to 0"),
        ({"nearest": "101"}, "nearest: Input should be less than or equal to 100"),
    ],
)
def test_what_cannot_be_is_refused_with_words(client, pictures, asked, said):
    answer = client.post("/describe", files=parts(pictures[:1]), data=asked)
    assert answer.status_code == 422 and said in answer.json()["error"]


def test_a_request_without_pictures_or_with_too_many_is_refused_with_words(client, pictures, monkeypatch):
    assert "pictures: Field required" in client.post("/describe", data={"mode": "fast"}).json()["error"]
    monkeypatch.setattr(app, "MOST_PICTURES", 2)
    answer = client.post("/describe", files=parts(pictures[:3]))
    assert answer.status_code == 413 and "3 pictures in one request; expected at most 2" in answer.json()["error"]


def test_a_page_that_is_not_there_is_told_as_json(client):
    answer = client.get("/nowhere")
    assert answer.status_code == 404 and "GET /nowhere: Not Found" in answer.json()["error"]


def test_the_options_are_the_weights_folder_s(client):
    options = client.get("/options").json()
    assert options["banks"] == ["flavors", "mediums", "movements"] and options["captioners"] == ["blip2", "blip"]
    assert options["modes"] == {"classic": 3, "fast": 32, "best": 32, "negative": 32}


def zipped(client, *texts):
    answer = client.post("/texts.zip", json={"texts": [{"image": image, "text": text} for image, text in texts]})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_texts_are_files_of_the_pictures_names(client):
    assert zipped(client, ("a.png", "a fox"), ("b.c.jpg", "ein Bär")) == {"a.txt": "a fox\n", "b.c.txt": "ein Bär\n"}


def test_no_text_of_a_zip_takes_another_s_place_or_lies_outside(client):
    texts = [
        ("a.png", "1"),
        ("a.jpg", "2"),
        ("a.png", "3"),
        ("../../a.gif", "4"),
        ("..", "5"),
        ("c:\\d.png", "6"),
        ("", "7"),
        ("A.png", "8"),
    ]
    found = zipped(client, *texts)
    assert sorted(text.strip() for text in found.values()) == list("12345678")
    assert len({name.casefold() for name in found}) == 8  # where upper and lower case are one too
    assert not any("/" in name or "\\" in name for name in found)


def test_many_texts_of_one_name_are_numbered(client):
    found = zipped(client, *(("image.png", str(number)) for number in range(5000)))
    assert list(found)[:4] == ["image.txt", "image.png.txt", "image-2.txt", "image-3.txt"]
    assert list(found.values()) == [f"{number}\n" for number in range(5000)]


def test_uploads_are_gone_after_the_answer(client, pictures):
    scratch = client.app.application.state.scratch
    described(client, pictures[:2], mode="negative", top=1)
    assert scratch.is_dir() and list(scratch.iterdir()) == []


def test_a_temporary_folder_that_the_system_cleared_is_made_anew(client, pictures):
    scratch = client.app.application.state.scratch
    shutil.rmtree(scratch)
    assert described(client, pictures[:1], mode="negative", top=1)[0]["prompt"]
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700


def test_a_folder_of_another_user_in_its_place_is_refused_with_words(client, pictures, monkeypatch):
    another = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another)
    answer = client.post("/describe", files=parts(pictures[:1]))
    assert answer.status_code == 503 and "it belongs to another user" in answer.json()["error"]


def full(*given):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_words(client, pictures, monkeypatch):
    monkeypatch.setattr(app, "saved", full)
    answer = client.post("/describe", files=parts(pictures[:1]))
    assert answer.status_code == 503 and "No space left on device" in answer.json()["error"]


def test_a_disk_that_fills_up_while_a_form_is_read_is_told_with_words(client, pictures, monkeypatch):
    monkeypatch.setattr(SpooledTemporaryFile, "write", full)
    answer = client.post("/describe", files=parts(pictures[:1]))
    assert answer.status_code == 503 and "No space left on device" in answer.json()["error"]


def test_what_waits_lies_on_the_disk_once(tmp_path):
    uploads = {number: UploadFile(BytesIO(bytes([number]))) for number in range(3)}
    files = app.saved(tmp_path, uploads)
    assert [Path(files[number]).read_bytes() for number in range(3)] == [b"\0", b"\1", b"\2"]
    assert all(upload.file.closed for upload in uploads.values())
