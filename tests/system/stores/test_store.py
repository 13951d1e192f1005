"""What a real S3-speaking server, s3fs and its absence answer, in words."""

import subprocess
import sys

import pytest

from kernel.errors import UserError
from kernel.system.stores.store import Store, require_inside
from kernel.system.stores.urls import Url
from tests.conftest import ROOT


def refused(url: Url, does) -> str:
    with pytest.raises(UserError) as error:
        does(Store(url))
    said = str(error.value)
    assert str(url) in said and "Expected" in said and "then run again" in said
    return said


WAYS = {
    "listing": lambda store: store.listing(),
    "reading": lambda store: store.read(["a", "b"]),
    "writing": lambda store: store.write("a", b"1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_bucket_that_is_not_there_is_named(s3, way):
    assert "there is no such bucket as none-of-mine" in refused(Url("s3", "none-of-mine/a"), WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_who_has_no_right_is_told_of_keys(s3, way):
    store = Url("s3", f"{s3.bucket}/a")
    s3.ask_rights(0)
    try:
        assert "no right to" in (said := refused(store, WAYS[way])) and "AWS_ACCESS_KEY_ID" in said
    finally:
        s3.ask_rights(float("inf"))


def test_who_gives_no_keys_is_told_of_them(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert "no right to" in refused(Url("s3", f"{s3.bucket}/a"), WAYS["listing"])


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_not_there_is_told_after_few_tries(s3, monkeypatch, way):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = refused(Url("s3", "bucket/a"), WAYS[way])
    assert "the store gives no answer" in said and "AWS_ENDPOINT_URL" in said


def test_without_its_package_a_store_says_how_to_get_it():
    code = """
import sys
sys.modules["s3fs"] = None
from kernel.__main__ import main
sys.exit(main(["bank", "s3://bucket/a.txt", "--out", "bank"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 1 and "s3://bucket/a.txt" in said
    assert "is not installed" in said and "pip install 'image-to-prompts-kernel[stores]'" in said


def test_waits_and_tries_have_bounds():
    """5 s for each connection, and as many tries of botocore for each of s3fs: below 30 s for a host that is mute."""
    files = Store(Url("s3", "bucket/a")).files
    told = files.config_kwargs
    assert files.retries * told["retries"]["total_max_attempts"] * told["connect_timeout"] <= 20


def test_objects_have_the_names_from_the_url_on(s3):
    for name in ("a", "b/c"):
        s3.files.pipe(f"{s3.bucket}/in/{name}", name.encode())
    s3.files.pipe(f"{s3.bucket}/in2/d", b"d")  # begins alike and is none of it
    store = Store(Url("s3", f"{s3.bucket}/in"))
    assert {name: found.bytes for name, found in store.listing().items()} == {"a": 1, "b/c": 3}
    assert store.read(["a", "b/c"]) == {"a": b"a", "b/c": b"b/c"} and store.read(["a"]) == {"a": b"a"}
    assert store.has("a") and not store.has("b") and not store.has("d")
    assert list(Store(Url("s3", f"{s3.bucket}/in/a")).listing()) == [""]
    assert Store(Url("s3", f"{s3.bucket}/none")).listing() == {}


def test_what_stands_for_a_folder_is_no_object(s3):
    for key in ("in/", "in/b/", "in/b/c"):
        s3.files.call_s3("put_object", Bucket=s3.bucket, Key=key, Body=b"")
    assert list(Store(Url("s3", f"{s3.bucket}/in")).listing()) == ["b/c"]


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "a//b", "./a", "a\0b"])
def test_names_that_lead_out_of_a_folder_are_refused(name):
    with pytest.raises(UserError, match="no name of a file in a folder"):
        require_inside(Url("s3", "bucket"), name)


def test_the_disk_s_own_refusals_are_no_words_of_the_store(s3, tmp_path):
    s3.files.pipe(f"{s3.bucket}/a", b"1")
    with pytest.raises(FileNotFoundError):
        Store(Url("s3", s3.bucket)).fetch("a", tmp_path / "none" / "a")
    with pytest.raises(FileNotFoundError):
        Store(Url("s3", s3.bucket)).put("b", tmp_path / "none" / "a")
