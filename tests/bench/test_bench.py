"""The bench itself, on tiny models: every contender does its job, and the summary says what was measured."""

import json
import subprocess

import pytest
from PIL import Image

from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from tests import warm
from tests.bench import __main__ as bench
from tests.bench import parts, tried
from tests.bench.docs import measured
from tests.bench.jobs import JOBS
from tests.bench.material import prepare
from tests.bench.summary import REACH, chart, missed, ratios, table

# seconds a picture; measured, in small, by test_describing.py
FAST, BEST = {"ours": 0.1, "clip_interrogator": 0.7}, {"ours": 1.0, "clip_interrogator": 9.0}


@pytest.fixture(scope="module")
def material(tmp_path_factory, weights_folder):
    return prepare(tmp_path_factory.mktemp("bench"), weights_folder, 3, small=True)


@pytest.fixture(scope="module")
def found(material):
    """The content of bench.json, of tiny models and few of everything."""
    batches = {"clip": 2, "captions": 2, "sentences": 2}
    once: dict[str, dict] = {}
    jobs = {}
    for job in JOBS.values():
        for name in job.contenders:
            # once each, to spare time: the floor and ours of the first job stand for the second too
            if name not in once:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(subprocess, "Popen", warm.Popen)
                    once[name] = bench.medians([bench.contend(material, name, job, 3, batches)])
        own = {name: once[name] for name in job.contenders}
        jobs[job.name] = {"images": 3, "floor_batches": batches, "contenders": own}
    found = {"machine": "a test's", "date": "", "rounds": 1, "jobs": jobs, "help_cpu_seconds": 0.1}
    found["long"] = once["ours"]
    found["largest_model_bytes"] = max(path.stat().st_size for path in material.weights.rglob("*.safetensors"))
    found["parts"] = parts.measured(material.pictures, small=True)
    found["describe"] = {
        mode: {"images": dict.fromkeys(seconds, 1), "seconds": seconds, "identical": 1, "compared": 1}
        for mode, seconds in (("fast", FAST), ("best", BEST))
    }
    return {**found, "ratios": ratios(found)}


def test_every_contender_times_its_stages_and_the_same_pictures(found):
    for job in found["jobs"].values():
        for name, own in job["contenders"].items():
            assert own["images"] == 3
            assert {"clip", "captions", "sentences"} <= set(own["stages"])
            assert 0 < sum(own["stages"].values()) <= own["seconds_an_image"] * 1.001 or name == "ours"
            assert own["start_seconds"] > 0 and own["wall_seconds"] > own["start_seconds"]


@pytest.mark.usefixtures("found")
def test_ours_and_clip_interrogator_say_the_same_of_every_picture(material):
    """Else their seconds would not be of the same job."""
    said = json.loads((material.folder / "classic-clip_interrogator.json").read_text())
    ours = RunFolder(material.folder / "classic-ours", list_images(material.pictures), 256)
    captions, _ = results.read_captions(ours)
    assert len(said) == 3
    for prompt, own, (medium, artist, *others) in zip(said, captions, results.read_modifiers(ours), strict=True):
        whole = ", ".join([own[0], f"{medium} {artist}", *others])
        # theirs ends where CLIP's 77 tokens do
        assert whole.startswith(prompt) and prompt.startswith(f"{own[0]}, {medium} {artist}")


def test_the_json_holds_every_ratio_that_is_asked_for(found):
    assert set(found["ratios"]) == set(REACH)
    assert json.loads(json.dumps(found)) == found


def test_the_bench_that_the_pages_show_reached_every_bound():
    assert missed(measured("bench.json")) == []


@pytest.mark.slow
def test_what_was_tried_runs_both_ways(material):
    weights, paths = open_weights(material.weights), sorted(material.pictures.iterdir())
    pictures = [Image.open(path).convert("RGB") for path in paths]
    for group in (tried.decoding(paths), tried.captioning(weights, pictures), tried.embedding(weights)):
        assert all(tried.ratio(way, rounds=1) > 0 for way in group)


def test_a_ratio_beyond_its_bound_is_missed():
    reached = {name: bound for name, (bound, _) in REACH.items()}
    assert missed({"ratios": reached}) == []
    for name, (bound, kind) in REACH.items():
        assert missed({"ratios": {**reached, name: bound * (1.01 if kind == "most" else 0.99)}}) == [name]


def test_the_table_and_the_chart_hold_what_was_measured(found, tmp_path):
    text = table(found)
    assert all(f"`{name}` | {value:.3g} |" in text for name, value in found["ratios"].items())
    chart(found, tmp_path / "bench.svg")
    assert "clip-interrogator" in (tmp_path / "bench.svg").read_text()
