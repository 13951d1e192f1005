"""A pair set whose pictures a real Ray cluster of this machine resizes: the bytes of one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.cluster.disturbed import awaited, environment
from tests.cluster.nodes import ROOT
from tests.processes import parent
from tests.publish.hub.hub_server import PROXIES
from tests.publish.hub.pairs.source_files import pair_hub, sd_repository

# the command line, with pieces of 4 pictures
COMMAND = """
import sys
import kernel.__main__ as main
from kernel.publish.hub.pairs import pieces
pieces.PIECE = 4
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with pair_hub(sd_repository(tmp_path_factory.mktemp("sd"))) as hub:
        yield hub


def publish(hub, weights, place: Path, *more: str) -> subprocess.Popen:
    words = ["--out", place / "set", "--scratch", place / "scratch", "--weights", weights.folder, "--size", "48",
             "--limit", "1000", "--near", "0.99", "--device", "cpu", *more]  # fmt: skip
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *PROXIES)
    own = {key: value for key, value in environment().items() if key not in offline}
    return warm.Popen(
        [sys.executable, "-c", COMMAND, "publish", "pairs", "sd-4.4M", *map(str, words)], cwd=ROOT, text=True,
        env=own | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def made(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def ended(command: subprocess.Popen) -> str:
    said, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    assert "36 of 36 pictures" in said
    return errors


@pytest.fixture(scope="module")
def expected(hub, weights, tmp_path_factory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("expected")
    ended(publish(hub, weights, place))
    return made(place)


@pytest.fixture
def begun(nodes, told, hub, weights, tmp_path):
    """The command on the cluster, begun."""
    told.clear()
    return lambda: publish(hub, weights, tmp_path, "--engine", "ray", "--address", nodes.address)


def test_what_a_killed_machine_had_in_hand_is_resized_by_another(begun, nodes, told, expected, tmp_path):
    told.wait_at("Resizer", 1)
    command = begun()
    awaited(lambda: told.began("Resizer", 1), command)
    raylet = parent(told.began("Resizer", 1)[0])
    assert raylet in nodes.raylets
    nodes.kill(raylet)
    awaited(lambda: len(told.began("Resizer", 1)) == 2, command)
    told.go()
    ended(command)
    nodes.add()
    assert made(tmp_path) == expected


def test_a_killed_command_goes_on_to_the_same_set(begun, told, expected, tmp_path):
    told.wait_at("Resizer", 1)
    command = begun()
    awaited(lambda: told.began("Resizer", 1) and told.began("Resizer", 2), command)
    os.kill(command.pid, signal.SIGKILL)
    command.communicate()
    assert list((tmp_path / ".set.tmp" / "pieces").glob("*.tar"))
    told.go()
    ended(begun())
    assert made(tmp_path) == expected
