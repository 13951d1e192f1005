"""The real client led to the loopback server, and projects and folders for it to send."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle import client as client_module
from kernel.publish.kaggle import datasets
from kernel.publish.kaggle import push as pushing
from kernel.publish.kaggle.client import connect
from kernel.publish.kaggle.metadata import initialise
from kernel.publish.kaggle.notebooks import build_notebooks
from kernel.publish.kaggle.staging import Staged, staged
from tests.conftest import ROOT
from tests.publish.kaggle.kaggle_server import OWNER, WEIGHTS, KaggleServer


def talk_to(server: KaggleServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leads the client of this process to `server`, without pauses before a retry or between two looks."""
    monkeypatch.setattr(client_module, "sleep", lambda seconds: None)
    for name, value in server.environment(folder).items():
        monkeypatch.setenv(name, value)
    # no proxy needed here, and a cut connection is then the service's
    for name in ("KAGGLE_API_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    (folder / "temporary").mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))

    # imported here, as its class reads the environment when it is made
    from kaggle.api import kaggle_api_extended
    from kagglesdk import kaggle_env
    from urllib3.util.retry import Retry

    client = kaggle_api_extended.KaggleApi
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.url)
    monkeypatch.setattr(client, "args", ["--local"])
    monkeypatch.setattr(client, "config_dir", str(folder / "configuration"))
    monkeypatch.setattr(client, "config", str(folder / "configuration/kaggle.json"))
    monkeypatch.setattr(client, "MAX_UPLOAD_RESUME_ATTEMPTS", 2)
    monkeypatch.setattr(client, "_calculate_backoff_delay", lambda *_: 0.0)
    monkeypatch.setattr(kaggle_api_extended, "Retry", lambda **_: Retry(total=0))


def environment_for_children(server: KaggleServer, folder: Path) -> dict[str, str]:
    """The environment of a child process whose client talks to `server`."""
    (folder / "temporary").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    return {**kept, **server.environment(folder)}


def make_project(folder: Path) -> Path:
    """The top-level files of a project with its account written in, a line of code and one-line notebooks."""
    for name in ("kernel", "notebooks", "wheels"):
        (folder / name).mkdir(parents=True)
    (folder / "kernel/__init__.py").write_text("LINE = 1\n")
    (folder / "wheels/requirements.txt").write_text("# none\n")
    for name in ("image_to_prompts", "prepare", "train"):
        (folder / f"notebooks/{name}.py").write_text(f"# %%\nprint({name!r})\n")
    build_notebooks(folder)
    for name in ("dataset-metadata.json", "kernel-metadata.json"):
        shutil.copy(ROOT / name, folder / name)
    initialise(folder, OWNER)
    return folder


def make_staged(folder: Path, sha256: str = "a" * 64) -> Staged:
    """A small staged dataset: a large file, a small one and a folder."""
    (folder / "wheels").mkdir(parents=True)
    (folder / "large.safetensors").write_bytes(bytes(range(256)) * 1024)
    (folder / "manifest.json").write_text("{}")
    (folder / "wheels/a.txt").write_text("a wheel")
    metadata = {"id": WEIGHTS, "title": "image-to-prompts weights", "licenses": [{"name": "other"}]}
    (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
    return staged(folder, sha256)


INTERRUPTIBLE = """
import signal, sys
from pathlib import Path
from kernel.errors import UserError
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background would pass on "ignore"
from kernel.publish.kaggle.{module} import {function}
try:
    {function}(Path(sys.argv[1]), {arguments})
except UserError as error:
    sys.exit(f"error: {{error}}")
"""


def ctrl_c_at(call: str, server: KaggleServer, project: Path, function: str, arguments: str) -> tuple[int, str]:
    """Runs a publish function in a process of its own and sends SIGINT once `call` came in: exit code and stderr."""
    code = INTERRUPTIBLE.format(module=function, function=function, arguments=arguments)
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(project)],
        cwd=ROOT,
        env=environment_for_children(server, project.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        server.wait_for(call)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    return child.returncode, errors


def change_kernel(project: Path, **changes: object) -> None:
    """Other values in kernel-metadata.json."""
    path = project / "kernel-metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def quick_push(project: Path, limit: float = 60.0, **options: bool) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "LIMIT", limit)
        patch.setattr(pushing, "LIMIT", limit)
        return pushing.push(project, **options)


def refused_push(project: Path, limit: float = 60.0, **options: bool) -> str:
    with pytest.raises(UserError) as refused:
        quick_push(project, limit, **options)
    return str(refused.value)


def publish(staged: Staged, limit: float = 60.0) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "LIMIT", limit)
        return datasets.publish_dataset(connect(), staged, "a note", staged.folder.parent / "kaggle")


def refusal(staged: Staged, limit: float = 60.0) -> str:
    """The words of a publication that must end with a UserError."""
    with pytest.raises(UserError) as refused:
        publish(staged, limit)
    return str(refused.value)


def record(project: Path, name: str) -> dict:
    """What the project remembers of its last push or run."""
    return json.loads((project / "build/kaggle" / name).read_text())
