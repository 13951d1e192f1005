"""`publish pairs`: the real client against a hub on the loopback interface, source files as their publishers write."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernel.__main__ import main
from kernel.config import PairSettings
from kernel.models.encoders.record import read_encoder_record
from kernel.pipeline.decoding import decode_file
from kernel.publish.hub.pairs.publish import publish_pairs
from kernel.publish.hub.pairs.tars import resized
from kernel.publish.hub.pins import PINS
from kernel.training import heads
from kernel.training.pairs import open_pairs
from kernel.training.split import read_split
from kernel.training.train import train
from tests.publish.hub.hub_server import Hub, talk_to
from tests.publish.hub.pair_files import (
    DIFFUSIONDB,
    DIFFUSIONDB_REVISION,
    OWN,
    OWN_REVISION,
    SD,
    SD_REVISION,
    encoded,
    sd_tar,
)

PROMPTS = [f"{start} {thing} {place}" for start in ("a red", "an old wooden", "a drawing of a") for thing in
           ("fish", "castle", "teapot", "robot", "hill", "violin", "tractor", "owl")
           for place in ("in deep fog", "on the moon", "under a bridge in winter")]  # fmt: skip


def picture(number: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def sd_pairs(numbers: range) -> list[tuple[bytes, str, int]]:
    return [
        (encoded(picture(number), lossless=True), PROMPTS[number], number % 6 + 10 * (number // 24))
        for number in numbers
    ]


@pytest.fixture(scope="module")
def sd_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sd")
    return {
        "README.md": b"#",
        "metadata.parquet": b"not asked for",
        "co/sd-4.4M-co-000.tar": sd_tar(folder, "co-000.tar", sd_pairs(range(12))),
        "co/sd-4.4M-co-001.tar": sd_tar(folder, "co-001.tar", sd_pairs(range(12, 24))),
        "mp/sd-4.4M-mp-000.tar": sd_tar(folder, "mp-000.tar", sd_pairs(range(24, 36))),
    }


def hub_of(files: dict[str, bytes]) -> Hub:
    revisions = {SD: SD_REVISION, DIFFUSIONDB: DIFFUSIONDB_REVISION, OWN: OWN_REVISION}
    everything = {SD: files, DIFFUSIONDB: {}, OWN: {}}
    tags = {SD: ["license:openrail"], OWN: ["region:us"]}
    return Hub(everything, revisions, frozenset(everything), tags)


@pytest.fixture
def hub(sd_files, monkeypatch):
    with hub_of(dict(sd_files)) as hub:
        talk_to(hub, monkeypatch)
        yield hub


@pytest.fixture(scope="module")
def sd_set(sd_files, weights_folder, tmp_path_factory) -> tuple[Path, dict]:
    """The whole of such a hub's sd-4.4M, published once, and what that returned."""
    place = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch, hub_of(sd_files) as hub:
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
