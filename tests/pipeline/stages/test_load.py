"""The table of stages: what a line in it is enough for."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from kernel.config import Paths, Recipe
from kernel.evaluation.finished import finished_run
from kernel.evaluation.report_content import reasons
from kernel.pipeline.folder.run_folder import RunFolder, Shards
from kernel.pipeline.job import Job
from kernel.pipeline.run import run
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.load import STAGES, StageWork, kept
from kernel.system.deadline import OutOfTime
from kernel.system.devices import Device
from kernel.system.work import Share

RECIPE = replace(Recipe(), estimates={"modifiers": 1.0}, modifiers={"mediums": 1}, shard_images=2)
BRIGHTNESS = Shards("brightness", ".json")


class BrightnessStage:
    """Of each image its mean grey, 0 to 255."""

    last = 3  # the time suffices for so many shards

    def __init__(self, job: Job, device: Device) -> None:
        self.folder: RunFolder = job.folder

    def make(self, item: int, share: Share) -> Iterator[int]:
        if item >= self.last:
            raise OutOfTime
        greys = [float(np.asarray(Image.open(file.path).convert("L")).mean()) for file in self.folder.shard_files(item)]
        self.folder.write_shard(BRIGHTNESS, item, json.dumps(greys).encode())
        yield len(greys)


@pytest.fixture
def brightness(monkeypatch) -> StageDeclaration:
    own = StageDeclaration(
        "brightness",
        BrightnessStage,
        label="brightness",
        writes=BRIGHTNESS,
        depends_on=("shard_images",),
        lack="brightness",
        aim="every image was measured",
    )
    monkeypatch.setitem(STAGES, own.name, own)
    return own


@pytest.fixture
def where(image_folder, weights_folder, tmp_path) -> Paths:
    """Six pictures."""
    return Paths(image_folder, weights_folder, tmp_path / "run", None)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stages_shards_lie_in_the_folder_of_its_name(stage):
    assert stage.writes is None or stage.writes.stage == stage.name


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_comes_after_all_that_it_reads_or_depends_on(stage):
    before = [own.writes for own in list(STAGES.values())[: list(STAGES.values()).index(stage)]]
    asked = {*stage.reads, *(what for what in stage.depends_on if isinstance(what, Shards))}
    assert asked <= set(before)


def test_what_shards_depend_on_is_a_setting_or_a_model():
    settings = {field.name for field in fields(Recipe)}
    named = {what for stage in kept() for what in stage.depends_on if stage.writes and isinstance(what, str)}
    assert named - settings == {"clip", "matching"}


def test_a_stage_runs_and_goes_on_by_its_line_in_the_table_alone(brightness, where, monkeypatch):
    content = run(RECIPE, where, "cpu")
    made = sorted(path.name for path in (where.run / "brightness").iterdir())
    assert made == [f"0000{shard}.json{seal}" for shard in range(3) for seal in ("", ".sha256")]
    assert content["seconds"]["brightness"] >= 0 and content["counts"]["no_brightness"] == 0
    assert content["identity"]["brightness"].keys() == {"images", "device", "format", "versions", "shard_images"}
    (where.run / "brightness" / "00001.json").write_text("[0.0, 0.0]")
    asked = []
    monkeypatch.setattr(BrightnessStage, "make", recorded(BrightnessStage.make, asked))
    assert run(RECIPE, where, "cpu")["problems"] == [] and asked == [1]


def recorded(make, asked: list[int]):
    def make_and_tell(self, item, share):
        asked.append(item)
        return make(self, item, share)

    return make_and_tell


def test_what_a_stage_did_not_come_to_is_told_by_record_and_report(brightness, where, monkeypatch):
    monkeypatch.setattr(BrightnessStage, "last", 2)
    content = run(RECIPE, where, "cpu")
    assert content["counts"]["no_brightness"] == content["counts"]["degraded_rows"] == 2
    assert content["problems"] == [
        "2 of 6 images have no brightness",
        "the time was over before every image was measured",
    ]
    said = reasons(finished_run(where.run))
    assert list(said.values()) == [["no brightness: the run ended before"]] * 2


def test_the_folder_of_features_of_phrases_is_written_by_the_stage_that_makes_them_alone(weights, tmp_path):
    features = tmp_path / "features"
    features.mkdir()
    for name in "ab":
        (features / f"{name}.safetensors").touch()
    job = Job(RECIPE, weights, RunFolder(tmp_path, [], 2), None, [], features=features)
    assert StageWork(job, "words").folders() == [tmp_path, features]
    for stage in ("captions blip", "descriptions"):
        own = StageWork(job, stage)
        assert own.folders() == [tmp_path] and own.inputs() == [weights.manifest, features / "a.safetensors"]
