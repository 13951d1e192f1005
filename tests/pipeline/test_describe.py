"""The command and the call, on the miniature models."""

import json
import os

import pytest

import kernel
from kernel.__main__ import main
from kernel.banks.word_banks import read_phrases
from kernel.commands.describe import own_words
from kernel.config import Recipe
from kernel.errors import UserError
from kernel.models.captioners.asked.florence2 import FLORENCE2
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.pipeline.describe import CAPTIONS, found
from kernel.pipeline.stages.captions import CaptionsStage


@pytest.fixture
def here(tmp_path, monkeypatch, weights_folder):
    """A folder in which the weights are where the command looks for them; features that it keeps stay in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "weights").symlink_to(weights_folder)
    return tmp_path


@pytest.mark.parametrize("mode", ["classic", "fast", "best"])
def test_every_record_holds_its_caption_its_parts_and_the_similarity_of_its_prompt(
    here, image_folder, drawn, weights, cpu, mode
):
    records = kernel.describe(image_folder, mode, top=4)
    assert [record["image"] for record in records] == [str(path) for path in sorted(image_folder.iterdir())]
    pictures = [picture for picture, _ in drawn[:6]]
    said = load_captioner(weights, "blip2", cpu).captions(pictures, Recipe(**CAPTIONS))
    clip = ClipEncoder.load(weights, cpu)
    features = clip.encode_images(pictures)
    for record, (caption,), row in zip(records, said, features, strict=True):
        assert record["mode"] == mode and record["caption"] == caption and record["prompt"].startswith(caption)
        assert record["similarity"] == pytest.approx(float(clip.encode_texts([record["prompt"]], 1)[0] @ row), abs=1e-5)
        shown = [part["term"] for part in record["parts"] if part["term"] in record["prompt"]]
        assert shown or mode == "best"
    if mode == "best":
        for record in records:
            cosines = {name: own["similarity"] for name, own in record["candidates"].items()}
            assert list(cosines) == ["caption", "classic", "fast", "chain"]
            assert record["similarity"] == max(cosines.values()) and cosines["chain"] >= cosines["caption"]


def test_negative_needs_no_captioner_and_finds_what_is_far(here, image_folder, monkeypatch):
    monkeypatch.setattr(CaptionsStage, "make", None)
    positive = {record["image"]: record for record in kernel.describe(image_folder, "negative", top=3)}
    for record in positive.values():
        assert "caption" not in record and record["prompt"] == ", ".join(part["term"] for part in record["parts"])
        cosines = [part["similarity"] for part in record["parts"]]
        assert record["similarity"] == pytest.approx(min(cosines))


def test_a_bad_image_and_a_missing_one_become_records_and_exit_1_when_the_others_are_done(here, image_folder, capsys):
    (image_folder / "c.png").write_bytes(b"not an image")
    assert main(["describe", "images", "nowhere.png", "--json"]) == 1
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert [record["image"] for record in records] == [*(f"images/{name}.png" for name in "abcdef"), "nowhere.png"]
    bad = [record for record in records if "error" in record]
    assert [record["image"] for record in bad] == ["images/c.png", "nowhere.png"]
    assert "UnidentifiedImageError" in bad[0]["error"] and "FileNotFoundError" in bad[1]["error"]
    assert f"images/c.png: {bad[0]['error']}" in captured.err
    assert all(record["prompt"] for record in records if record not in bad)


def test_a_file_that_is_not_there_is_told_before_anything_is_opened(here, capsys):
    assert main(["describe", "nowhere.png", "--weights", "no weights either"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "nowhere.png: FileNotFoundError: No such file or directory\n"


def test_of_several_files_that_are_not_there_each_is_a_record(here):
    os.mkfifo(here / "pipe.png")
    records = kernel.describe(["nowhere.png", "pipe.png"], weights="no weights either")
    assert records == [
        {"image": "nowhere.png", "mode": "fast", "error": "FileNotFoundError: No such file or directory"},
        {"image": "pipe.png", "mode": "fast", "error": "a named pipe, not a file"},
    ]


def test_beside_the_prompts_a_terminal_shows_a_bar_for_each_stage_and_nothing_else(here, image_folder, capsys):
    assert main(["describe", "images"]) == 0
    assert main(["describe", "images"]) == 0  # the words are known by now
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert [line.partition(":")[0] for line in lines] == ["captions", "fast"]
    assert all("6/6" in line for line in lines)


def test_files_of_a_folder_that_are_no_images_are_told_once(here, image_folder, capsys):
    for name in ("a.psd", "b.psd"):
        (image_folder / name).touch()
    assert [path.name for path in found("images")] == [f"{name}.png" for name in "abcdef"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("images: 2 left out, by the suffix no image: 2 .psd")


def test_lines_on_stdout_are_names_and_prompts_and_of_one_file_the_prompt_alone(here, image_folder, capsys):
    assert main(["describe", "images/[ab].png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["images/a.png", "images/b.png"]
    assert main(["describe", "images/b.png"]) == 0
    assert capsys.readouterr().out == lines[1].split("\t")[1] + "\n"


@pytest.mark.usefixtures("warm_processes")
def test_several_workers_say_what_one_says(here, image_folder):
    assert kernel.describe(image_folder, "best", top=2, device="cpu,cpu") == kernel.describe(
        image_folder, "best", top=2
    )


def test_own_words_take_part_and_their_features_are_kept(here, image_folder, weights):
    words = here / "pets.txt"
    words.write_text("a cat\na dog\n")
    without = ["flavors", "mediums", "movements"]
    (first, *_), kept = kernel.describe(image_folder, words={"pets": words}, without=without), here / "build/features"
    assert {part["bank"] for part in first["parts"]} == {"pets"}
    assert {part["term"] for part in first["parts"]} == {"a cat", "a dog"}
    (file,) = kept.iterdir()
    before = file.stat().st_mtime_ns
    kernel.describe(image_folder, words={"pets": words}, without=without)
    assert file.stat().st_mtime_ns == before


def test_top_bounds_the_terms(here, image_folder, weights):
    flavors = set(read_phrases(weights.folder / "word_banks" / "flavors.txt").phrases)
    for record in kernel.describe(image_folder / "a.png", "classic", top=5):
        assert len([part for part in record["parts"] if part["term"] in flavors]) == 5
    (record,) = kernel.describe(image_folder / "a.png", "fast", top=2)
    assert len(record["parts"]) == 2 and record["prompt"].count(", ") == 2


def test_a_captioner_that_fails_on_everything_hands_over_to_the_next(here, image_folder, monkeypatch, capsys):
    def load(weights, name, device):
        if name == "blip2":
            raise UserError("broken")
        return load_captioner(weights, name, device)

    monkeypatch.setattr("kernel.pipeline.stages.captions.load_captioner", load)
    assert all(record["caption"] for record in kernel.describe(image_folder))
    assert "captioner blip2 was given up" in capsys.readouterr().err


def test_a_captioner_that_is_asked_in_words_may_say_more_than_another(here, image_folder, monkeypatch):
    begin, lengths = CaptionsStage.__init__, []

    def told(self, job, device, name):
        lengths.append((name, job.recipe.max_length))
        begin(self, job, device, name)

    monkeypatch.setattr(CaptionsStage, "__init__", told)
    monkeypatch.setattr(BLIP2, "longest_sentence", FLORENCE2.longest_sentence)
    for captioner in ("blip2", "blip"):
        kernel.describe("images/a.png", captioner=captioner)
    assert lengths == [("blip2", 77), ("blip", CAPTIONS["max_length"])]


def test_without_any_captioner_every_image_says_so(here, image_folder, monkeypatch):
    def load(*arguments):
        raise UserError("broken")

    monkeypatch.setattr("kernel.pipeline.stages.captions.load_captioner", load)
    records = kernel.describe(image_folder)
    assert len(records) == 6 and all("no captioner could be used (blip2: " in record["error"] for record in records)


@pytest.mark.parametrize("names", [("blip2", "blip"), ("blip", "blip2")])  # of one who wins always, last and first
@pytest.mark.parametrize("mode", ["classic", "fast", "best"])
def test_of_several_captioners_the_prompt_nearest_to_the_image_is_taken(here, image_folder, mode, names):
    both, first, second = (kernel.describe(image_folder, mode, captioner=name) for name in (",".join(names), *names))
    told_apart = 0
    for record, *alone in zip(both, first, second, strict=True):
        assert record.pop("captions") == {name: own["caption"] for name, own in zip(names, alone, strict=True)}
        nearer = max(alone, key=lambda own: own["similarity"])
        assert record["similarity"] == pytest.approx(nearer["similarity"], abs=1e-5)
        assert (record["prompt"], record["caption"]) in [(own["prompt"], own["caption"]) for own in alone]
        if abs(alone[0]["similarity"] - alone[1]["similarity"]) > 1e-4:
            assert record["prompt"] == nearer["prompt"] and list(record) == list(nearer)
            told_apart += 1
    assert told_apart


def test_of_several_captioners_one_that_fails_is_left_out_and_told(here, image_folder, monkeypatch, capsys):
    loaded = load_captioner
    expected = kernel.describe(image_folder, captioner="blip")

    def load(weights, name, device):
        if name == "blip2":
            raise UserError("broken")
        return loaded(weights, name, device)

    monkeypatch.setattr("kernel.pipeline.stages.captions.load_captioner", load)
    records = kernel.describe(image_folder, captioner="blip2,blip")
    assert "captioner blip2 was given up (UserError: broken)" in capsys.readouterr().err
    for record, alone in zip(records, expected, strict=True):
        assert record == {**alone, "similarity": record["similarity"], "captions": {"blip": alone["caption"]}} | {
            "parts": record["parts"]
        }


def test_where_each_of_several_captioners_fails_every_image_says_so(here, image_folder, monkeypatch):
    def load(*arguments):
        raise UserError("broken")

    monkeypatch.setattr("kernel.pipeline.stages.captions.load_captioner", load)
    for record in kernel.describe(image_folder, captioner="blip2,blip"):
        assert all(f"no captioner could be used ({name}: " in record["error"] for name in ("blip2", "blip"))


def test_a_mode_without_captions_takes_none_of_several_captioners(here, image_folder):
    assert kernel.describe(image_folder, "negative", captioner="blip2,blip") == kernel.describe(
        image_folder, "negative"
    )


def test_clip_that_cannot_be_used_is_told(here, image_folder, monkeypatch):
    def load(cls, *arguments):
        raise UserError("broken")

    monkeypatch.setattr(ClipEncoder, "load", classmethod(load))
    with pytest.raises(UserError, match="CLIP cannot be used on cpu .*broken.*0 of 6 images are described"):
        kernel.describe(image_folder)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["images", "--mode", "clasic"], "unknown mode 'clasic' (did you mean 'classic'?)"),
        (["images", "--without", "flavor"], "no word bank 'flavor' to leave out (did you mean 'flavors'?)"),
        (["images", "--words", "none.txt"], "none.txt: no such word list"),
        (["empty"], "empty: no images found"),
        (["*.gif"], "*.gif: no file fits this pattern"),
        (["images", "--captioner", "git"], "holds no captioner 'git'"),
        (["images", "--captioner", "blip,git"], "holds no captioner 'git'"),
        (["images", "--captioner", "blip,blip"], "captioner=blip,blip names 'blip' more than once"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_image(here, image_folder, capsys, arguments, said):
    (here / "empty").mkdir()
    assert main(["describe", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and f"error: {said}" in captured.err or said in captured.err


def test_words_are_named_by_the_bank_or_by_their_file():
    assert own_words(["flavors=mine.txt", "lists/pets.txt"]) == {"flavors": "mine.txt", "pets": "lists/pets.txt"}
