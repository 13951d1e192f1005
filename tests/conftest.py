"""Fixtures shared by all tests. The network is refused before anything else is imported."""

from kernel.system.offline import refuse_network

refuse_network()

import ctypes  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from uuid import uuid4  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from kernel.config import DEFAULT_WEIGHTS, Paths, Recipe  # noqa: E402
from kernel.miniature.world.drawing import draw  # noqa: E402
from kernel.miniature.world.folders import TEST_SEED  # noqa: E402
from kernel.miniature.world.grammar import Scene, scene_stream  # noqa: E402
from kernel.models.weights_folder import Weights, open_weights  # noqa: E402
from kernel.system.devices import Device  # noqa: E402
from tests import warm  # noqa: E402
from tests.s3_server import S3Server  # noqa: E402

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT.parent / "shared" / "sample"
# files that one worker takes minutes for: begun first, none of them is waited for alone at the end
LONGEST = ("whole/test_readme.py", "bench/test_cluster.py", "cluster/test_training.py", "cluster/test_bank.py",
           "cluster/test_run.py", "whole/test_full_size.py", "publish/test_prepare.py",
           "whole/test_kills.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"tests/{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The assembled miniature weights; `make test` keeps them fresh, a bare pytest makes them once."""
    folder = ROOT / DEFAULT_WEIGHTS
    if not (folder / "manifest.json").is_file():
        from kernel.miniature.assemble import assemble

        folder.parent.mkdir(exist_ok=True)
        assemble(folder)
    return folder


@pytest.fixture(scope="session")
def weights(weights_folder: Path) -> Weights:
    return open_weights(weights_folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that speaks S3, which the test's process finds, with a new bucket of the name `s3_server.bucket`."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.bucket = f"bucket-{uuid4().hex}"
    s3_server.files.mkdir(s3_server.bucket)
    return s3_server


@pytest.fixture
def warm_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test's own one starts are forked from one that has imported the large libraries."""
    monkeypatch.setattr(subprocess, "Popen", warm.Popen)


@pytest.fixture
def as_a_user() -> Iterator[None]:
    """The test's thread without root's rights over all files, where it has them: what is forbidden stays forbidden."""
    capability, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    capability.capget(header, sets)  # linux/capability.h: effective, permitted and inheritable, twice
    effective, sets[0], sets[3] = (sets[0], sets[3]), 0, 0
    capability.capset(header, sets)
    yield
    sets[0], sets[3] = effective
    capability.capset(header, sets)


@pytest.fixture(scope="session")
def cpu() -> Device:
    return Device("cpu")


@dataclass(frozen=True)
class HalfOnCpu(Device):
    """Loads as on a GPU, where none is."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16


@pytest.fixture(scope="session")
def half_on_cpu() -> Device:
    return HalfOnCpu("cpu")


@pytest.fixture(scope="session")
def drawn() -> list[tuple[Image.Image, Scene]]:
    """24 pictures never trained on, with their scenes."""
    return [(draw(scene, rng), scene) for scene, rng in scene_stream(TEST_SEED, 24)]


@pytest.fixture(scope="module")
def submission_by(tmp_path_factory, weights_folder, drawn) -> Callable[[Recipe], dict[str, np.ndarray]]:
    """The rows that a recipe gives undisturbed of the pictures of `image_folder`."""
    from kernel.pipeline.run import run
    from kernel.pipeline.submission import read_submission

    def answered(recipe: Recipe) -> dict[str, np.ndarray]:
        folder = tmp_path_factory.mktemp("undisturbed")
        save_pictures(folder / "images", drawn)
        run(recipe, Paths(folder / "images", weights_folder, folder / "run"), "cpu")
        return read_submission(folder / "run" / "submission.csv")

    return answered


def save_pictures(folder: Path, drawn: list[tuple[Image.Image, Scene]]) -> None:
    folder.mkdir()
    for name, (picture, _) in zip("abcdef", drawn, strict=False):
        picture.save(folder / f"{name}.png")


@pytest.fixture
def image_folder(tmp_path: Path, drawn: list[tuple[Image.Image, Scene]]) -> Path:
    """Six drawn pictures, a.png to f.png."""
    save_pictures(tmp_path / "images", drawn)
    return tmp_path / "images"


@pytest.fixture
def own_copy(tmp_path: Path, weights: Weights) -> Callable[[str], Weights]:
    """Weights whose folder of one model is a copy that the test may break; the rest is linked."""

    def copy(model: str) -> Weights:
        folder = tmp_path / "weights"
        shutil.copytree(weights.folder, folder, copy_function=os.link)
        own = Weights(folder, weights.models, weights.captioners).model_folder(model)
        shutil.rmtree(own)
        shutil.copytree(weights.model_folder(model), own)
        return Weights(folder, weights.models, weights.captioners)

    return copy


@pytest.fixture(scope="session")
def sample() -> Path:
    if not SAMPLE.is_dir():
        pytest.skip("the competition's visible sample is not beside the project; it is never part of it")
    return SAMPLE
