"""Places of a command line: paths, URLs of stores, and what is neither."""

from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.system.stores.urls import STORES, Url, place, require_paths


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("build/bank", Path("build/bank")),
        ("s3:/bank", Path("s3:/bank")),  # a path, however odd
        ("s3://bucket/a/b/", Url("s3", "bucket/a/b")),
        ("S3A://bucket", Url("s3a", "bucket")),
        ("gs://bucket/prompts.csv", Url("gs", "bucket/prompts.csv")),
        ("memory:///a/b", Url("memory", "a/b")),
        ("file:///data/pairs", Path("/data/pairs")),
        ("local:///data/pairs", Path("/data/pairs")),
    ],
)
def test_a_text_is_a_path_or_objects_of_a_store(text, found):
    assert place(text) == found


def test_every_scheme_of_a_store_is_taken_as_it_was_written():
    for scheme in STORES:
        assert str(place(f"{scheme}://bucket/folder")) == f"{scheme}://bucket/folder"


@pytest.mark.parametrize("text", ["ftp://host/a", "http://host/a", "https://host/a", "hf://a/b", "s33://bucket/a"])
def test_what_is_no_store_is_refused_with_those_that_are(text):
    with pytest.raises(UserError, match="is no store") as refused:
        place(text)
    assert text in str(refused.value) and "s3://, s3a://, gs://" in str(refused.value)


@pytest.mark.parametrize("text", ["s3://", "s3:///a/b", "gs:///", "memory://"])
def test_a_url_without_a_bucket_is_refused(text):
    with pytest.raises(UserError, match="names no bucket"):
        place(text)


def test_a_url_is_no_path_of_a_command_that_knows_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for values in ([Path("s3://bucket/a")], [["a.png", "s3://bucket/a"]], [[Path("x"), Path("s3://bucket/a")]]):
        with pytest.raises(UserError, match=r"^s3://bucket/a: 'check' takes files and folders of this machine"):
            require_paths("check", values)
    require_paths("check", [Path("a"), "https://a.sentence", 3, None, Url("s3", "bucket/a"), Path("C:/images")])
    (tmp_path / "s3:").mkdir()
    require_paths("check", [Path("s3:/")])  # who has such a folder may give it
