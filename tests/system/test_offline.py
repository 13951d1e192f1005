import subprocess
import sys
from pathlib import Path

import pytest

from kernel.system.offline import is_loopback

PACKAGE_PARENT = Path(__file__).parents[2]


def run_offline(code: str) -> str:
    """What `code` prints in a fresh process after refuse_network(); the hook cannot be taken back in this one."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os, socket\nfrom kernel.system.offline import refuse_network\nrefuse_network()\n{code}",
        ],
        cwd=PACKAGE_PARENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def error_of(call: str) -> str:
    """The message of the OSError that `call` raises offline; "none" when it raises none."""
    return run_offline(f"try:\n    {call}\n    print('none')\nexcept OSError as error:\n    print(error)")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::1%lo", "localhost"])
def test_these_hosts_are_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "10.0.0.1",
        "128.0.0.1",
        "0.0.0.0",
        "::2",
        "fe80::1%eth0",
        "example.com",
        "localhost.example.com",
        "",
    ],
)
def test_these_hosts_are_not_this_machine(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "call",
    [
        "socket.socket().connect(('192.0.2.1', 80))",
        "socket.socket().connect_ex(('192.0.2.1', 80))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b''], [], 0, ('192.0.2.1', 9))",
    ],
)
def test_a_connection_to_another_machine_is_refused_with_its_address(call):
    assert error_of(call) == "connection to 192.0.2.1 refused: this command works offline"


@pytest.mark.parametrize(
    "call",
    [
        "socket.getaddrinfo('example.com', 443)",
        "socket.getaddrinfo(b'example.com', 443)",
        "socket.gethostbyname('example.com')",
        "socket.gethostbyname_ex('example.com')",
        "socket.gethostbyaddr('example.com')",
    ],
)
def test_a_name_lookup_is_refused_with_the_name(call):
    assert error_of(call) == "lookup of example.com refused: this command works offline"


def test_a_reverse_lookup_of_another_machine_is_refused():
    assert error_of("socket.getnameinfo(('192.0.2.1', 80), 0)") == (
        "lookup of 192.0.2.1 refused: this command works offline"
    )


def test_a_loopback_connection_still_works():
    listen_and_connect = (
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "client.sendall(b'hello')\n"
        "print(server.accept()[0].recv(5))"
    )
    assert run_offline(listen_and_connect) == "b'hello'"


def test_a_unix_socket_still_works(tmp_path):
    listen_and_connect = (
        f"server = socket.socket(socket.AF_UNIX)\nserver.bind({str(tmp_path / 's')!r})\nserver.listen()\n"
        f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})\n"
        "print('connected')"
    )
    assert run_offline(listen_and_connect) == "connected"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_hubs_libraries_are_told_to_stay_offline(name, monkeypatch):
    monkeypatch.setenv(name, "0")
    assert run_offline(f"print(os.environ[{name!r}])") == "1"
