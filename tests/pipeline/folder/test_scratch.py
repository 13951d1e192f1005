"""A scratch folder: a killed `describe` goes on in it, and nothing of another one is ever taken."""

import json
import shutil
from pathlib import Path

import pytest

from kernel.__main__ import main
from kernel.banks.word_banks import Phrases
from kernel.errors import UserError
from kernel.interrogator.request import Request
from kernel.miniature.world.folders import TEST_SEED, draw_folder
from kernel.pipeline import describe as module
from kernel.pipeline.captioning import describe_into
from kernel.pipeline.describe import Means, describe, identity_of
from kernel.pipeline.folder import results
from kernel.pipeline.folder.results import CaptionShard
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.folder.scratch import scratch_folder
from kernel.pipeline.images import list_images
from kernel.pipeline.stages.captions import CaptionsStage
from kernel.pipeline.stages.descriptions import DescriptionsStage
from kernel.sidecars.asked import Sidecars
from kernel.system.devices import Device
from kernel.system.work import CannotBeUsed


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    """Six pictures, in three shards."""
    monkeypatch.setattr(module, "SHARD", dict.fromkeys(module.SHARD, 2))
    draw_folder(tmp_path / "images", TEST_SEED, 6)
    return tmp_path / "images"


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, int]]:
    """The items that stages make, as they do."""
    items = []

    def counted(kind, make):
        def told(self, item, share):
            items.append((kind.__name__, item))
            yield from make(self, item, share)

        return told

    for kind in (CaptionsStage, DescriptionsStage):
        monkeypatch.setattr(kind, "make", counted(kind, kind.make))
    return items


def test_what_was_described_before_a_kill_is_told_again_and_not_made_again(images, made, weights_folder, tmp_path):
    def ask(tell):
        request = Request(top=3, features=str(tmp_path / "features"))
        return describe([images], request, weights_folder, Means(device="cpu", scratch=tmp_path / "scratch"), tell)

    def interrupted(record):
        if record["image"].endswith("000002.png"):
            raise KeyboardInterrupt

    expected = ask(lambda record: None)
    assert list((tmp_path / "scratch").iterdir()) == []
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        ask(interrupted)
    assert made[-1] == ("DescriptionsStage", 1) and len(list((tmp_path / "scratch").iterdir())) == 1
    made.clear()
    told = []
    assert ask(told.append) == expected == told
    assert made == [("DescriptionsStage", 2)]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("cleared", [False, True])
def test_captions_that_are_written_are_not_made_again_where_the_scratch_folder_is_gone(
    images, made, weights_folder, tmp_path, cleared
):
    means, told = Means(device="cpu", scratch=tmp_path / "scratch"), []

    def ask(tell):
        request = Request(top=3, features=str(tmp_path / "features"))
        return describe_into(Sidecars("txt"), [images], request, weights_folder, means, tell)

    def interrupted(record):
        told.append(record["image"])
        if len(told) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(interrupted)
    if cleared:
        shutil.rmtree(means.scratch)
    made.clear()
    records, said = ask(lambda record: None)
    assert said == "6 captions written, 0 kept as they were" and len(records) == (2 if cleared else 6)
    anew = [("CaptionsStage", 0), ("DescriptionsStage", 0)]
    assert made == (anew if cleared else [("DescriptionsStage", 2)])
    assert list(means.scratch.iterdir()) == []


def test_a_command_that_was_given_a_scratch_folder_later_goes_on_in_it(images, made, weights_folder, tmp_path):
    def ask(scratch, most):
        told: list[str] = []

        def interrupted(record):
            told.append(record["image"])
            if len(told) == most:
                raise KeyboardInterrupt

        request, means = Request(top=3, features=str(tmp_path / "features")), Means(device="cpu", scratch=scratch)
        return describe_into(Sidecars("txt"), [images], request, weights_folder, means, interrupted)

    for scratch, most in ((None, 2), (tmp_path / "scratch", 2), (tmp_path / "scratch", 1)):
        with pytest.raises(KeyboardInterrupt):
            ask(scratch, most)
    made.clear()
    records, said = ask(tmp_path / "scratch", 0)
    assert said == "6 captions written, 0 kept as they were" and len(records) == 4
    assert [kind for kind, _ in made].count("CaptionsStage") == 0
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_shard_that_was_cut_is_made_again(images, made, weights_folder, tmp_path):
    words = ["--weights", weights_folder, "--scratch", tmp_path / "scratch", "--features", tmp_path / "features"]

    def cut(self, item, share):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DescriptionsStage, "make", cut)
        assert main(["describe", str(images), *map(str, words)]) == 1
    (first,) = (tmp_path / "scratch").glob("*/captions/00000.json")
    first.write_bytes(first.read_bytes()[:-9])
    made.clear()
    assert main(["describe", str(images), *map(str, words)]) == 0
    assert [item for kind, item in made if kind == "CaptionsStage"] == [0]


def test_captions_that_failed_are_made_again_when_the_command_is(images, weights_folder, tmp_path, monkeypatch):
    words = ["--weights", weights_folder, "--scratch", tmp_path / "scratch", "--features", tmp_path / "features"]

    def unusable(self, item, share):
        raise CannotBeUsed("somebody else has the device")

    with pytest.MonkeyPatch.context() as patch:
        for kind in (CaptionsStage, DescriptionsStage):
            patch.setattr(kind, "make", unusable)
        assert main(["describe", str(images), *map(str, words)]) == 1
    assert len(list((tmp_path / "scratch").glob("*/captions/*.json"))) == 3
    assert main(["describe", str(images), *map(str, words)]) == 0


def test_what_was_described_by_a_captioner_that_stood_in_goes_with_its_captions(images, tmp_path):
    folder = RunFolder(tmp_path, list_images(images), 2)
    for shards in (results.CAPTIONS, results.DESCRIPTIONS):
        (tmp_path / shards.stage).mkdir()
    for shard, sha256 in enumerate(({"blip": "b"}, {"blip2": "a"}, {"blip2": "a"})):
        content = CaptionShard([["a fox"], ["a hill"]], [None, None], sha256=sha256)
        results.write_captions(folder, shard, content)
        folder.write_json(results.DESCRIPTIONS, shard, {})
    results.drop_described_of_others(folder, {"blip2": "a"})
    assert folder.made(results.CAPTIONS) == folder.made(results.DESCRIPTIONS) == [1, 2]


def test_words_are_those_that_the_command_began_with(images, weights_folder, tmp_path, monkeypatch):
    words = tmp_path / "pets.txt"
    words.write_text("a cat\na dog\n")
    make = CaptionsStage.make

    def changed_meanwhile(self, item, share):
        words.write_text("a horse\n")
        yield from make(self, item, share)

    monkeypatch.setattr(CaptionsStage, "make", changed_meanwhile)
    request = Request(top=9, own={"pets": str(words)}, features=str(tmp_path / "features"))
    records = describe([images], request, weights_folder, Means(device="cpu"))
    terms = {part["term"] for record in records for part in record["parts"]}
    assert words.read_text() == "a horse\n" and "a horse" not in terms
    assert len(records) == 6 and not any("error" in record for record in records)


def test_every_thing_that_decides_a_prompt_makes_another_folder(images, monkeypatch):
    files = list_images(images)
    request, recipe, devices = Request(), module.recipe_of("fast", "auto"), [Device("cpu")]

    def named(files=files, request=request, models=None, banks=(), devices=devices):
        models = models or {"clip": "a"}
        found = identity_of(files, request, recipe, models, list(banks), devices)
        return json.dumps(found, sort_keys=True)

    others = [
        named(),
        named(files[:-1]),
        named(request=Request("best")),
        named(request=Request(top=5)),
        named(models={"clip": "b"}),
        named(banks=[Phrases("own", ["a cat"], {})]),
        named(devices=[Device("cuda:0", "Tesla T4")]),
    ]
    for said in ("안개", "짙은 안개"):
        (images / f"{said}.txt").write_text(f"{said}\tfog\n")
        others.append(named(request=Request(language="ko", own={"날씨": str(images / f"{said}.txt")})))
    (images / "000000.png").write_bytes(b"another picture")
    others.append(named())
    monkeypatch.setattr(module, "code_sha256", lambda: "another")
    others.append(named())
    monkeypatch.setattr(module, "deciding_versions", lambda: {"torch": "1.0"})
    others.append(named())
    assert len(set(others)) == 12


def test_the_same_command_twice_at_once_is_refused(tmp_path):
    with scratch_folder(tmp_path, lambda: "one") as folder, pytest.raises(UserError, match="give --scratch another"):
        with scratch_folder(tmp_path, lambda: "one"):
            pass
    with scratch_folder(tmp_path, lambda: "one"), scratch_folder(tmp_path, lambda: "two") as other:
        assert other != folder and other.parent == tmp_path


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give --scratch a folder that you may write into"):
        with scratch_folder(tmp_path / "file", lambda: "one"):
            pass
