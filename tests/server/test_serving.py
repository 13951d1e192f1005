"""The command as a process: what it imports, whom it talks to, how it ends, and what it refuses to begin."""

import codecs
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import kernel
from kernel.__main__ import main
from kernel.server.serving import read_password
from tests.conftest import ROOT
from tests.processes import alive, children
from tests.server.started import started


def posted(address: str, picture: bytes, **fields: str) -> list[dict]:
    """The records of one picture, by the standard library's own client."""
    boundary = "between"
    lines = [f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
             for name, value in fields.items()]  # fmt: skip
    lines.append(
        f'--{boundary}\r\ncontent-disposition: form-data; name="pictures"; filename="a.png"\r\n'
        "content-type: image/png\r\n\r\n".encode()
        + picture
        + f"\r\n--{boundary}--\r\n".encode()
    )
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/describe", b"".join(lines), headers)) as answer:
        return json.load(answer)["records"]


@pytest.fixture(scope="module")
def server(weights_folder, tmp_path_factory, pictures):
    """One that has answered once."""
    with started(weights_folder.resolve(), tmp_path_factory.mktemp("server")) as found:
        assert posted(found.address, pictures[0][1], top="2")[0]["prompt"]
        yield found


def sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
        except FileNotFoundError:
            continue
    return found


def internet(pids: list[int]) -> list[tuple[str, str]]:
    """Local and remote address of every internet socket of these processes, as the kernel writes them."""
    own = set().union(*(sockets(pid) for pid in pids))
    lines = [line.split() for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
             for line in Path(f"/proc/{pids[0]}/net/{name}").read_text().splitlines()[1:]]  # fmt: skip
    return [(line[1], line[2]) for line in lines if line[9] in own]


def test_it_listens_on_loopback_alone_and_talks_to_nobody(server):
    port = int(server.address.rpartition(":")[2])
    (worker,) = children(server.process.pid)
    found = internet([server.process.pid, worker])
    assert (f"0100007F:{port:04X}", "00000000:0000") in found
    assert all(local == f"0100007F:{port:04X}" for local, _ in found), found
    assert all(remote.startswith(("0100007F", "00000000")) for _, remote in found), found


def tracer_of(pid: int) -> int:
    found = re.search(r"TracerPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def test_no_connection_leaves_the_machine_from_the_start_to_the_answer(weights_folder, tmp_path, pictures):
    if shutil.which("strace") is None:
        pytest.skip("strace, which tells every connection of a process, is not installed")
    with started(weights_folder.resolve(), tmp_path) as server:
        trace = tmp_path / "trace"
        watched = "trace=connect,sendto,bind,execve"
        follow = ["strace", "-f", "-qq", "-e", watched, "-o", str(trace), "-p", str(server.process.pid)]
        tracer = subprocess.Popen(follow, stderr=subprocess.PIPE, text=True)
        while tracer_of(server.process.pid) != tracer.pid:
            if tracer.poll() is not None:
                pytest.skip(f"strace may not follow a process here: {tracer.communicate()[1].strip()}")
            time.sleep(0.05)
        assert posted(server.address, pictures[0][1], mode="negative", top="1")[0]["prompt"]
        tracer.terminate()
        tracer.communicate()
    assert "execve(" in trace.read_text()  # it saw the worker begin
    calls = re.findall(r'AF_INET6?.*?inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"', trace.read_text())
    assert set(calls) <= {"127.0.0.1", "::1"}


def test_the_server_itself_imports_no_model_library():
    code = (
        "import sys\nimport kernel.server.app, kernel.server.serving, uvicorn\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'numpy', 'PIL', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "print(heavy or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


def ended(pid: int) -> bool:
    """Waits for what the system still cleans up."""
    for _ in range(600):  # while it still imports it sees nothing of its parent
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


HUNG_UP = pytest.param(  # a terminal that was closed
    signal.SIGHUP, -signal.SIGHUP,
    marks=pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="hang-ups are ignored (nohup)"),
)  # fmt: skip


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9), HUNG_UP])
def test_however_it_ends_its_worker_ends_and_no_upload_is_left(weights_folder, tmp_path, pictures, number, code):
    with started(weights_folder.resolve(), tmp_path) as server:
        connection = socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))
        body = pictures[0][1]
        form = (
            b'--b\r\ncontent-disposition: form-data; name="pictures"; filename="a.png"\r\n\r\n'
            + body
            + b"\r\n--b--\r\n"
        )
        head = f"POST /describe HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(form)}\r\n"
        connection.sendall(f"{head}content-type: multipart/form-data; boundary=b\r\n\r\n".encode() + form)
        while not (found := children(server.process.pid)):  # it was asked, and begins to load
            time.sleep(0.05)
        os.killpg(server.process.pid, number)  # all that a terminal would signal
        assert server.process.wait(timeout=60) == code
        connection.close()
        assert ended(found[0])
        assert "Traceback" not in server.notes.read_text()
        for _ in range(100):
            if not (left := list((tmp_path / "tmp").glob("image-to-prompts-*"))):
                break
            time.sleep(0.1)
        assert left == []


@pytest.mark.parametrize(
    "options, said",
    [
        (
            ["--host", "0.0.0.0"],
            "--host 0.0.0.0 lets other machines in, and no password was given: nothing was started",
        ),
        (["--host", "box.lan"], "--host box.lan: expected an IP address of this machine"),
        (["--host", "0.0.0.0", "--password-file", "short"], "the password has 5 characters; expected 8 or more"),
        (["--password-file", "none"], "none: the password cannot be read (No such file or directory)"),
        (["--device", "gpu"], "--device gpu: unknown device; expected auto, cpu, cuda or cuda:N"),
        (["--weights", "none"], "none/manifest.json: not found"),
        (["--port", "70000"], "127.0.0.1:70000: cannot be listened on"),
        (["--port", "TAKEN"], "cannot be listened on (Address already in use"),
    ],
)
def test_what_must_not_begin_is_refused_with_words(weights_folder, tmp_path, monkeypatch, capsys, options, said):
    weights_folder = weights_folder.resolve()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("12345\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [str(taken.getsockname()[1]) if word == "TAKEN" else word for word in options]
        assert main(["serve", "--weights", str(weights_folder), *words]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and f"error: {said}" in captured.err or said in captured.err


def test_without_its_packages_it_says_what_to_install(weights_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--weights", str(weights_folder)]) == 1
    assert "pip install 'image-to-prompts-kernel[serve]'" in capsys.readouterr().err


def test_a_password_file_may_begin_with_the_mark_that_windows_writes(tmp_path):
    (tmp_path / "password").write_bytes(codecs.BOM_UTF8 + b"a long password\r\n")
    assert read_password(tmp_path / "password") == "a long password"


def test_other_machines_are_let_in_by_the_password_alone(weights_folder, tmp_path):
    (tmp_path / "password").write_text("a long password\n")
    options = ["--host", "0.0.0.0", "--password-file", str(tmp_path / "password")]
    with started(weights_folder.resolve(), tmp_path, *options) as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/options")
        asking = urllib.request.Request(
            f"{address}/options", headers={"authorization": "Basic OmEgbG9uZyBwYXNzd29yZA=="}
        )
        with urllib.request.urlopen(asking) as answer:
            assert json.load(answer)["captioners"] == ["blip2", "blip"]


def test_a_notebook_s_cell_goes_on_beside_it(weights_folder, tmp_path, capsys, pictures):
    with kernel.serve(weights_folder, device="cpu", features=tmp_path) as serving:
        assert capsys.readouterr().out == f"{serving.address}\n"
        with urllib.request.urlopen(serving.address) as answer:
            assert b"Image to prompts" in answer.read()
        assert posted(serving.address, pictures[0][1], mode="negative", top="1")[0]["prompt"]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(serving.address)
