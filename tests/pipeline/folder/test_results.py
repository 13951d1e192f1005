import json

import numpy as np
import pytest

from kernel.pipeline.folder import results, run_folder
from tests.pipeline.folders import captioned, opened

UNUSUAL = ["größe 猫", 'say "hi"', "two words", "a,b"]


def test_image_features_come_back_in_image_order_whatever_order_shards_were_written_in(tmp_path):
    run = opened(tmp_path)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    for shard in (2, 0, 1):
        start, stop = run.borders[shard]
        results.write_rows(run, results.CLIP, shard, rows[start:stop], {}, [])
    assert results.read_clip(run)[0].tolist() == rows.tolist()


def test_bad_images_of_all_shards_come_back_with_their_reasons(tmp_path):
    run = opened(tmp_path, shard_images=4)
    reasons = {UNUSUAL[0]: "OSError: 'größe 猫.png' ist kaputt", UNUSUAL[1]: 'broken "header"\\'}
    results.write_rows(run, results.CLIP, 0, np.zeros((4, 3), dtype=np.float32), {UNUSUAL[0]: reasons[UNUSUAL[0]]}, [])
    results.write_rows(run, results.CLIP, 1, np.zeros((1, 3), dtype=np.float32), {UNUSUAL[1]: reasons[UNUSUAL[1]]}, [])
    assert results.read_clip(run)[1] == reasons


def test_captions_of_all_shards_come_back_in_image_order(tmp_path):
    run = opened(tmp_path, shard_images=3)
    first, second = [["a fish", "größe 猫"], [], ['a "sign"']], [["x"], ["y", ""]]
    results.write_captions(run, 1, captioned(second, bad={"4": "gone"}))
    results.write_captions(run, 0, captioned(first, bad={"1": "ValueError: größe"}))
    assert results.read_captions(run) == (first + second, {"1": "ValueError: größe", "4": "gone"})


def test_a_shard_that_was_not_made_has_no_captions_and_is_counted(tmp_path):
    run = opened(tmp_path)
    shard = captioned([["x"], ["x"]], failed={"4": "ValueError"}, reduced=["3"])
    results.write_captions(run, 1, shard)
    captions, _ = results.read_captions(run)
    assert captions == [[], [], ["x"], ["x"], []]
    assert results.caption_shards(run) == {1: shard}
    assert run.unmade_images(results.CAPTIONS) == {file.id for shard in (0, 2) for file in run.shard_files(shard)}


def test_a_part_of_a_shard_is_read_but_made_again_by_the_next_run(tmp_path):
    run = opened(tmp_path)
    (first, second) = (file.id for file in run.shard_files(0))
    results.write_captions(run, 0, captioned([["x"], ["y"]]))
    results.write_captions(run, 0, captioned([["x"], []], unmade=[second]))
    results.write_rows(run, results.CLIP, 0, np.eye(2, dtype=np.float32), {}, [first])
    assert results.read_captions(run)[0][:2] == [["x"], []]
    later = {file.id for shard in (1, 2) for file in run.shard_files(shard)}
    assert (run.unmade_images(results.CLIP), run.unmade_images(results.CAPTIONS)) == ({first} | later, {second} | later)
    again = opened(tmp_path)
    assert again.made(results.CAPTIONS) == [] and again.made(results.CLIP) == []


def test_modifiers_come_back_as_they_were(tmp_path):
    run = opened(tmp_path)
    results.write_modifiers(run, [["a woodcut", "größe"], []])
    assert results.read_modifiers(run) == [["a woodcut", "größe"], []]


def test_an_estimate_is_kept_bit_by_bit(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 384)).astype(np.float32)
    usable = np.array([True, False, True, True, False])
    results.write_estimate(opened(tmp_path), "prompts", rows, usable)
    found, found_usable = results.read_estimate(opened(tmp_path), "prompts")
    assert found.tobytes() == rows.tobytes()
    assert found_usable.tolist() == usable.tolist()


def test_an_id_that_utf8_cannot_hold_does_not_stop_the_captions(tmp_path):
    run = opened(tmp_path)
    results.write_captions(run, 0, captioned([[]], bad={"\udce9": "bad"}))
    assert json.loads(run.shard_path(results.CAPTIONS, 0).read_text(encoding="utf-8"))["bad"] == {"?": "bad"}


def test_a_file_of_any_size_in_a_run_folder_is_not_read(tmp_path, monkeypatch):
    run = opened(tmp_path)
    results.write_captions(run, 0, captioned([["x" * 2**20], ["x"]]))
    results.write_modifiers(run, [["x" * 2**20]])
    for module in (results, run_folder):
        monkeypatch.setattr(module, "MOST_BYTES", 2**20)
    for read in (results.read_captions, results.read_modifiers):
        with pytest.raises(OSError, match="more than 1 MiB"):
            read(run)


def test_of_several_captioners_each_has_its_own_files_and_scores_go_with_the_captions_they_are_of(tmp_path):
    run = opened(tmp_path)
    for name, said in (("blip2", [["a fish"], ["a cat"]]), ("coca", [["a trout"], []])):
        results.write_captions(run, 0, captioned(said), name)
        run.write_json(results.COSINES.by(name), 0, [[0.5] * len(own) for own in said])
    assert run.made(results.CAPTIONS) == [] and run.made(results.CAPTIONS.by("coca")) == [0]
    assert results.told_captions(run, "blip2,coca")[:2] == [["blip2: a fish", "coca: a trout"], ["blip2: a cat"]]
    assert results.read_caption_scores(run, "clip", "coca")[:2] == [[0.5], []]
    results.write_captions(run, 0, captioned([["a carp"], ["a dog"]]), "coca")
    assert list(results.unscored(run, results.COSINES, 0, "blip2,coca")) == ["coca"]
    assert results.read_caption_scores(run, "clip", "coca")[:2] == [None, None]
    assert results.read_caption_scores(run, "clip", "blip2")[:2] == [[0.5], [0.5]]


def test_several_captioners_have_not_come_to_what_none_has_come_to(tmp_path):
    run = opened(tmp_path)
    first = run.shard_ids(0)
    results.write_captions(run, 0, captioned([["x"], []], unmade=[first[1]]), "blip2")
    results.write_captions(run, 1, captioned([["x"], ["y"]]), "coca")
    later = {image for shard in range(2, len(run.borders)) for image in run.shard_ids(shard)}
    assert results.unmade_images(run, results.CAPTIONS, "blip2,coca") == {first[1]} | later
    assert results.unmade_images(run, results.CAPTIONS, "blip2,git") == {first[1]} | later | set(run.shard_ids(1))
