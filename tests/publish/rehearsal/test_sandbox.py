import os
import subprocess
import sys

import pytest

from kernel.publish.rehearsal.sandbox import Sandbox

CONNECT = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
LOOPBACK = (
    "import socket; server = socket.create_server(('127.0.0.1', 0)); socket.create_connection(server.getsockname())"
)


@pytest.fixture
def sandbox(tmp_path):
    (tmp_path / "mounted").mkdir()
    return Sandbox(tmp_path / "sandbox", tmp_path / "mounted")


@pytest.fixture(params=["namespaces", "sockets only"])
def each_sandbox(request, sandbox):
    """The sandbox as the system allows it, and as it is where namespaces are not allowed."""
    if request.param == "sockets only":
        sandbox.namespaces = None
    elif sandbox.namespaces is None:
        pytest.skip("this system allows no network namespace")
    return sandbox


def execute(sandbox, code, python=sys.executable, **environment):
    command = sandbox.command([python, "-c", code])
    own = {**os.environ, **sandbox.environment(), **environment}
    return subprocess.run(command, env=own, capture_output=True, text=True)


def test_a_connection_fails_and_is_recorded(each_sandbox):
    assert execute(each_sandbox, CONNECT).returncode == 1
    assert "192.0.2.1 refused" in each_sandbox.attempted()[0]


def test_a_connection_whose_error_is_swallowed_is_recorded_too(each_sandbox):
    assert execute(each_sandbox, f"try:\n    {CONNECT}\nexcept OSError:\n    pass").returncode == 0
    assert len(each_sandbox.attempted()) == 1


def test_the_loopback_works(each_sandbox):
    assert execute(each_sandbox, LOOPBACK).returncode == 0
    assert each_sandbox.attempted() == []


def test_asking_for_this_machines_own_name_is_no_attempt(each_sandbox):
    execute(each_sandbox, "import socket; socket.gethostbyname(socket.gethostname())")
    assert each_sandbox.attempted() == []


def test_hubs_clients_are_told_to_stay_offline(each_sandbox):
    said = execute(each_sandbox, "import os; print(os.environ['HF_HUB_OFFLINE'])").stdout
    assert said.strip() == "1"


def test_in_a_namespace_even_a_process_without_the_hook_reaches_nothing(sandbox):
    if sandbox.namespaces is None:
        pytest.skip("this system allows no network namespace")
    done = execute(sandbox, CONNECT, PYTHONPATH="")
    assert done.returncode == 1
    assert "unreachable" in done.stderr


def test_in_a_namespace_the_mounted_folder_cannot_be_written(sandbox):
    if sandbox.namespaces is None:
        pytest.skip("this system allows no mount namespace")
    done = execute(sandbox, f"open({str(sandbox.read_only / 'new')!r}, 'w')")
    assert "Read-only file system" in done.stderr
    assert list(sandbox.read_only.iterdir()) == []


def test_the_sandbox_says_which_network_it_takes_away(sandbox):
    words = {True: "refused sockets", False: "network namespace and refused sockets"}
    assert sandbox.network == words[sandbox.namespaces is None]
