"""Where no cluster is, or another one: one clear line. The limit of each command is twice what it may take."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from tests.cluster.nodes import ROOT, Nodes

OTHER_VERSION = """
import sys
if "tests.cluster.nodes" in sys.orig_argv:
    import ray
    ray.__version__ = "2.0.0"
"""


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red fish on a hill\n")
    return tmp_path / "prompts.txt"


ALONE = ("unshare", "--pid", "--fork", "--mount-proc")  # a process that sees no other


def refused(prompts, weights, address: str, *code: str, within: tuple[str, ...] = ()) -> str:
    """What the command says on stderr, one line, before it has made anything."""
    out = prompts.parent / "bank"
    start = code or ("-m", "kernel")
    command = [
        *within,
        sys.executable,
        *start,
        "bank",
        prompts,
        "--weights",
        weights.folder,
        "--out",
        out,
        "--engine",
        "ray",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["RAY_TMPDIR"] = str(prompts.parent)  # where it would look for a cluster that runs here
    given = ["--address", address] if address else []
    done = subprocess.run([*command, *given], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and not out.exists()
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.slow
def test_an_address_where_nobody_listens(prompts, weights):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    line = refused(prompts, weights, f"127.0.0.1:{port}")
    assert line.startswith(f"error: --address 127.0.0.1:{port}: no Ray cluster") and "ray start --head" in line


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_something_else_listens(prompts, weights, scheme):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        line = refused(prompts, weights, address)
    assert line.startswith(f"error: --address {address}: no Ray cluster") and "ray start --head" in line


@pytest.mark.slow
def test_no_address_and_no_cluster_here(prompts, weights):
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this system allows no process that sees no other")
    line = refused(prompts, weights, "", within=ALONE)
    assert line.startswith("error: --address auto: no Ray cluster can be joined there") and "ray start --head" in line


@pytest.mark.slow
def test_a_cluster_of_another_ray(prompts, weights, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OTHER_VERSION)
    with Nodes(tmp_path / "site") as nodes:
        line = refused(prompts, weights, nodes.address)
    assert "the cluster runs another Ray or Python than this machine" in line
    assert "2.0.0" in line and line.endswith("Install the same versions on all of its machines and here")


def test_without_ray_it_says_what_brings_it(prompts, weights):
    code = "import sys; sys.modules['ray'] = None; import kernel.__main__ as m; sys.exit(m.main(sys.argv[1:]))"
    line = refused(prompts, weights, "127.0.0.1:1", "-c", code)
    assert "Ray cannot be imported" in line and "pip install 'image-to-prompts-kernel[cluster]'" in line


def test_without_its_engine_no_command_imports_ray():
    code = (
        "import sys; from kernel.__main__ import main\n"
        "try: main(['bank', '--help'])\n"
        "except SystemExit: print(sorted(name for name in sys.modules if name.partition('.')[0] in ('ray', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
