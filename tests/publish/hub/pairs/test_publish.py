"""`publish pairs`: the real client against a hub on the loopback interface, source files as their publishers write."""

import json
from collections import Counter

import numpy as np
import pytest

from kernel.__main__ import main
from kernel.config import PairSettings
from kernel.errors import UserError
from kernel.models.encoders.record import read_encoder_record
from kernel.pipeline.decoding import decode_file
from kernel.publish.hub.pairs.publish import publish_pairs
from kernel.publish.hub.pairs.tars import resized
from kernel.publish.hub.pins import PINS
from kernel.training import heads
from kernel.training.pairs import open_pairs
from kernel.training.split import read_split
from kernel.training.train import train
from tests.publish.hub.pairs.source_files import (
    OWN,
    PROMPTS,
    SD,
    SD_REVISION,
    encoded,
    picture,
    sd_pairs,
    sd_tar,
)


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


def test_names_that_lead_out_of_the_folder_or_to_one_file_are_refused(hub, published, sd_files, tmp_path):
    tar = sd_files["mp/sd-4.4M-mp-000.tar"]
    hub.files[OWN] = {"../../../mine.tar": tar}
    with pytest.raises(UserError, match="no answer of the hub .it lists '../../../mine.tar', which can be no file"):
        published(OWN)
    hub.files[OWN] = {"a\x1b[2J.tar": tar}
    with pytest.raises(UserError, match=r"no answer of the hub .it lists 'a\\x1b\[2J.tar'"):
        published(OWN)
    hub.files[OWN] = {"a/b.tar": tar, "a--b.tar": tar}
    with pytest.raises(UserError, match="a/b.tar and a--b.tar would be the same file of a set. Rename one"):
        published(OWN)
    hub.files[OWN] = {"source.tar": tar}  # as one of our own files is called
    hub.tags[OWN] = ["license:mit\x1b[2J"]
    assert (record := published(OWN))["pictures"] == 12 and record["licence"] == "mit [2J"


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
