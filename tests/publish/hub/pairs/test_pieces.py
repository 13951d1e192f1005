"""Pictures resized in pieces by an engine: the bytes of one process, whatever pieces a killed command left."""

from collections import Counter
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.hub.pairs import pieces
from kernel.publish.hub.pairs.pieces import fill_by
from kernel.publish.hub.pairs.stored import Stored, stored_in
from kernel.publish.hub.pairs.tars import fill_tar
from tests.engines import HERE, TWO
from tests.publish.hub.pairs.source_files import PROMPTS, diffusiondb_zip, encoded, picture, sd_tar

pytestmark = pytest.mark.usefixtures("warm_processes")

BAD = (0, 3, 11)


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A tar of twelve pictures, some of them bad, of which pieces take five."""
    monkeypatch.setattr(pieces, "PIECE", 5)
    numbers = range(12)
    sd_tar(tmp_path, "own.tar", [(content(number), PROMPTS[number], number) for number in numbers])
    return tmp_path / "own.tar"


def content(number: int) -> bytes:
    return b"bad" if number in BAD else encoded(picture(number))


def pairs_of(path: Path) -> list[tuple[Stored, str]]:
    return [(own, own.prompt) for own in stored_in(path, Counter())]


def alone(path: Path, pairs: list[tuple[Stored, str]], most: int = 99) -> tuple[bytes, int, Counter[str]]:
    """What one process makes of them, and says."""
    left_out: Counter[str] = Counter()
    tar = path.with_name("alone.tar")
    tar.unlink(missing_ok=True)
    written = fill_tar(tar, pairs, 16, most, left_out)
    return tar.read_bytes(), written, left_out


def shared_out(path: Path, pairs, most: int = 99, engine=HERE, sha256: str = "a", size: int = 16):
    left_out: Counter[str] = Counter()
    tar, folder = path.with_name("shared.tar"), path.with_name("pieces")
    written = fill_by(engine, folder, tar, (path, sha256), pairs, size, most, left_out)
    return tar.read_bytes(), written, left_out


def times(path: Path) -> dict[str, int]:
    return {own.name: own.stat().st_mtime_ns for own in path.with_name("pieces").glob("*.tar")}


@pytest.mark.parametrize("most", [1, 3, 8, 9, 10, 99])
def test_joined_pieces_are_the_tar_of_one_process_with_its_counts(source, most):
    pairs = pairs_of(source)
    assert shared_out(source, pairs, most) == alone(source, pairs, most)


def test_pictures_of_a_zip_travel_to_other_processes(source, tmp_path):
    path = tmp_path / "own.zip"
    own = [(f"{number}.png", encoded(picture(number), "PNG"), PROMPTS[number]) for number in range(7)]
    path.write_bytes(diffusiondb_zip(1, own))
    pairs = pairs_of(path)
    assert shared_out(path, pairs, engine=TWO) == alone(path, pairs)


def test_none_at_all_is_an_empty_tar(source):
    assert shared_out(source, []) == alone(source, [])


def test_whole_pieces_are_not_made_again_and_cut_or_missing_ones_are(source):
    pairs = pairs_of(source)
    expected, before = shared_out(source, pairs), times(source)
    assert shared_out(source, pairs) == expected and times(source) == before
    folder = source.with_name("pieces")
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:700])
    (folder / "00002.tar").unlink()
    assert shared_out(source, pairs) == expected
    assert [times(source)[name] == before[name] for name in sorted(before)] == [True, False, False]


@pytest.mark.parametrize("what", ["choice", "source", "size", "version"])
def test_pieces_of_another_choice_source_size_or_version_are_never_taken(source, monkeypatch, what):
    pairs = pairs_of(source)
    shared_out(source, pairs[1:] if what == "choice" else pairs)
    before = times(source)
    if what == "version":
        monkeypatch.setattr(pieces, "code_sha256", lambda: "another")
    found = shared_out(source, pairs, sha256="b" if what == "source" else "a", size=12 if what == "size" else 16)
    assert not any(times(source)[name] == before[name] for name in before)
    if what != "size":
        assert found == alone(source, pairs)


def test_where_no_worker_can_make_a_piece_it_says_so_and_leaves_no_tar(source, monkeypatch):
    def refuse(*_):
        raise UserError("this cannot be")

    monkeypatch.setattr(pieces, "pairs_of", refuse)
    with pytest.raises(UserError, match=r"own.tar: its pictures cannot be resized \(.*this cannot be.*what is made is"):
        shared_out(source, pairs_of(source))
    assert not source.with_name("shared.tar").exists()
