import numpy as np
import pytest
from PIL import Image

from kernel.errors import UserError
from kernel.pipeline.images import ImageFile
from kernel.training import features
from kernel.training.features import AtHand, Seeing, features_of, write_list
from kernel.training.tower.opened import NamedTower
from tests.engines import HERE


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Seven pictures in shards of three, the fifth broken."""
    monkeypatch.setattr(features, "SHARD", 3)
    for index in range(7):
        Image.new("RGB", (4, 4), (index * 30, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "4.png").write_bytes(b"no picture")
    return [ImageFile(str(index), tmp_path / f"{index}.png") for index in range(7)]


def reds(images):
    return np.array([[np.asarray(image)[0, 0, 0], 1] for image in images], dtype=np.float32)


def test_every_picture_has_its_row_and_a_bad_one_a_reason(files, tmp_path):
    found = features_of(files, tmp_path / "kept", AtHand(lambda: reds), 2, "reds", HERE)
    assert found.rows[:, 0].tolist() == [0, 30, 60, 90, 0, 150, 180]
    assert list(found.bad) == ["4"] and "UnidentifiedImageError" in found.bad["4"]


def test_what_is_kept_is_not_made_again_and_what_was_cut_is(files, tmp_path):
    first = features_of(files, tmp_path / "kept", AtHand(lambda: reds), 2, "reds", HERE).rows
    asked = []

    def counting(images):
        asked.extend(images)
        return reds(images)

    again = features_of(files, tmp_path / "kept", AtHand(lambda: counting), 2, "reds", HERE)
    assert not asked and np.array_equal(again.rows, first)
    path = tmp_path / "kept" / "00002.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    unfinished = path.with_name(f".{path.name}.another-machine-7.tmp")
    unfinished.write_text("begun by a worker that was killed")
    again = features_of(files, tmp_path / "kept", AtHand(lambda: counting), 2, "reds", HERE)
    assert len(asked) == 1 and np.array_equal(again.rows, first) and not unfinished.exists()


def test_a_shard_of_bad_pictures_alone_has_rows_of_the_others_width(files, tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"")
    found = features_of(files, tmp_path / "kept", AtHand(lambda: reds), 2, "reds", HERE)
    assert found.rows.shape == (7, 2) and list(found.bad) == ["0", "1", "2", "4"]


def test_a_tower_that_fails_on_all_is_told_and_what_is_made_is_kept(files, tmp_path):
    def failing(images):
        raise RuntimeError("no kernel image")

    with pytest.raises(UserError, match="reds: cannot be made .*no kernel image.*kept.*--device cpu"):
        features_of(files, tmp_path / "kept", AtHand(lambda: failing), 2, "reds", HERE)


def test_numbers_that_are_not_finite_are_refused(files, tmp_path):
    with pytest.raises(UserError, match="reds row 0 of 7 holds a number that is not finite"):
        features_of(files, tmp_path / "kept", AtHand(lambda: lambda images: reds(images) * np.nan), 2, "reds", HERE)


def test_whoever_works_for_a_tower_of_timm_must_see_the_same_one(files, tmp_path, weights):
    write_list(tmp_path, 0, files[:3])
    for name, own in (("clip", []), (str(tmp_path / "timm"), [tmp_path / "timm" / "model.safetensors"])):
        work = Seeing(tmp_path, NamedTower(name, weights), 2)
        assert work.inputs() == [weights.manifest, *own, tmp_path / "0.png"]
