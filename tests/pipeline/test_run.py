"""The line as a whole, on the miniature models."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernel.banks.nearest import nearest
from kernel.banks.word_banks import read_phrases
from kernel.config import RECIPES, Paths
from kernel.errors import UserError
from kernel.estimates.texts import compose
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.models.weights_folder import write_manifest
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import images_sha256
from kernel.pipeline.run import Line, run
from kernel.pipeline.submission import check_submission, read_submission
from tests import warm
from tests.conftest import ROOT

FAST = replace(RECIPES["baseline"], num_beams=2, captions_per_image=2, shard_images=2)


SHORTFALL = ("bad_images", "no_features", "no_encoder", "caption_failures", "fallback_captions", "lacking_captioners",
             "fewer_captions", "unweighed_captions", "no_captions", "degraded_rows")  # fmt: skip


def paths(tmp_path, weights_folder, name="run") -> Paths:
    return Paths(tmp_path / "images", weights_folder, tmp_path / name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights_folder, drawn):
    """One run over six drawn pictures: its paths and what it returned."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "images").mkdir()
    for name, (picture, _) in zip("abcdef", drawn, strict=False):
        picture.save(folder / "images" / f"{name}.png")
    where = Paths(folder / "images", weights_folder, folder / "run")
    return where, run(FAST, where)


def test_every_image_has_a_unit_row(finished):
    where, _ = finished
    check_submission(where.run / "submission.csv", list("abcdef"))
    rows = np.stack(list(read_submission(where.run / "submission.csv").values()))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_rows_are_the_mean_embedding_of_the_composed_prompts(finished, weights, cpu):
    """The line once more, written out image by image from what the stages left."""
    where, content = finished
    encoder = SentenceEncoder.load(weights, cpu)
    rows = read_submission(where.run / "submission.csv")
    modifiers = json.loads((where.run / "clip" / "modifiers.json").read_text())
    captions = [
        own
        for shard in range(3)
        for own in json.loads((where.run / "captions" / f"{shard:05d}.json").read_text())["captions"]
    ]
    for image_id, said, phrases in zip("abcdef", captions, modifiers, strict=True):
        expected = encoder.encode(compose(said, phrases, FAST), 8).mean(axis=0)
        np.testing.assert_allclose(rows[image_id], expected / np.linalg.norm(expected), atol=1e-6)


def test_modifiers_are_one_medium_one_movement_three_flavors(finished, weights):
    where, _ = finished
    banks = {
        name: read_phrases(weights.folder / "word_banks" / f"{name}.txt").phrases
        for name in ("mediums", "movements", "flavors")
    }
    for phrases in json.loads((where.run / "clip" / "modifiers.json").read_text()):
        assert phrases[0] in banks["mediums"] and phrases[1] in banks["movements"]
        assert len(phrases) == 5 and set(phrases[2:]) <= set(banks["flavors"])


def test_run_json_says_what_ran(finished):
    where, content = finished
    written = json.loads((where.run / "run.json").read_text())
    assert written["recipe"]["num_beams"] == 2
    assert written["shards"] == [[0, 2], [2, 4], [4, 6]]
    assert written["counts"] == {"images": 6, **dict.fromkeys(SHORTFALL, 0)}
    assert written["problems"] == []
    stages = {"words", "clip", "modifiers", "captions", "estimates", "submission"}
    assert set(written["seconds"]) == {"start", "loading MiniLM", *stages}
    assert set(written["images_per_second"]) == stages
    assert written["total_seconds"] >= sum(written["seconds"].values()) - 0.01  # each rounded to a thousandth
    assert written["versions"]["transformers"] and written["memory"]["captions"]["host"] > 2**20
    assert written["images"] == str(where.images) and written["weights"] == str(where.weights)


def test_paths_in_run_json_mean_the_same_from_everywhere(image_folder, tmp_path, weights_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(weights_folder)
    recipe = replace(FAST, estimates={"neighbours": 1.0}, neighbours=5, modifiers={})
    content = run(recipe, Paths(Path("images"), Path("weights"), Path("run")), limit=1)
    assert content["images"] == str(tmp_path / "images") and content["weights"] == str(tmp_path / "weights")
    assert content["bank"]["folder"] == str(tmp_path / "weights" / "prompt_bank")


def test_time_kept_for_the_last_answer_is_of_what_is_made_again(image_folder, tmp_path, weights_folder, monkeypatch):
    """The bank takes 1,000 seconds, once; texts take next to none, and these come again with the captions."""
    clock = iter(range(1_000_000))
    slept, kept = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: slept[0] + next(clock) / 1e6)
    really, ends = nearest, Line.ends

    def slow(*arguments):
        slept[0] += 1000
        return really(*arguments)

    monkeypatch.setattr("kernel.estimates.of_bank.nearest", slow)
    monkeypatch.setattr(Line, "ends", lambda self, reserve: (kept.append(reserve), ends(self, reserve))[1])
    run(replace(FAST, estimates={"prompts": 0.5, "neighbours": 0.5}, neighbours=5), paths(tmp_path, weights_folder))
    assert slept == [1000.0] and 0 < kept[-1] < 1


def test_every_stage_has_one_bar_with_images_a_second_and_time_left(image_folder, tmp_path, weights_folder, capfd):
    run(FAST, paths(tmp_path, weights_folder))
    whole = re.findall(
        r"(?:^|[\r\n])([a-z][a-z0-9 ]*): +100%\|.*?\| (?:6/6|28/28) \[\d\d:\d\d<\d\d:\d\d, .*?(?:image|phrase)/?s?",
        capfd.readouterr().err,
    )
    assert list(dict.fromkeys(whole)) == ["words", "clip", "estimates before captions", "captions", "estimates"]
    run(FAST, paths(tmp_path, weights_folder))  # what is made already has no bar
    err = capfd.readouterr().err
    assert "estimates:" in err and "clip:" not in err and "captions:" not in err


def test_bad_images_get_the_fallback_row_and_are_listed(image_folder, tmp_path, weights_folder, weights, cpu):
    (image_folder / "empty.png").write_bytes(b"")
    (image_folder / "text.png").write_text("no picture")
    whole = (image_folder / "a.png").read_bytes()
    (image_folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (20_000, 1)).save(image_folder / "strip.png")
    Image.new("RGB", (1, 1)).save(image_folder / "dot.png")
    content = run(FAST, paths(tmp_path, weights_folder))
    assert set(content["bad_images"]) == {"empty", "text", "cut"}
    assert content["counts"] == {"images": 11, **dict.fromkeys(SHORTFALL, 0), "bad_images": 3, "degraded_rows": 3}
    rows = read_submission(tmp_path / "run" / "submission.csv")
    prior = read_phrases(weights_folder / "prior.txt").phrases
    fallback = unit_rows(SentenceEncoder.load(weights, cpu).encode(prior, 256).mean(axis=0, keepdims=True))[0]
    for image_id in content["bad_images"]:
        np.testing.assert_allclose(rows[image_id], fallback, atol=1e-6)
    for image_id in ("a", "strip", "dot"):
        assert np.abs(rows[image_id] - fallback).max() > 0.01


def test_a_folder_of_only_bad_images_still_gives_a_submission(tmp_path, weights_folder):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"")
    content = run(FAST, paths(tmp_path, weights_folder))
    assert content["counts"]["bad_images"] == 1
    check_submission(tmp_path / "run" / "submission.csv", ["x"])


def test_one_image_and_a_limit(image_folder, tmp_path, weights_folder):
    run(FAST, paths(tmp_path, weights_folder), limit=1)
    check_submission(tmp_path / "run" / "submission.csv", ["a"])


def test_a_second_run_makes_only_what_is_missing(image_folder, tmp_path, weights_folder):
    where = paths(tmp_path, weights_folder)
    run(FAST, where)
    first = (where.run / "submission.csv").read_bytes()
    kept = where.run / "captions" / "00000.json"
    before = kept.stat().st_mtime_ns
    (where.run / "captions" / "00001.json").unlink()
    (where.run / "submission.csv").unlink()
    unfinished = kept.with_name(".00001.json.another-machine-7.tmp")
    unfinished.write_text("begun by a worker that was killed")
    run(FAST, where)
    assert kept.stat().st_mtime_ns == before and not unfinished.exists()
    assert (where.run / "submission.csv").read_bytes() == first


def test_a_changed_recipe_makes_the_stages_again_that_depend_on_the_change(
    image_folder, tmp_path, weights_folder, capsys
):
    where = paths(tmp_path, weights_folder)
    run(FAST, where)
    first = (where.run / "submission.csv").read_bytes()
    captioned = (where.run / "captions" / "00000.json").stat().st_mtime_ns
    run(replace(FAST, modifiers={"mediums": 2}), where)
    assert "recipe, words changed since the last run: estimates made again" in capsys.readouterr().err
    assert (where.run / "submission.csv").read_bytes() != first
    assert (where.run / "captions" / "00000.json").stat().st_mtime_ns == captioned
    run(replace(FAST, modifiers={"mediums": 2}, max_length=10), where)
    expected = "max_length, recipe changed since the last run: captions, cosines, matching, estimates made again"
    assert expected in capsys.readouterr().err
    assert (where.run / "captions" / "00000.json").stat().st_mtime_ns != captioned


def test_a_shard_that_was_damaged_is_made_again(image_folder, tmp_path, weights_folder):
    where = paths(tmp_path, weights_folder)
    run(FAST, where)
    first = (where.run / "submission.csv").read_bytes()
    torn = [where.run / "clip" / "00001.safetensors", where.run / "captions" / "00002.json"]
    whole = [path.read_bytes() for path in torn]
    torn[0].write_bytes(whole[0][:-8])
    torn[1].write_bytes(whole[1].replace(b"a", b"b"))
    run(FAST, where)
    assert [path.read_bytes() for path in torn] == whole
    assert (where.run / "submission.csv").read_bytes() == first


def test_a_users_own_word_list_is_one_more_bank(image_folder, tmp_path, weights_folder):
    words = tmp_path / "mine.txt"
    words.write_text("only this\n")
    run(replace(FAST, modifiers={"mediums": 1, str(words): 1}), paths(tmp_path, weights_folder), limit=1)
    assert json.loads((tmp_path / "run" / "clip" / "modifiers.json").read_text())[0][1] == "only this"


def test_without_modifiers_the_captions_alone_answer(image_folder, tmp_path, weights_folder):
    run(replace(FAST, modifiers={}), paths(tmp_path, weights_folder), limit=1)
    assert json.loads((tmp_path / "run" / "clip" / "modifiers.json").read_text()) == [[]]


def test_rows_that_are_not_normalised_are_plain_means(image_folder, tmp_path, weights_folder):
    run(replace(FAST, normalise=False), paths(tmp_path, weights_folder), limit=2)
    rows = np.stack(list(read_submission(tmp_path / "run" / "submission.csv").values()))
    assert (np.linalg.norm(rows, axis=1) < 1).all()


def test_the_other_captioner_by_name(image_folder, tmp_path, weights_folder):
    content = run(replace(FAST, captioner="blip"), paths(tmp_path, weights_folder), limit=1)
    assert content["captioners"] == {"blip": 1} and content["problems"] == []


def test_an_unknown_captioner_lists_the_folders_own(image_folder, tmp_path, weights_folder):
    with pytest.raises(UserError, match=r"no captioner 'blip3' \(did you mean 'blip'\?\); it has blip2, blip"):
        run(replace(FAST, captioner="blip3"), paths(tmp_path, weights_folder))


def test_an_unknown_word_bank_lists_the_folders_own(image_folder, tmp_path, weights_folder):
    with pytest.raises(UserError, match="unknown word bank 'artists'. Valid: flavors, mediums, movements"):
        run(replace(FAST, modifiers={"artists": 1}), paths(tmp_path, weights_folder))


def test_altered_weights_stop_before_the_first_image(image_folder, tmp_path, own_copy):
    broken = own_copy("clip")
    path = broken.model_folder("clip") / "open_clip_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="sha256 .* differs from the manifest's"):
        run(FAST, paths(tmp_path, broken.folder))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("scale_decoder_outputs", True, "scale_decoder_outputs"), ("bos_token_id", None, "bos_token_id is missing")],
)
def test_a_captioner_that_would_caption_wrongly_stops_before_the_first_image(
    image_folder, tmp_path, own_copy, key, value, said
):
    """Even when the manifest vouches for its files."""
    broken = own_copy("blip2")
    path = broken.model_folder("blip2") / "config.json"
    config = json.loads(path.read_text())
    config["text_config"][key] = value
    path.write_text(json.dumps(config))
    (broken.folder / "manifest.json").unlink()
    write_manifest(broken.folder, broken.models, broken.captioners)
    with pytest.raises(UserError, match=said):
        run(FAST, paths(tmp_path, broken.folder))
    assert not (tmp_path / "run").exists()


def test_a_foreign_folder_is_not_written_into(image_folder, tmp_path, weights_folder):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no run.json"):
        run(FAST, paths(tmp_path, weights_folder))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def command(where: Paths, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "kernel", "run", str(where.images),
        "--weights", str(where.weights), "--out", str(where.run),
        "--set", "num_beams=2", "--set", "captions_per_image=2", "--set", "shard_images=2", *more,
    ]  # fmt: skip


def test_a_full_disk_is_said_and_leaves_no_half_submission(image_folder, tmp_path, weights_folder):
    """The operating system refuses to let any file grow past 20 kB, as a full disk would."""
    where = paths(tmp_path, weights_folder)
    limited = ["bash", "-c", 'ulimit -f 20 && trap "" XFSZ && exec "$@"', "run", *command(where)]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "cannot be written (File too large)" in last and "MiB are free" in last
    assert not list(where.run.rglob("*submission*")) and not list(where.run.rglob("*.tmp"))


def test_a_killed_run_goes_on_to_the_same_submission(image_folder, tmp_path, weights_folder):
    whole, killed = paths(tmp_path, weights_folder, "whole"), paths(tmp_path, weights_folder, "killed")
    warm.run(command(whole), cwd=ROOT, check=True, capture_output=True)
    process = warm.Popen(command(killed), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (killed.run / "captions" / "00000.json").is_file():
        time.sleep(0.005)  # waits for an event, not for a time
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    check_submission(killed.run / "submission.csv", list("abcdef"))
    assert (killed.run / "submission.csv").read_bytes() != (whole.run / "submission.csv").read_bytes()
    done = warm.run(command(killed), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "going on with the last run" in done.stderr
    assert (killed.run / "submission.csv").read_bytes() == (whole.run / "submission.csv").read_bytes()


def test_the_competitions_seven_images_go_through(sample, tmp_path, weights_folder):
    """With miniature models: the path, not the score."""
    ids = [path.stem for path in (sample / "images").iterdir()]
    content = run(FAST, Paths(sample / "images", weights_folder, tmp_path / "run"))
    assert content["counts"]["images"] == 7 and not content["bad_images"]
    check_submission(tmp_path / "run" / "submission.csv", ids)


def test_shards_belong_to_the_files_they_were_made_from(image_folder, tmp_path):
    from kernel.pipeline.images import list_images

    before = images_sha256(list_images(image_folder))
    Image.new("RGB", (5, 5)).save(image_folder / "a.png")
    assert images_sha256(list_images(image_folder)) != before
    assert RunFolder(tmp_path, list_images(image_folder), 4).borders == [(0, 4), (4, 6)]
