"""`describe --write` on the miniature models: what is computed, and what of it lies beside the pictures."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import kernel
from kernel.__main__ import main
from kernel.config import DEFAULT_WEIGHTS
from kernel.errors import UserError
from kernel.interrogator.request import Request
from kernel.models.clip import clip_tokenizer
from kernel.models.weights_folder import write_manifest
from kernel.pipeline.captioning import describe_into
from kernel.sidecars.asked import Sidecars
from kernel.sidecars.journal import NAME
from kernel.sidecars.txt import read_txt
from tests.sidecars.trainers import sd_scripts_captions


@pytest.fixture
def here(tmp_path, monkeypatch, weights_folder):
    """A folder in which the weights are where the command looks for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "weights").symlink_to(weights_folder)
    return tmp_path


def described(capsys, *arguments: str) -> list[str]:
    """What the command prints on stdout."""
    assert main(["describe", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_captions_are_what_describe_says_and_are_not_computed_again(here, image_folder, capsys, monkeypatch):
    (image_folder / "b.txt").write_text("by hand\n")
    assert described(capsys, "images", "--write", "txt") == ["5 captions written, 1 kept as they were"]
    for record in kernel.describe("images"):
        name = record["image"].removesuffix(".png")
        assert read_txt(here / f"{name}.txt") == (["by hand"] if name == "images/b" else [record["prompt"]])
    monkeypatch.setattr("kernel.pipeline.captioning.describe_files", None)
    assert described(capsys, "images", "--write", "txt") == ["0 captions written, 6 kept as they were"]


def test_subfolders_and_their_rows(here, image_folder, capsys):
    (image_folder / "more" / "deep").mkdir(parents=True)
    (image_folder / ".hidden").mkdir()
    (image_folder / "f.png").rename(image_folder / "more" / "deep" / "f.png")
    (image_folder / "e.png").rename(image_folder / ".hidden" / "e.png")
    assert described(capsys, "images", "--write", "csv", "--recursive") == ["5 captions written, 0 kept as they were"]
    with (image_folder / "batch.csv").open(newline="") as file:
        rows = {row["filename"]: row["prompt"] for row in csv.DictReader(file)}
    assert list(rows) == ["a.png", "b.png", "c.png", "d.png", "more/deep/f.png"] and all(rows.values())
    said = described(capsys, "images", "--write", "jsonl", "--recursive", "--json")
    assert [json.loads(line)["image"] for line in said] == [f"images/{name}" for name in rows]
    (row,) = (image_folder / "more" / "deep" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(row) == {"file_name": "f.png", "text": rows["more/deep/f.png"]}
    assert not list(here.rglob(NAME))


def test_a_banned_word_makes_room_for_the_next_terms(here, image_folder, capsys):
    (before,) = kernel.describe("images/a.png", top=3)
    banned = [before["parts"][0]["term"].split()[-1].upper(), before["parts"][2]["term"]]
    (here / "ban.txt").write_text("\n".join(banned))
    (line,) = described(capsys, "images/a.png", "--top", "3", "--ban", "ban.txt", "--json")
    terms = [part["term"] for part in json.loads(line)["parts"]]
    assert len(terms) == 3 and before["parts"][1]["term"] in terms
    assert not [term for term in terms if any(word.lower() in term.lower() for word in banned)]
    (negative,) = kernel.describe("images/a.png", "negative", top=3)
    (other,) = kernel.describe("images/a.png", "negative", top=3, ban=[negative["parts"][0]["term"]])
    assert negative["parts"][0]["term"] not in other["prompt"]


def test_tags_within_a_number_of_clip_s_tokens_with_a_trigger_word(here, image_folder, weights):
    asked = Sidecars("txt", form="tags", prefix="sks", max_tokens=6)
    records = kernel.describe("images", write=asked)
    tokenizer = clip_tokenizer(weights.model_folder("clip"))
    for record, path in zip(records, sorted(image_folder.glob("*.png")), strict=True):
        (caption,) = sd_scripts_captions(path)
        whole = ", ".join(["sks", *(part["term"] for part in record["parts"])])
        tokens = tokenizer.encode(caption)
        assert whole.startswith(f"{caption}, ") and len(tokens) <= 6
        following = whole[len(caption) + 2 :].partition(", ")[0]
        assert len(tokenizer.encode(f"{caption}, {following}")) > 6


def test_a_caption_too_long_for_the_tokens_is_told(here, image_folder, capsys):
    described(capsys, "images/a.png", "--write", "txt", "--existing", "append", "--form", "sentence")
    assert main(["describe", "images/a.png", "--write", "txt", "--existing", "append", "--max-tokens", "2"]) == 0
    assert "images/a.png: the first part alone takes more than 2 tokens" in capsys.readouterr().err
    record = kernel.describe("images/a.png")[0]["caption"]
    assert read_txt(image_folder / "a.txt") == [f"{record}, {record}"]


def test_a_tokenizer_that_does_not_load_is_one_line_before_the_first_image(here, image_folder, capsys, weights):
    own = Path(shutil.copytree(weights.folder, here / "own"))
    config = own / "clip" / "open_clip_config.json"
    content = json.loads(config.read_text())
    content["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = str(here / "build")  # where none is
    config.write_text(json.dumps(content))
    write_manifest(own, weights.models, weights.captioners)
    assert main(["describe", "images", "--write", "txt", "--max-tokens", "9", "--weights", str(own)]) == 1
    assert f"error: {own / 'clip'}: open_clip cannot load it" in capsys.readouterr().err
    assert len(list(image_folder.iterdir())) == 6


def test_a_bad_image_has_no_caption_and_the_others_have(here, image_folder, capsys):
    (image_folder / "c.png").write_bytes(b"no image")
    assert main(["describe", "images", "--write", "txt"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "5 captions written, 0 kept as they were, 1 images without one\n"
    assert captured.err.count("images/c.png: UnidentifiedImageError") == 1
    assert sorted(path.stem for path in image_folder.glob("*.txt")) == ["a", "b", "d", "e", "f"]


def test_two_pictures_of_one_name_would_share_a_txt(here, image_folder, capsys):
    (image_folder / "b.JPG").write_bytes((image_folder / "a.png").read_bytes())
    for images in ("images", "images/b.png"):
        assert main(["describe", images, "--write", "txt"]) == 1
        assert "images: b.JPG and b.png would share b.txt; one caption would be lost" in capsys.readouterr().err
    assert described(capsys, "images/a.png", "--write", "txt") == ["1 captions written, 0 kept as they were"]
    assert described(capsys, "images", "--write", "csv") == ["7 captions written, 0 kept as they were"]


@pytest.mark.parametrize("names", [("a.png", "a.png_original"), ("f.one", "f.two")])
def test_what_is_a_picture_by_its_content_alone_would_share_a_txt_too(here, image_folder, capsys, names):
    picture = (image_folder / "a.png").read_bytes()
    for path in image_folder.glob("[bf].png"):
        path.unlink()
    for name in names:
        (image_folder / name).write_bytes(picture)
    (image_folder / "c.txt").write_text("by hand\n")  # is no picture
    assert main(["describe", "images/*", "--write", "txt"]) == 1
    assert f"images: {' and '.join(names)} would share {names[0][0]}.txt; one" in capsys.readouterr().err
    assert sorted(path.name for path in image_folder.glob("*.txt")) == ["c.txt"]


def test_what_was_made_is_kept_where_the_disk_refuses_the_rest(here, image_folder, capsys, monkeypatch):
    def write(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kernel.sidecars.tables.write_whole", write)
    assert main(["describe", "images", "--write", "jsonl"]) == 1
    assert "images: cannot be written (No space left on device)" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr("kernel.pipeline.captioning.describe_files", None)
    assert described(capsys, "images", "--write", "jsonl") == ["6 captions written, 0 kept as they were"]
    assert len((image_folder / "metadata.jsonl").read_text().splitlines()) == 6


def test_where_the_disk_takes_no_caption_at_all_the_way_on_is_told(here, image_folder, capsys, monkeypatch):
    def write(path, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kernel.sidecars.txt.write_whole", write)
        assert main(["describe", "images", "--write", "txt"]) == 1
        said = "images: cannot be written (No space left on device); free space"
        assert said in capsys.readouterr().err
    assert described(capsys, "images", "--write", "txt") == ["6 captions written, 0 kept as they were"]


def test_a_command_that_fails_midway_has_written_what_it_made_and_goes_on(here, image_folder, capsys, monkeypatch):
    made = []

    def tell(record):
        made.append(record)
        if len(made) == 2:
            raise KeyboardInterrupt

    asked = Sidecars("jsonl", existing="append")
    with pytest.raises(KeyboardInterrupt):
        describe_into(asked, ["images"], Request(), DEFAULT_WEIGHTS, tell=tell)
    assert len((image_folder / "metadata.jsonl").read_text().splitlines()) == 2
    with pytest.raises(UserError, match="was interrupted here"):
        describe_into(asked, ["images"], Request("classic"), DEFAULT_WEIGHTS)
    records, said = describe_into(asked, ["images"], Request(), DEFAULT_WEIGHTS)
    assert len(records) == 4 and said == "6 captions written, 0 kept as they were"
    texts = [json.loads(line)["text"] for line in (image_folder / "metadata.jsonl").read_text().splitlines()]
    assert texts == [record["prompt"] for record in [*made, *records]]


@pytest.mark.parametrize(
    "options, said",
    [
        ("--write txt --captioner git", "build/weights: holds no captioner 'git'"),
        ("--existing append", "--existing is of captions in files. Give --write txt, jsonl or csv too"),
        ("--max-tokens 75", "--max-tokens is of captions in files"),
        (
            "--write txt --mode negative --form sentence",
            "--form sentence is the captioner's, and mode negative asks none",
        ),
        ("--write text", "unknown --write 'text' (did you mean 'txt'?)"),
        ("--write jsonl --keys text", "--keys text: expected two names"),
        ("--ban none.txt", "none.txt: no such word list"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_image(here, image_folder, capsys, options, said):
    assert main(["describe", "images", *options.split()]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and f"error: {said}" in captured.err
    assert len(list(image_folder.iterdir())) == 6


def test_every_term_banned_is_told(here, image_folder):
    banks = [path.read_text().splitlines() for path in (here / "build/weights/word_banks").glob("*.txt")]
    with pytest.raises(UserError, match="mode fast: every term holds a banned word"):
        kernel.describe("images", ban=[term for bank in banks for term in bank])
