"""`publish pairs` against a hub on the loopback interface, whose files are as their publishers write them."""

from pathlib import Path

import pytest

from kernel.config import PairSettings
from kernel.publish.hub.pairs.publish import publish_pairs
from kernel.publish.hub.pins import PINS
from tests.publish.hub.hub_server import talk_to
from tests.publish.hub.pairs.source_files import (
    DIFFUSIONDB,
    PROMPTS,
    diffusiondb_zip,
    encoded,
    pair_hub,
    picture,
    scores,
    sd_repository,
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
