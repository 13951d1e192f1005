"""Fixtures for the way to Kaggle: the project as a user has it, in a folder that a test may change."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.publish.kaggle.staging import Staged
from kernel.publish.wheels import fill_wheels
from tests.conftest import ROOT
from tests.publish.kaggle.kaggle_client import make_staged, talk_to
from tests.publish.kaggle.kaggle_server import KaggleServer


@pytest.fixture(scope="session")
def wheels_folder() -> Path:
    """The project's own wheels/, filled by the real pip when they are not there yet."""
    fill_wheels(ROOT)
    return ROOT / "wheels"


@pytest.fixture
def project(tmp_path: Path, wheels_folder: Path) -> Path:
    """A copy of what the way to Kaggle reads: package, notebooks, wheels and metadata."""
    folder = tmp_path / "project"
    left_out = shutil.ignore_patterns("miniature", "__pycache__")
    for name in ("kernel", "notebooks", "wheels"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for name in ("dataset-metadata.json", "kernel-metadata.json"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """The service on the loopback interface, with the real client led to it."""
    with KaggleServer() as server:
        talk_to(server, tmp_path, monkeypatch)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Staged:
    """A small staged dataset."""
    return make_staged(tmp_path / "dataset")
