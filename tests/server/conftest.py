"""The server's application in this process, its worker with the miniature models in another."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from kernel.server.app import Place, application
from kernel.server.guard import Rules

ADDRESS = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def place(weights_folder, tmp_path_factory) -> Place:
    return Place(weights_folder.resolve(), "cpu", tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def client(place) -> Iterator[TestClient]:
    with TestClient(application(place, Rules()), base_url=ADDRESS, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def pictures(drawn) -> list[tuple[str, bytes]]:
    """Six drawn pictures as people have them: names and bytes."""
    found = []
    for name, (picture, _) in zip("abcdef", drawn, strict=False):
        body = BytesIO()
        picture.save(body, "PNG")
        found.append((f"{name}.png", body.getvalue()))
    return found


@pytest.fixture
def on_disk(pictures, tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, body in pictures:
        (folder / name).write_bytes(body)
    return folder


def parts(pictures: list[tuple[str, bytes]]) -> list[tuple[str, tuple[str, bytes]]]:
    """As a form sends them."""
    return [("pictures", picture) for picture in pictures]
