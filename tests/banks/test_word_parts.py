"""Features of word lists part by part: a kill or a deadline takes a part, not the lists."""

from dataclasses import replace

import numpy as np
import pytest

from kernel.banks.word_banks import Phrases, features_file, join_parts, parts_of, read_features, write_features
from kernel.config import RECIPES, Paths
from kernel.models.clip import ClipEncoder
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.job import Job
from kernel.pipeline.run import run
from kernel.pipeline.stages.words import WordsStage
from kernel.system.deadline import Deadline, OutOfTime
from kernel.system.work import Share

LISTS = (Phrases("mediums", list("abcde"), {}), Phrases("flavors", list("xy"), {}))
RECIPE = replace(RECIPES["baseline"], num_beams=1, captions_per_image=1, text_batch=2)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    monkeypatch.setattr("kernel.banks.word_banks.PART", 2)


def test_parts_are_of_one_list_each_and_in_order(tmp_path):
    parts = parts_of(LISTS, "3f2a", tmp_path)
    assert ["".join(part.phrases) for part in parts] == ["ab", "cd", "e", "xy"]
    assert len({part.path for part in parts}) == 4


def test_a_list_is_joined_when_its_last_part_is_there(tmp_path):
    folder = tmp_path / "features"
    for number, part in enumerate(parts_of(LISTS[:1], "3f2a", folder)):
        assert not join_parts(LISTS[0], "3f2a", folder)
        write_features(part.path, np.full((len(part.phrases), 3), number, dtype=np.float32))
    assert join_parts(LISTS[0], "3f2a", folder)
    (path,) = folder.iterdir()  # the parts are gone
    assert path == features_file(LISTS[0], "3f2a", [folder])
    assert read_features(LISTS[0], path)[:, 0].tolist() == [0, 0, 1, 1, 2]


def test_without_time_nothing_of_a_part_is_begun_and_what_is_made_stays(tmp_path, weights, cpu):
    stage = WordsStage(Job(RECIPE, weights, RunFolder(tmp_path, [], 1), None, [], LISTS), cpu)
    assert sum(stage.make(0, Share(7, Deadline()))) == 2
    with pytest.raises(OutOfTime):
        list(stage.make(1, Share(5, Deadline(0.0))))
    assert [part.path.is_file() for part in stage.parts] == [True, False, False, False]


def test_a_run_killed_among_the_words_goes_on_there(image_folder, weights_folder, tmp_path, monkeypatch, capfd):
    real, asked = ClipEncoder.encode_texts, []

    def encode_texts(self, texts, batch):
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(texts)
        return real(self, texts, batch)

    where = Paths(image_folder, weights_folder, tmp_path / "run")
    monkeypatch.setattr(ClipEncoder, "encode_texts", encode_texts)
    with pytest.raises(KeyboardInterrupt):
        run(RECIPE, where, "cpu", limit=1)
    monkeypatch.setattr(ClipEncoder, "encode_texts", lambda self, *more: (asked.append(more[0]), real(self, *more))[1])
    assert run(RECIPE, where, "cpu", limit=1)["problems"] == []
    phrases = [phrase for texts in asked for phrase in texts]
    assert len(phrases) == len(set(phrases)) == 28  # none was encoded twice
    assert "words:  36%" in capfd.readouterr().err  # 10 of 28, where it went on
    assert len(list((where.run / "features").iterdir())) == 3


def test_lists_for_which_the_time_did_not_suffice_are_named(image_folder, weights_folder, tmp_path, monkeypatch):
    def make(self, item, share):
        yield 0
        raise OutOfTime

    where = Paths(image_folder, weights_folder, tmp_path / "run")
    monkeypatch.setattr(WordsStage, "make", make)
    content = run(RECIPE, where, "cpu", limit=1)
    assert content["problems"] == [
        "no modifiers were taken from mediums, movements, flavors, which CLIP did not encode (the time was over)"
    ]
