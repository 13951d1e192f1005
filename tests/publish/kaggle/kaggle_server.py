"""A loopback server that speaks the service's protocol to its real client, and keeps a record of every request.

Left alone it answers as the service does when all is well; a test scripts what goes wrong.
"""

import io
import json
import re
import threading
import zipfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

OWNER = "tester"
WEIGHTS = f"{OWNER}/image-to-prompts-weights"
CODE = f"{OWNER}/image-to-prompts-code"
PAIRS = f"{OWNER}/image-to-prompts-pairs"
KERNEL = f"{OWNER}/image-to-prompts"
IMAGE = "registry/image@sha256:1234"
# scripted in place of an answer
CUT = "the connection is cut"
SILENCE = "no answer ever comes"
DRIP = "an answer of which a byte comes now and then"
DRIPPING_HEADER = "a header of which a byte comes now and then"
ENDLESS = "an answer that goes on and on"


@dataclass
class Request:
    """call: the method's name, or PUT or GET for uploads and downloads; size: bytes of the body that arrived."""

    call: str
    path: str
    body: Any
    size: int


@dataclass
class Dataset:
    version: int
    files: dict[str, bytes]


@dataclass
class Blob:
    name: str
    length: int
    data: bytearray = field(default_factory=bytearray)


def refused(status: int, words: str = "said the service", **headers: str) -> tuple[int, Any, dict[str, str]]:
    """An error as the service words it."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"code": status, "message": words}, headers


def answered(**content: Any) -> tuple[int, Any, dict[str, str]]:
    return 200, content, {}


class KaggleServer:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.scripted: dict[str, list[Any]] = defaultdict(list)
        self.datasets: dict[str, Dataset] = {}
        self.dataset_statuses: dict[str, list[str]] = defaultdict(lambda: ["READY"])
        self.blobs: dict[str, Blob] = {}
        self.cut_uploads = 0
        self.refused_uploads = 0
        self.gone: set[str] = set()
        self.kernel_version = 0
        self.kernel_statuses = ["QUEUED", "RUNNING", "COMPLETE"]
        self.failure_message: str | None = None
        self.log = ""
        self.outputs = {"submission.csv": b"imgId_eId,val\n", "run/run.json": run_json()}
        self.page_size = 1
        self.submission_statuses: list[dict[str, Any]] = [
            {"status": "PENDING"},
            {"status": "COMPLETE", "publicScore": "0.5331", "privateScore": "0.5312"},
        ]
        self.submissions: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.closing = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.kaggle = self  # type: ignore[attr-defined]
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "KaggleServer":
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def script(self, call: str, *answers: Any) -> None:
        """The next answers to `call`, in order; after them it answers as before."""
        self.scripted[call].extend(answers)

    def calls(self, call: str) -> list[Request]:
        return [request for request in self.requests if request.call == call]

    def uploaded(self) -> dict[str, int]:
        """Bytes that arrived by upload, by file name."""
        totals: dict[str, int] = defaultdict(int)
        for request in self.calls("PUT"):
            totals[self.blobs[request.path.rpartition("/")[2]].name] += request.size
        return dict(totals)

    def wait_for(self, call: str, count: int = 1) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls(call)) >= count, timeout=60), f"no {call} came"

    def record(self, request: Request) -> None:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    # what the calls do when nothing is scripted

    def get_dataset_status(self, body: dict) -> Any:
        name = f"{body['ownerSlug']}/{body['datasetSlug']}"
        if name not in self.datasets:
            return refused(404, "no such dataset")
        return answered(status=advance(self.dataset_statuses[name]))

    def get_dataset(self, body: dict) -> Any:
        return answered(currentVersionNumber=self.datasets[f"{body['ownerSlug']}/{body['datasetSlug']}"].version)

    def download_dataset(self, body: dict) -> Any:
        """As the service does: the way to a storage of its own."""
        name = f"{body['ownerSlug']}/{body['datasetSlug']}"
        if name not in self.datasets or body["fileName"] not in self.datasets[name].files:
            return refused(404, "no such file")
        return 302, {}, {"Location": f"{self.url}/files/{name}/{body['fileName']}?signature=1"}

    def start_blob_upload(self, body: dict) -> Any:
        token = f"token-{len(self.blobs)}"
        self.blobs[token] = Blob(body["name"], body.get("contentLength", 0))
        return answered(token=token, createUrl=f"{self.url}/upload/{token}")

    def create_dataset(self, body: dict) -> Any:
        return self.take(f"{body['ownerSlug']}/{body['slug']}", body.get("files", []))

    def create_dataset_version(self, body: dict) -> Any:
        return self.take(f"{body['ownerSlug']}/{body['datasetSlug']}", body["body"].get("files", []))

    def take(self, name: str, new_files: list[dict]) -> Any:
        """Zips are unpacked, as there."""
        files: dict[str, bytes] = {}
        for new in new_files:
            blob = self.blobs[new["token"]]
            assert len(blob.data) == blob.length, f"{blob.name} was taken though it is not whole"
            if blob.name.endswith(".zip"):
                with zipfile.ZipFile(io.BytesIO(blob.data)) as archive:
                    stem = blob.name.removesuffix(".zip")
                    files |= {f"{stem}/{member}": archive.read(member) for member in archive.namelist()}
            else:
                files[blob.name] = bytes(blob.data)
        version = self.datasets[name].version + 1 if name in self.datasets else 1
        self.datasets[name] = Dataset(version, files)
        return answered(status="ok", ref=name, url=f"https://service/datasets/{name}")

    def save_kernel(self, body: dict) -> Any:
        self.kernel_version += 1
        return answered(ref=body["slug"], url=f"https://service/code/{body['slug']}", versionNumber=self.kernel_version)

    def get_kernel(self, body: dict) -> Any:
        if not self.kernel_version:
            return refused(404, "no such notebook")
        return answered(metadata={"currentVersionNumber": self.kernel_version}, blob={})

    def get_kernel_session_status(self, body: dict) -> Any:
        status = advance(self.kernel_statuses)
        return answered(status=status, **({"failureMessage": self.failure_message} if self.failure_message else {}))

    def get_accelerator_quota_statistics(self, body: dict) -> Any:
        gpu = {"timeUsed": "63000s", "timeReserved": "0s", "totalTimeAllowed": "108000s"}
        return answered(quotaRefreshTime="2026-11-28T00:00:00Z", gpuQuota=gpu)

    def list_kernel_files(self, body: dict) -> Any:
        names, following = self.page(body)
        return answered(files=[{"name": name} for name in names], nextPageToken=following)

    def list_kernel_session_output(self, body: dict) -> Any:
        names, following = self.page(body)
        files = [{"fileName": name, "url": f"{self.url}/output/{name}"} for name in names]
        return answered(files=files, log=self.log, nextPageToken=following)

    def page(self, body: dict) -> tuple[list[str], str]:
        start = int(body.get("pageToken") or 0)
        names = sorted(self.outputs)[start : start + self.page_size]
        following = start + self.page_size
        return names, str(following) if following < len(self.outputs) else ""

    def create_code_submission(self, body: dict) -> Any:
        self.hand_in(body["submissionDescription"])
        return answered(message="Successfully submitted", ref=self.submissions[-1]["ref"])

    def hand_in(self, description: str) -> None:
        self.submissions.append({"ref": 77 + len(self.submissions), "description": description, "date": now()})

    def list_submissions(self, body: dict) -> Any:
        return answered(submissions=self.submissions[::-1])

    def get_submission(self, body: dict) -> Any:
        return answered(ref=body["ref"], **advance(self.submission_statuses))

    def get_submission_limits(self, body: dict) -> Any:
        return answered(numToday=2, numTotal=9, numAllowedNow=3)

    def stored(self, path: str) -> bytes | None:
        """The bytes behind a download's address."""
        _, kind, rest = path.split("/", 2)
        if kind == "output":
            return self.outputs.get(rest)
        owner, slug, name = rest.split("/", 2)
        return self.datasets[f"{owner}/{slug}"].files.get(name)

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that lead the real client here and keep it away from the user's own configuration."""
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_CONFIG_DIR": str(folder / "configuration"),
            "KAGGLE_USERNAME": OWNER,
            "KAGGLE_KEY": "0",
            "HTTP_PROXY": self.url,
            "http_proxy": self.url,
            "NO_PROXY": "",
            "no_proxy": "",
            "TMPDIR": str(folder / "temporary"),
            "HOME": str(folder),
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def kaggle(self) -> KaggleServer:
        return self.server.kaggle  # type: ignore[attr-defined]

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.read_body()
        call = path.rpartition("/")[2]
        content = json.loads(body)
        with self.kaggle.changed:
            script = self.kaggle.scripted[call]
            answer = script.pop(0) if script else None
        if answer is None:
            answer = getattr(self.kaggle, re.sub(r"(?<!^)([A-Z])", r"_\1", call).lower())(content)
        self.kaggle.record(Request(call, path, content, len(body)))
        if answer == SILENCE:
            self.kaggle.closing.wait()
        if answer in (CUT, SILENCE):
            self.cut()
        elif answer == DRIPPING_HEADER:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Odd: ")
            self.go_on(b" ", 0.01)
        elif answer in (DRIP, ENDLESS):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(2**40))
            self.end_headers()
            self.go_on(b" " if answer == DRIP else b" " * 2**20, 0.01 if answer == DRIP else 0)
        else:
            status, reply, headers = answer
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.answer(status, data, {"Content-Type": "application/json", **headers})

    def do_PUT(self) -> None:
        """One upload session: whole, resumed by range, or a question how far it came."""
        path = urlsplit(self.path).path
        token = path.rpartition("/")[2]
        blob = self.kaggle.blobs[token]
        if self.kaggle.refused_uploads or token in self.kaggle.gone:
            self.kaggle.record(Request("PUT", path, None, len(self.read_body())))
            self.kaggle.refused_uploads -= token not in self.kaggle.gone
            self.kaggle.gone.add(token)
            self.answer(404, b"", {})
            return
        place = re.fullmatch(r"bytes (\*|(\d+)-\d+)/(\d+)", self.headers.get("Content-Range", ""))
        if place and place[1] == "*":
            self.kaggle.record(Request("PUT", path, None, 0))
            if len(blob.data) == blob.length:
                self.answer(200, b"{}", {})
            else:
                self.answer(308, b"", {"Range": f"bytes=0-{len(blob.data) - 1}"} if blob.data else {})
            return
        start = int(place[2]) if place else 0
        if self.kaggle.cut_uploads:
            self.kaggle.cut_uploads -= 1
            blob.data[start:] = self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.kaggle.record(Request("PUT", path, None, len(blob.data) - start))
            self.cut()
            return
        data = self.read_body()
        blob.data[start:] = data
        self.kaggle.record(Request("PUT", path, None, len(data)))
        self.answer(200, b"{}", {})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.kaggle.record(Request("GET", path, None, 0))
        data = self.kaggle.stored(path)
        self.answer(404 if data is None else 200, data or b"", {"Content-Type": "application/octet-stream"})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def go_on(self, part: bytes, pause: float) -> None:
        with suppress(OSError):  # until the client has enough
            while not self.kaggle.closing.wait(pause):
                self.wfile.write(part)
        self.close_connection = True

    def cut(self) -> None:
        self.close_connection = True
        self.connection.close()


def advance(states: list) -> Any:
    """The next state; the last one stays."""
    return states.pop(0) if len(states) > 1 else states[0]


def now() -> str:
    """As the service writes a time: in UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def run_json(**changes: object) -> bytes:
    return json.dumps({"docker_image": IMAGE, "recipe": {"name": "baseline"}, **changes}).encode()
