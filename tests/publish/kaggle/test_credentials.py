"""Where credentials are said to lie is where the service's own client finds them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.publish.kaggle.client import credentials_at

CLIENT = """
import json
from kagglesdk import get_access_token_from_env
found = bool(get_access_token_from_env()[0])
if not found:
    import kaggle  # it authenticates when it is imported, and goes on where it cannot
    found = kaggle.api._authenticated
print(json.dumps(found))
"""
KEY = {"username": "jane-doe", "key": "0secret0"}
LAYOUTS = {
    "none": ({}, {}, None),
    "token": ({"KAGGLE_API_TOKEN": "x"}, {".kaggle/kaggle.json": KEY}, "the variable KAGGLE_API_TOKEN"),
    "token file": ({}, {".kaggle/access_token": "x"}, "{home}/.kaggle/access_token"),
    "token file of Windows": ({}, {".kaggle/access_token.txt": "x"}, "{home}/.kaggle/access_token.txt"),
    "empty token file": ({}, {".kaggle/access_token": ""}, None),
    "key": ({}, {".kaggle/kaggle.json": KEY}, "{home}/.kaggle/kaggle.json"),
    "key of XDG": ({}, {".config/kaggle/kaggle.json": KEY}, "{home}/.config/kaggle/kaggle.json"),
    "key that XDG's folder hides": ({}, {".config/kaggle/kaggle.json": KEY, ".kaggle/other": "x"}, None),
    "key of a folder given": ({"KAGGLE_CONFIG_DIR": "{home}/own"}, {"own/kaggle.json": KEY}, "{home}/own/kaggle.json"),
    "variables": ({"KAGGLE_USERNAME": "jane-doe", "KAGGLE_KEY": "x"}, {}, "KAGGLE_USERNAME and KAGGLE_KEY"),
    "name without key": ({"KAGGLE_USERNAME": "jane-doe"}, {}, None),
    "key in a variable, name in the file": (
        {"KAGGLE_KEY": "x"}, {".kaggle/kaggle.json": {"username": "jane-doe"}},
        "KAGGLE_KEY and {home}/.kaggle/kaggle.json",
    ),
    "half a file": ({}, {".kaggle/kaggle.json": '{"username": '}, None),
}  # fmt: skip


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path, monkeypatch) -> str | None:
    """A home with these variables and files; where credentials are then."""
    variables, files, expected = LAYOUTS[request.param]
    for name in [own for own in os.environ if own.startswith(("KAGGLE_", "XDG_CONFIG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return expected and expected.format(home=tmp_path)


def test_the_place_is_the_one_from_which_the_client_takes_them(layout, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert credentials_at() == layout
    assert sorted(tmp_path.rglob("*")) == before
    done = subprocess.run([sys.executable, "-c", CLIENT], capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == (layout is not None), done.stderr


def test_a_sign_in_by_the_browser_counts(tmp_path, monkeypatch):
    """The client asks the service whether it still holds, so here it is only looked for where the client looks."""
    from kagglesdk import KaggleCredentials

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [own for own in os.environ if own.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    path = Path(KaggleCredentials.DEFAULT_CREDENTIALS_FILE).expanduser()
    path.parent.mkdir()
    path.write_text("{}")
    assert credentials_at() == str(path)
