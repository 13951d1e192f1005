"""A hub on the loopback interface: the real answers' shapes, miniature checkpoints under the real names.

Large files are redirected to another host name, as the hub does with its storage, so a token must stay behind.
"""

import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from kernel.publish.hub.pins import PINS, Repository, read_pins
from tests import warm
from tests.conftest import ROOT
from tests.models.captioners.tiny import tiny_captioner

TOKEN = "hf_loopback"
NEWEST = "ab" * 20  # of a repository whose revision no pins file names
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
LARGE = (".safetensors", ".bin", ".onnx", ".msgpack", ".parquet", ".tar", ".zip")
# what the real repositories also hold, and nobody needs
DECOYS = ("README.md", ".gitattributes", "onnx/model.onnx", "flax_model.msgpack", "pytorch_model.bin", "tf_model.h5")
Files = dict[str, bytes]


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """`files` by repository name. What goes wrong is set per repository (`refusals`) or file name (the rest)."""

    files: dict[str, Files]
    revisions: dict[str, str]
    datasets: frozenset[str] = frozenset()  # the repositories among them that hold data, under addresses of their own
    tags: dict[str, list[str]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)  # file name: status of its download
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file name: bytes after which a download is cut
    at_cut: Callable[[], None] = lambda: None
    resets: bool = False  # a cut is then a reset, which the client takes for another error than an early end
    odd: dict[str, Callable[["HubHandler"], None]] = field(default_factory=dict)  # what answers a kind of question
    closing: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)
    sent: int = 0  # bytes of answers without end
    port: int = 0

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(HubHandler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def downloads(self, ending: str = "") -> list[Request]:
        """The requests for contents of files, after any redirect."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and not request.path.startswith("/api/") and request.path.endswith(ending)
        ]


class HubHandler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        kind = "listing" if path.startswith("/api/") else "metadata" if self.command == "HEAD" else "download"
        if kind in self.hub.odd:
            with suppress(OSError):  # the client may have had enough
                self.hub.odd[kind](self)
            self.close_connection = True
            return
        parts = path.strip("/").split("/")
        if parts[0] == "storage":
            repository, name = "/".join(parts[1:3]), "/".join(parts[3:])
            return self.send_content(name, self.hub.files[repository][name])
        if parts[0] == "api":
            repository, revision, name = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", None
        else:
            own = parts[1:] if parts[0] == "datasets" else parts
            repository, revision, name = "/".join(own[:2]), own[3], "/".join(own[4:])
        is_data = "datasets" in parts[:2]
        if repository in self.hub.refusals:
            return self.refuse(*self.hub.refusals[repository])
        if repository not in self.hub.files or is_data != (repository in self.hub.datasets):
            return self.refuse(404, "RepoNotFound")
        if revision not in (self.hub.revisions[repository], "main"):
            return self.refuse(404, "RevisionNotFound")
        revision = self.hub.revisions[repository]
        if name is None:
            tags = self.hub.tags.get(repository, [])
            return self.send_json(listing(repository, revision, self.hub.files[repository]) | {"tags": tags})
        if name not in self.hub.files[repository]:
            return self.refuse(404, "EntryNotFound")
        if name.endswith(LARGE):
            content = self.hub.files[repository][name]
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.hub.port}/storage/{repository}/{name}")
            self.send_header("X-Repo-Commit", revision)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_content(name, self.hub.files[repository][name])

    def send_content(self, name: str, content: bytes) -> None:
        if name in self.hub.broken:
            return self.refuse(self.hub.broken[name], "")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{git_blob(content)}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.cuts.get(name, [])
        if cuts:
            self.wfile.write(content[start : cuts.pop(0)])
            self.wfile.flush()
            self.hub.at_cut()
            self.close_connection = True
            if self.hub.resets:
                self.reset()
            return
        self.wfile.write(content[start:])

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for end in (self.rfile, self.wfile, self.connection):
            end.close()

    def send_json(self, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def listing(repository: str, revision: str, files: Files) -> dict:
    """The hub's answer about a model at a revision, with blobs=true."""
    siblings = []
    for name, content in files.items():
        sibling: dict = {"rfilename": name, "size": len(content), "blobId": git_blob(content)}
        if name.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 135}
        siblings.append(sibling)
    return {"_id": "0", "id": repository, "modelId": repository, "sha": revision, "private": False, "gated": False,
            "disabled": False, "downloads": 1, "likes": 1, "tags": [], "siblings": siblings}  # fmt: skip


def miniature_hub(weights_folder: Path, minilm: Path, clip_as_pickle: bool = False) -> Hub:
    """The four repositories of pins.json at its revisions: float32 copies of the miniature checkpoints, and MiniLM; of
    those that it need not name a tiny GIT, at a newest revision."""
    pins = read_pins(PINS, asked=["git"])
    with tempfile.TemporaryDirectory() as folder:
        git = published(tiny_captioner(Path(folder), "git").model_folder("git"))
    files = {
        pins["git"].name: git,
        pins["clip"].name: clip_files(weights_folder / "clip", clip_as_pickle),
        pins["blip2"].name: blip2_files(weights_folder / "captioners" / "blip2"),
        pins["blip"].name: published(weights_folder / "captioners" / "blip"),
        pins["sentences"].name: {p.relative_to(minilm).as_posix(): p.read_bytes() for p in files_of(minilm)},
    }
    for repository in files.values():
        for decoy in DECOYS:
            repository.setdefault(decoy, b"nobody needs this")
    return Hub(files, {repository.name: repository.revision or NEWEST for repository in pins.values()})


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def published(folder: Path) -> Files:
    """A checkpoint's files with float32 weights, and a dtype in its configuration, as the hub has them."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_of(folder)}
    files["model.safetensors"] = save(full_precision(folder / "model.safetensors"), {"format": "pt"})
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), "torch_dtype": "float32"}).encode()
    return files


def full_precision(path: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def clip_files(folder: Path, as_pickle: bool) -> Files:
    import io

    state = full_precision(folder / "open_clip_model.safetensors")
    files = {"open_clip_config.json": (folder / "open_clip_config.json").read_bytes()}
    if as_pickle:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return {**files, "open_clip_pytorch_model.bin": buffer.getvalue()}
    return {**files, "open_clip_model.safetensors": save(state)}


def blip2_files(folder: Path) -> Files:
    """Two shards with an index; a configuration that says nothing of output scaling."""
    files = published(folder)
    del files["model.safetensors"]
    state = full_precision(folder / "model.safetensors")
    names, half = sorted(state), len(state) // 2
    shards = {
        "model-00001-of-00002.safetensors": names[:half],
        "model-00002-of-00002.safetensors": names[half:],
    }
    for shard, held in shards.items():
        files[shard] = save({name: state[name] for name in held}, {"format": "pt"})
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    config = json.loads(files["config.json"])
    del config["text_config"]["scale_decoder_outputs"]
    files["config.json"] = json.dumps(config).encode()
    return files


def talk_to(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leads the client of this process to `hub`, without pauses between attempts."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    address = f"http://127.0.0.1:{hub.port}"
    monkeypatch.setattr("kernel.publish.hub.download.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    close_session()  # an earlier one may know a proxy


START = """
import sys
from pathlib import Path
from kernel.system.offline import refuse
sys.addaudithook(refuse)
from kernel.errors import UserError
"""


def start_client(hub: Hub, code: str, *arguments: object) -> warm.Popen:
    """Python with the real client turned to `hub`; a UserError ends it with exit code 3 and its words on stderr."""
    lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
    program = f"{START}try:\n{lines}\nexcept UserError as error:\n    print(error, file=sys.stderr)\n    sys.exit(3)\n"
    unwanted = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *PROXIES)
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
    }
    return warm.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_client(hub: Hub, code: str, *arguments: object) -> str:
    """What a client that must succeed prints."""
    process = start_client(hub, code, *arguments)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def refused_client(hub: Hub, code: str, *arguments: object) -> str:
    """The words of a client that must end with a UserError: the last line it prints."""
    process = start_client(hub, code, *arguments)
    _, errors = process.communicate()
    assert process.returncode == 3, errors
    return errors.strip().splitlines()[-1]


PIN = "from kernel.publish.hub.download import pin_repositories; pin_repositories(Path(sys.argv[1]))"


def pinned(hub: Hub, pins: Path) -> dict[str, Repository]:
    """A copy of the committed pins at `pins`, filled by the real client from `hub`."""
    pins.write_bytes(PINS.read_bytes())
    run_client(hub, PIN, pins)
    return read_pins(pins)
