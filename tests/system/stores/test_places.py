"""What a command makes of places: a path is the path, a URL a folder of its own below the mirror."""

import pytest

from kernel.errors import UserError
from kernel.system.stores.outputs import Order
from kernel.system.stores.places import Places
from kernel.system.stores.urls import Url

ORDER = Order(("*", "record"))


def test_paths_are_taken_as_they_are_and_nothing_is_mirrored(tmp_path):
    places = Places(tmp_path / "mirror")
    with places.written(tmp_path / "out", ORDER) as out:
        assert (out, places.read(tmp_path / "in")) == (tmp_path / "out", tmp_path / "in")
    assert not (tmp_path / "mirror").exists()


def test_what_one_writes_another_reads(tmp_path):
    """Through fsspec's own store in memory, which is another one than S3."""
    url = Url("memory", "bucket/folder")
    with Places(tmp_path / "a").written(url, ORDER) as out:
        out.mkdir()
        (out / "rows").write_text("1")
        (out / "record").write_text("r")
    read = Places(tmp_path / "b").read(url)
    assert {path.name: path.read_text() for path in read.iterdir()} == {"rows": "1", "record": "r"}


def test_places_of_one_name_do_not_share_a_folder(tmp_path):
    places = Places(tmp_path)
    homes = {places.home(Url(scheme, path), kind) for scheme in ("s3", "gs") for path in ("a/b", "c/b")
             for kind in ("read", "written")}  # fmt: skip
    assert len(homes) == 8


def test_several_processes_of_torchrun_are_told_to_use_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes were started, as by torchrun.*Give paths on a disk"):
        Places(tmp_path).read(Url("memory", "bucket/folder"))
