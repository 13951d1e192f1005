"""`publish pairs`: the real client against a hub on the loopback interface, source files as their publishers write."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernel.__main__ import main
from kernel.config import PairSettings
from kernel.errors import UserError
from kernel.models.encoders.record import read_encoder_record
from kernel.pipeline.decoding import decode_file
from kernel.pipeline.images import ImageFile
from kernel.publish.hub.pairs import tars
from kernel.publish.hub.pairs.publish import publish_pairs
from kernel.publish.hub.pairs.sources import mixed
from kernel.publish.hub.pairs.stored import Stored
from kernel.publish.hub.pairs.tars import fill_tar, resized
from kernel.publish.hub.pins import PINS
from kernel.training import heads
from kernel.training.pairs import open_pairs
from kernel.training.split import read_split
from kernel.training.train import train
from tests.publish.hub.hub_server import talk_to
from tests.publish.hub.pair_files import (
    DIFFUSIONDB,
    DIFFUSIONDB_REVISION,
    OWN,
    OWN_REVISION,
    PROMPTS,
    SD,
    SD_REVISION,
    diffusiondb_zip,
    encoded,
    pair_hub,
    picture,
    scores,
    sd_pairs,
    sd_repository,
    sd_tar,
)


@pytest.fixture(scope="module")
def sd_files(tmp_path_factory) -> dict[str, bytes]:
    return sd_repository(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def hub(sd_files, monkeypatch):
    with pair_hub(dict(sd_files)) as hub:
        talk_to(hub, monkeypatch)
        yield hub


@pytest.fixture(scope="module")
def sd_set(sd_files, weights_folder, tmp_path_factory) -> tuple[Path, dict]:
    """The whole of such a hub's sd-4.4M, published once, and what that returned."""
    place = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch, pair_hub(sd_files) as hub:
        talk_to(hub, patch)
        asked = PairSettings("sd-4.4M", size=48, limit=1000, near=0.99)
        return place / "set", publish_pairs(asked, place / "set", weights_folder, place / "scratch", PINS, "cpu")


@pytest.fixture
def published(tmp_path, weights_folder):
    """`publish_pairs` into tmp_path/set."""

    def publish(source: str = "sd-4.4M", near: float = 0.99, out: str = "set", **settings) -> dict:
        asked = PairSettings(source, **{"near": near, "size": 48, "limit": 1000} | settings)
        return publish_pairs(asked, tmp_path / out, weights_folder, tmp_path / "scratch", PINS, "cpu")

    return publish


def test_sd_4_4m_becomes_a_pair_set_of_small_pictures_with_its_prompts_and_clusters(sd_set):
    folder, record = sd_set
    pairs = open_pairs(folder)
    assert sorted(pairs.prompts) == sorted(PROMPTS[:36]) and pairs.left_out == {}
    assert {path.name for path in folder.iterdir()} == {
        "co--sd-4.4M-co-000.tar", "co--sd-4.4M-co-001.tar", "mp--sd-4.4M-mp-000.tar", "pairs.json", "split.json",
    }  # fmt: skip
    assert pairs.clusters is not None and Counter(pairs.clusters) == Counter(own for _, _, own in sd_pairs(range(36)))
    assert {decode_file(own).size for own in pairs.pictures} == {(72, 48)}
    assert record == json.loads((folder / "pairs.json").read_text())
    assert (record["pictures"], record["read"], record["left_out"]) == (36, 36, {})


def test_every_picture_stays_with_its_prompt(sd_set):
    pairs = open_pairs(sd_set[0])
    for number in (0, 13, 35):
        found = np.asarray(decode_file(pairs.pictures[pairs.prompts.index(PROMPTS[number])]), dtype=float)
        differences = [np.abs(found - resized(picture(own), 48)).mean() for own in (number, number + 36)]
        assert differences[0] < 5 < 20 < differences[1]


def test_nothing_but_the_set_is_left_on_the_disk(sd_set):
    place = sd_set[0].parent
    assert [path for path in (place / "scratch").rglob("*") if path.is_file()] == []
    assert {path.name for path in place.iterdir()} == {"scratch", "set"}


def test_the_record_says_whence_the_pairs_are_and_under_which_licence(sd_set, sd_files):
    record = sd_set[1]
    assert (record["repository"], record["revision"], record["licence"]) == (SD, SD_REVISION, "openrail")
    assert set(record["files"]) == {name for name in sd_files if name.endswith(".tar")}
    assert record["files"]["co/sd-4.4M-co-000.tar"]["bytes"] == len(sd_files["co/sd-4.4M-co-000.tar"])


def test_an_encoder_is_trained_of_the_set_by_its_split_and_tells_its_licence(
    sd_set, tmp_path, weights_folder, monkeypatch
):
    monkeypatch.setattr(heads, "STEPS", 20)
    train(sd_set[0], weights_folder, tmp_path / "encoder", device="cpu")
    record = read_encoder_record(tmp_path / "encoder")
    assert record.trained_on.licence == "openrail"
    assert read_split(tmp_path / "encoder") == read_split(sd_set[0])
    assert record.held_out.pictures == len(read_split(sd_set[0]).held_out) > 0


def test_the_command_says_what_was_made_and_what_comes_next(hub, tmp_path, weights_folder, capfd):
    out = tmp_path / "set"
    words = ["--out", out, "--weights", weights_folder, "--scratch", tmp_path / "scratch", "--device", "cpu"]
    assert main(["publish", "pairs", "sd-4.4M", "--near", "0.99", "--limit", "1000", *map(str, words)]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"sd-4.4M: {SD} at {SD_REVISION}, licence openrail"
    assert said[1] == f"{out}: 36 of 36 pictures, 36 prompts"
    assert said[-1] == f"next: python -m kernel train {out} --weights {weights_folder} --out ENCODER"


# what is taken


@pytest.fixture
def diffusiondb(hub) -> dict[str, bytes]:
    """Two zips of twelve pictures each, all with low scores; a test changes what it is about."""
    files = hub.files[DIFFUSIONDB]
    for part in (1, 2):
        numbers = range(12 * part, 12 * part + 12)
        pairs = [(f"{number}.png", encoded(picture(number), "PNG"), PROMPTS[number]) for number in numbers]
        files[f"images/part-{part:06d}.zip"] = diffusiondb_zip(part, pairs)
    files["metadata.parquet"] = scores([(f"{number}.png", 0.1, 0.01) for number in range(12, 36)])
    return files


def test_diffusiondbs_zips_become_a_set_without_what_its_scores_call_unsafe(hub, diffusiondb, published, tmp_path):
    odd = {12: (2.0, 0.01), 13: (0.1, 0.9), 14: (None, 0.01)}
    diffusiondb["metadata.parquet"] = scores(
        [(f"{number}.png", *odd.get(number, (0.1, 0.01))) for number in range(12, 36) if number != 15]
    )
    record = published("diffusiondb", limit=20)
    pairs = open_pairs(tmp_path / "set")
    assert sorted(pairs.prompts) == sorted(PROMPTS[16:36]) and pairs.clusters is None
    assert record["left_out"] == {"NSFW score too high": 2, "no NSFW score": 2}
    assert (record["licence"], record["revision"]) == ("CC0-1.0", DIFFUSIONDB_REVISION)
    asked = {request.path.split("/")[-1] for request in hub.requests if request.method == "HEAD"}
    assert asked == {"metadata.parquet", "part-000001.zip", "part-000002.zip"}  # not the other 1,998


def test_the_split_of_a_set_without_clusters_is_the_one_that_training_would_make(
    hub, diffusiondb, published, tmp_path, weights_folder, monkeypatch
):
    monkeypatch.setattr(heads, "STEPS", 20)
    published("diffusiondb", limit=24)
    own = (tmp_path / "set" / "split.json").read_bytes()
    (tmp_path / "set" / "split.json").unlink()
    train(tmp_path / "set", weights_folder, tmp_path / "encoder", device="cpu")
    assert (tmp_path / "encoder" / "split.json").read_bytes() == own


def test_of_near_prompts_the_first_is_kept_over_all_files_and_of_a_prompt_two_pictures(hub, published, tmp_path):
    prompts = ["a red fish in deep fog", "a fish, red, in deep fog", "an old castle", "a red fish in deep fog"]
    for name in ("a.tar", "b.tar"):
        pairs = [(encoded(picture(number)), prompt, number) for number, prompt in enumerate(prompts)]
        filler = [(encoded(picture(number)), PROMPTS[number], number) for number in (30, 40, 50)]
        hub.files[OWN][name] = sd_tar(tmp_path / "tars", name, pairs + filler)
    hub.broken["b.tar"] = 404  # what was kept of the first is known to a second command too
    with pytest.raises(UserError):
        published(OWN, near=0.9)
    hub.broken.clear()
    record = published(OWN, near=0.9)
    kept = Counter(open_pairs(tmp_path / "set").prompts)
    assert kept == Counter({prompts[0]: 2, prompts[2]: 2} | {PROMPTS[number]: 2 for number in (30, 40, 50)})
    assert record["left_out"] == {
        "near duplicate of another prompt": 2, "prompt with 2 pictures already": 2
    }  # fmt: skip
    assert (record["pictures"], record["prompts"], record["read"]) == (10, 5, 14)


def test_a_repository_of_ones_own_goes_by_its_newest_revision_and_the_licence_of_its_page(hub, published, sd_files):
    hub.files[OWN] = {name.split("/")[-1]: content for name, content in sd_files.items()}
    record = published(OWN)
    assert (record["revision"], record["licence"], record["pictures"]) == (OWN_REVISION, "not stated", 36)
    hub.tags[OWN] = ["license:cc-by-4.0"]
    assert published(OWN, out="other")["licence"] == "cc-by-4.0"


def test_bad_pictures_mute_ones_and_a_tar_that_is_none_are_counted_and_stop_nothing(hub, published, sd_files, tmp_path):
    pairs = sd_pairs(range(36, 48))
    pairs[3] = (pairs[3][0][:40], *pairs[3][1:])
    pairs[5] = (b"", *pairs[5][1:])
    pairs[7] = (pairs[7][0], " ", 1)
    hub.files[OWN] = {"a.tar": b"no tar" * 300, "b.tar": sd_tar(tmp_path, "b.tar", pairs), "c.txt": b"words"}
    hub.files[OWN]["d.tar"] = sd_files["co/sd-4.4M-co-000.tar"]
    record = published(OWN)
    assert record["left_out"] == {"file that is not whole": 1, "empty": 1, "picture that cannot be decoded": 2}
    assert record["pictures"] + sum(record["left_out"].values()) == record["read"] == 25


def test_a_zip_with_pictures_that_are_damaged_or_without_prompt_gives_the_others(hub, diffusiondb, published):
    pairs = [(f"{number}.png", encoded(picture(number), "PNG"), PROMPTS[number]) for number in range(12, 24)]
    pairs[2] = (pairs[2][0], b"no picture", PROMPTS[14])
    pairs[4] = (*pairs[4][:2], None)
    content = bytearray(diffusiondb_zip(1, pairs))
    place = content.index(b"19.png") + 20
    content[place : place + 40] = bytes(40)
    diffusiondb["images/part-000001.zip"] = bytes(content)
    diffusiondb["images/part-000003.zip"] = b"PK" * 50
    diffusiondb["images/part-000004.zip"] = diffusiondb["images/part-000002.zip"]
    record = published("diffusiondb", limit=33)
    assert record["left_out"] == {
        "picture without a prompt": 1, "picture that cannot be decoded": 2, "file that is not whole": 1
    }  # fmt: skip


def test_a_table_of_scores_without_its_columns_stops_before_any_picture(hub, diffusiondb, published, tmp_path):
    diffusiondb["metadata.parquet"] = diffusiondb["metadata.parquet"].replace(b"image_nsfw", b"image_safe")
    with pytest.raises(UserError, match="metadata.parquet: its columns image_name, image_nsfw, prompt_nsfw cannot be"):
        published("diffusiondb")
    assert not list((tmp_path / ".set.tmp").rglob("*.tar"))


def test_a_limit_takes_of_every_folder_and_no_more_files_than_it_needs(hub, published, tmp_path):
    record = published(limit=20)
    names = {own.path.name for own in open_pairs(tmp_path / "set").pictures}
    assert record["pictures"] == 20 and names == {"co--sd-4.4M-co-000.tar", "mp--sd-4.4M-mp-000.tar"}
    assert not hub.downloads("co-001.tar")
    assert mixed(["a/1", "a/2", "a/3", "b/1", "c/1", "c/2"]) == ["a/1", "b/1", "c/1", "a/2", "c/2", "a/3"]


def test_a_limit_is_filled_with_pictures_that_can_be_used(hub, published, tmp_path):
    pairs = sd_pairs(range(10))
    pairs[2] = (b"bad", *pairs[2][1:])
    hub.files[OWN] = {"a.tar": sd_tar(tmp_path, "a.tar", pairs)}
    record = published(OWN, limit=6)
    assert (record["pictures"], record["read"]) == (6, 10)
    assert record["left_out"] == {"picture that cannot be decoded": 1, "more than the limit": 3}


def test_a_small_picture_is_not_enlarged_and_a_large_one_keeps_its_shape():
    assert resized(Image.new("RGB", (40, 90)), 48).size == (40, 90)
    assert resized(Image.new("RGB", (768, 1152)), 336).size == (336, 504)


# again, and otherwise


def test_the_same_command_again_asks_nothing_and_changes_nothing(sd_set, weights_folder, tmp_path):
    folder, record = sd_set
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    asked = PairSettings("sd-4.4M", size=48, limit=1000, near=0.99)
    assert publish_pairs(asked, folder, weights_folder, tmp_path, PINS, "cpu") == record
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_set_that_was_asked_for_otherwise_is_kept(sd_set, weights_folder, tmp_path):
    asked = PairSettings("sd-4.4M", size=64, limit=1000, near=0.99)
    with pytest.raises(UserError, match=r"asked for otherwise \(size 48, not 64\). Give the same options"):
        publish_pairs(asked, sd_set[0], weights_folder, tmp_path, PINS, "cpu")


def test_so_is_one_that_was_begun(hub, published, tmp_path):
    hub.broken["mp/sd-4.4M-mp-000.tar"] = 404
    with pytest.raises(UserError, match="mp-000.tar|404|no such file"):
        published()
    begun = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(UserError, match=r"\.set\.tmp: holds pairs .*\(near 0.99, not 0.5\)"):
        published(near=0.5)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == begun
    hub.broken.clear()
    hub.requests.clear()
    assert published()["pictures"] == 36
    assert not hub.downloads("co-000.tar") and not [own for own in hub.requests if own.path.startswith("/api")]


def test_files_of_others_in_the_way_are_not_touched(hub, published, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="set: holds files, and 'publish pairs' did not write them"):
        published()
    assert hub.requests == [] and (tmp_path / "set" / "notes.txt").read_text() == "mine"


# refusals


def test_an_unknown_source_is_refused_with_the_known_ones(hub, published):
    with pytest.raises(UserError, match=r"unknown source 'sd-4.4m' \(did you mean 'sd-4.4M'\?\). Valid: sd-4.4M, diff"):
        published("sd-4.4m")
    with pytest.raises(UserError, match="unknown source '../pictures'.*or OWNER/NAME of a dataset repository"):
        published("../pictures")
    assert hub.requests == []


def test_a_cosine_or_a_size_that_is_none_is_refused_before_anything_is_begun(hub, published, tmp_path):
    with pytest.raises(UserError, match="a cosine threshold of 7"):
        published(near=7)
    with pytest.raises(UserError, match="--size 5: expected 32 to 2048 pixels"):
        published(size=5)
    assert hub.requests == [] and list(tmp_path.iterdir()) == []


def test_a_repository_that_is_not_there_or_has_no_tars_is_said_to_be_so(hub, published, tmp_path):
    with pytest.raises(UserError, match=r"no/body at no revision yet: the hub knows no such repository"):
        published("no/body")
    hub.files[OWN] = {"a.zip": b""}
    with pytest.raises(UserError, match=r"someone/pictures at no revision yet: its 1 files are no tars"):
        published(OWN)


def test_a_disk_that_is_too_small_stops_before_the_first_picture(hub, published, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 130_000})())
    with pytest.raises(UserError, match=r"0.13 MB are free, .* are needed for one source file at a time"):
        published()
    assert not hub.downloads(".tar")


def test_where_nothing_passes_the_reasons_are_told(hub, published, tmp_path):
    hub.files[OWN] = {"a.tar": sd_tar(tmp_path, "a.tar", [(encoded(picture(1)), "cat", 1), (b"", PROMPTS[0], 2)])}
    why = "none of 2 pictures is taken \\(1 too few words, 1 picture that cannot be decoded\\)"
    with pytest.raises(UserError, match=why):
        published(OWN)


def test_a_file_of_another_content_than_the_hub_told_is_refused(hub, published, tmp_path):
    whole = hub.files[SD]["mp/sd-4.4M-mp-000.tar"]
    hub.at_cut = lambda: hub.files[SD].update({"mp/sd-4.4M-mp-000.tar": whole[:-1] + b"x"})
    hub.cuts["co/sd-4.4M-co-000.tar"] = [1000]
    with pytest.raises(UserError, match="mp-000.tar came with sha256 .*deleted unread.*source.json with the repo"):
        published()


# killed


def test_a_tar_that_was_cut_anywhere_is_gone_on_with_to_the_same_bytes(tmp_path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encoded(picture(number), "PNG") if number not in (0, 3) else b"bad")
    pairs = [
        (Stored(ImageFile(path.stem, path), path.stem, "", number), PROMPTS[number])
        for number, path in enumerate(paths)
    ]
    left_out: Counter[str] = Counter()
    assert fill_tar(tmp_path / "whole.tar", pairs, 16, 99, left_out) == 4 and left_out.total() == 2
    whole = (tmp_path / "whole.tar").read_bytes()
    for end in [*range(0, len(whole), 512), *range(10, len(whole), 512), len(whole)]:
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        left_out.clear()
        assert fill_tar(tmp_path / "cut.tar", pairs, 16, 99, left_out) == 4 and left_out.total() == 2
        assert (tmp_path / "cut.tar").read_bytes() == whole


def test_what_is_in_a_tar_that_was_cut_is_not_decoded_again(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(picture(1), "PNG"))
    pairs = [(Stored(ImageFile("a", tmp_path / "a.png"), "a", ""), prompt) for prompt in PROMPTS[:4]]
    fill_tar(tmp_path / "own.tar", pairs, 16, 3, Counter())
    decoded = []
    monkeypatch.setattr(tars, "decoded_batches", lambda files, _: decoded.extend(files) or [])
    fill_tar(tmp_path / "own.tar", pairs, 16, 4, Counter())
    assert len(decoded) == 1
