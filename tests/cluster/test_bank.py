"""A bank built by a real Ray cluster of this machine, whatever happens to its machines: the bytes of one process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.banks import build, selection
from kernel.banks.build import build_bank
from kernel.config import BankSettings
from kernel.miniature.world.folders import TEST_SEED, scenes
from tests import warm
from tests.cluster.nodes import ROOT, Nodes
from tests.engines import HERE
from tests.processes import parent

FILES = ("prompts.parquet", "clip.safetensors", "sentences.safetensors", "head.safetensors")
# the command line, with shards of 20 prompts, of which eight are compared together
COMMAND = """
import sys
import kernel.__main__ as main
from kernel.banks import build, selection
build.SHARD, selection.ROUND = 20, 8
sys.exit(main.main(sys.argv[1:]))
"""
# before each shard of a worker it says so in the file NUMBER-MODEL-PROCESS and goes by what `disturb` does
SITE = """
import os, resource, signal, sys, time
from pathlib import Path
told = Path({told!r})
def first():
    try:
        os.close(os.open(told / "first", os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False
def wait():
    while not (told / "go").exists():
        time.sleep(0.01)
def disturb(shard):
    {code}
if "default_worker.py" in " ".join(sys.orig_argv):
    from kernel.banks.encoding import Encoder
    make = Encoder.make
    def disturbed(self, item, *more):
        (told / f"{{item}}-{{self.encoding.model}}-{{os.getpid()}}").touch()
        disturb(item)
        yield from make(self, item, *more)
    Encoder.make = disturbed
"""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(dict.fromkeys(scene.prompt for scene in scenes(TEST_SEED, 300))) + "\n")
    return path


@pytest.fixture(scope="module")
def expected(prompts, weights, tmp_path_factory) -> dict[str, bytes]:
    """The bank of one process."""
    out = tmp_path_factory.mktemp("expected") / "bank"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SHARD", 20)
        patch.setattr(selection, "ROUND", 8)
        build_bank(BankSettings([prompts], near=0.95), weights.folder, out, HERE)
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture
def told(tmp_path) -> Path:
    (tmp_path / "told").mkdir()
    return tmp_path / "told"


@pytest.fixture
def site(tmp_path, told) -> Callable[[str], Path]:
    """A folder whose sitecustomize.py disturbs every worker of a cluster that begins with it."""

    def put(code: str = "pass") -> Path:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(SITE.format(told=str(told), code=code))
        return tmp_path / "site"

    return put


@pytest.fixture
def bank(prompts, weights, tmp_path) -> Callable[..., subprocess.Popen]:
    """The command that builds tmp_path/bank on a cluster, begun."""

    def begin(nodes: Nodes, out: Path = tmp_path / "bank", within: tuple[str, ...] = ()) -> subprocess.Popen:
        arguments = ["bank", prompts, "--weights", weights.folder, "--out", out, "--near", "0.95"]
        command = [*within, sys.executable, "-c", COMMAND, *map(str, arguments), "--engine", "ray", "--address"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return warm.Popen([*command, nodes.address], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=environment)  # fmt: skip

    return begin


def ended(command: subprocess.Popen) -> str:
    """What a command that succeeds says on stderr; on stdout is its result alone."""
    result, said = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert "prompts" in result.splitlines()[0] and len(result.splitlines()) == 7
    return said


def awaited(condition: Callable[[], object], command: subprocess.Popen) -> None:
    while not condition():
        assert command.poll() is None, command.communicate()
        time.sleep(0.01)  # waits for an event, not for a time


def in_hand(told: Path, shard: int, model: str = "sentences") -> list[int]:
    """The processes that began a shard."""
    return [int(path.name.rsplit("-", 1)[1]) for path in told.glob(f"{shard}-{model}-*")]


def assert_same(out: Path, expected: dict[str, bytes]) -> None:
    assert {name: (out / name).read_bytes() for name in FILES} == expected
    assert not (out / "building").exists()


def test_two_machines_build_the_bank_of_one_process(bank, site, told, expected, tmp_path):
    with Nodes(site()) as nodes:
        nodes.add(), nodes.add()
        said = ended(bank(nodes))
    assert f"the cluster at {nodes.address}" in said
    assert_same(tmp_path / "bank", expected)
    assert len({path.name.rsplit("-", 1)[1] for path in told.glob("*-sentences-*")}) == 2


def test_what_a_killed_machine_had_in_hand_is_made_by_another(bank, site, told, expected, tmp_path):
    with Nodes(site("if shard == 3: wait()")) as nodes:
        nodes.add(), nodes.add()
        command = bank(nodes)
        awaited(lambda: in_hand(told, 3), command)
        (worker,) = in_hand(told, 3)
        raylet = parent(worker)
        assert raylet in nodes.raylets
        nodes.kill(raylet)
        awaited(lambda: len(in_hand(told, 3)) == 2, command)
        (told / "go").touch()  # for both: the first one goes on without its machine, and writes what the other does
        said = ended(command)
    assert "the worker on" in said and "what was in hand there was made by others" in said
    assert_same(tmp_path / "bank", expected)


@pytest.mark.slow
def test_what_a_killed_worker_had_in_hand_is_made_by_another(bank, site, told, expected, tmp_path):
    with Nodes(site("if shard == 2 and first(): os.kill(os.getpid(), signal.SIGKILL)")) as nodes:
        nodes.add()
        said = ended(bank(nodes))
    assert "the worker on" in said
    assert len(in_hand(told, 2)) == 2
    assert_same(tmp_path / "bank", expected)


@pytest.mark.slow
def test_a_worker_without_memory_leaves_its_shard_to_another(bank, site, told, expected, tmp_path):
    """Its process may take no more memory than it has; what it is then refused is real."""
    code = "if shard == 2 and first(): resource.setrlimit(resource.RLIMIT_AS, (2**20, 2**20))"
    with Nodes(site(code)) as nodes:
        nodes.add()
        said = ended(bank(nodes))
    assert len(in_hand(told, 2)) >= 2
    assert "what was in hand there was made by others" in said
    assert_same(tmp_path / "bank", expected)


@pytest.mark.slow
def test_what_rays_own_memory_monitor_ends_is_made_on_another_machine(bank, site, expected, tmp_path):
    with Nodes(site()) as nodes:
        nodes.add(full=True), nodes.add()
        said = ended(bank(nodes))
    assert "low on memory" in said and "what was in hand there was made by others" in said
    assert_same(tmp_path / "bank", expected)


@pytest.mark.slow
def test_a_machine_that_joins_late_takes_its_part(bank, site, told, expected, tmp_path):
    with Nodes(site("if shard == 3: wait()")) as nodes:
        command = bank(nodes)  # no machine is there yet
        first = nodes.add()
        awaited(lambda: in_hand(told, 3), command)
        second = nodes.add()  # makes all the others while the first waits
        awaited(lambda: in_hand(told, 4), command)
        parents = {parent(own) for shard in (3, 4) for own in in_hand(told, shard)}
        assert parents == {first, second}
        (told / "go").touch()
        ended(command)
    assert_same(tmp_path / "bank", expected)


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_bank(bank, site, told, expected, tmp_path):
    with Nodes(site("if shard == 3: wait()")) as nodes:
        nodes.add(), nodes.add()
        command = bank(nodes)
        awaited(lambda: in_hand(told, 3), command)
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
        (told / "go").touch()
        assert "going on with the last build" in ended(bank(nodes))
    assert len(in_hand(told, 0)) == 1
    assert_same(tmp_path / "bank", expected)


class SmallDisk:
    """A disk of its own in a mount namespace that the cluster's processes and the command share."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        self.around = (
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'mount -t tmpfs -o size={size} tmpfs {folder} && exec "$@"',
            "sh",
        )

    def inside(self, nodes: Nodes) -> tuple[str, ...]:
        return ("nsenter", "--target", str(nodes.process.pid), "--mount", f"--wd={ROOT}")


@pytest.fixture
def small_disk(tmp_path) -> SmallDisk:
    (tmp_path / "disk").mkdir()
    disk = SmallDisk(tmp_path / "disk", "150k")
    if shutil.which("nsenter") is None or subprocess.run([*disk.around, "true"], capture_output=True).returncode:
        pytest.skip("this system allows no mount of a small disk")
    return disk


@pytest.mark.slow
def test_a_shared_disk_that_fills_is_told_and_with_room_it_goes_on(bank, expected, tmp_path, small_disk):
    with Nodes(within=small_disk.around) as nodes:
        nodes.add(), nodes.add()
        inside, out = small_disk.inside(nodes), small_disk.folder / "bank"
        command = bank(nodes, out, inside)
        _, said = command.communicate(timeout=300)
        assert command.returncode == 1
        assert "cannot be written (No space left on device)" in said and "finished shards are kept" in said
        subprocess.run([*inside, "mount", "-o", "remount,size=50m", small_disk.folder], check=True)
        assert "going on with the last build" in ended(bank(nodes, out, inside))
        subprocess.run([*inside, "cp", "-r", out, tmp_path / "bank"], check=True)
    assert_same(tmp_path / "bank", expected)
