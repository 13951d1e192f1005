import json

import numpy as np
import pytest
from PIL import Image

from kernel.errors import UserError
from kernel.pipeline.decoding import decode_file
from kernel.training.pairs import keys_of, open_pairs
from tests.training.sets import png, write_folder, write_tar, write_tars

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def test_a_folder_is_a_pair_set(tmp_path):
    pairs = open_pairs(write_folder(tmp_path / "set", [(RED, "a red square"), (BLUE, "a blue, square")]))
    assert [own.id for own in pairs.pictures] == ["000", "001"]
    assert pairs.prompts == ["a red square", "a blue, square"]
    assert pairs.clusters is None and pairs.left_out == {}


def test_tars_hold_the_same_pictures_prompts_and_clusters(tmp_path):
    pairs = open_pairs(write_tars(tmp_path, [(RED, "red", 3), (BLUE, "blue", 5), (RED, "crimson", 3)], a_tar=2))
    assert [own.id for own in pairs.pictures] == ["set-000/000000", "set-000/000001", "set-001/000002"]
    assert pairs.prompts == ["red", "blue", "crimson"] and pairs.clusters == [3, 5, 3]
    colours = [np.asarray(decode_file(own))[0, 0].tolist() for own in pairs.pictures]
    assert colours == [[255, 0, 0], [0, 0, 255], [255, 0, 0]]


def test_img2datasets_captions_stand_in_json(tmp_path):
    write_tar(tmp_path / "00000.tar", {"1.png": png(RED), "1.json": json.dumps({"caption": " red \n"}).encode()})
    assert open_pairs(tmp_path).prompts == ["red"]


def test_a_name_ends_at_its_first_dot_and_folders_keep_names_apart(tmp_path):
    members = {"a/1.png": b"x", "a/1.embs.npy": b"y", "b/1.PNG": b"z"}
    found = keys_of(write_tar(tmp_path / "own.tar", members))
    assert {key: sorted(own) for key, own in found.items()} == {"a/1": ["embs.npy", "png"], "b/1": ["png"]}


def test_what_is_no_pair_is_counted_and_left_out(tmp_path):
    write_tar(
        tmp_path / "own.tar",
        {
            "good.png": png(RED), "good.txt": b"red",
            "mute.png": png(RED),
            "blank.png": png(RED), "blank.txt": b" \n",
            "long.png": png(RED), "long.txt": b"a" * 100_000,
            "words.txt": b"no picture",
            "two.png": png(RED), "two.webp": png(RED), "two.txt": b"which",
        },
    )  # fmt: skip
    pairs = open_pairs(tmp_path)
    assert pairs.prompts == ["red"]
    assert sorted(pairs.left_out.values()) == [2, 3] and pairs.left_out["picture without a prompt"] == 3


def test_of_a_folder_too(tmp_path):
    folder = write_folder(tmp_path / "set", [(RED, "red"), (BLUE, ""), (RED, "crimson")])
    (folder / "images" / "002.png").rename(folder / "images" / "other.png")
    assert open_pairs(folder).left_out == {"picture without a prompt": 2, "prompt without a picture": 1}


@pytest.mark.parametrize("told", [b"[1, 2]", b"{", b"[" * 60_000, b'{"caption": 7, "cluster": "a"}', b"\xff\xfe"])
def test_whatever_stands_in_json_is_no_crash(tmp_path, told):
    write_tar(tmp_path / "own.tar", {"1.png": png(RED), "1.json": told, "2.png": png(RED), "2.txt": b"red"})
    assert open_pairs(tmp_path).prompts == ["red"]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_a_file_that_is_no_tar_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "own.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"own.tar: not a whole tar \([^\n]+\)|no picture has a prompt"):
        open_pairs(tmp_path)


def test_a_tar_that_was_cut_is_refused(tmp_path):
    whole = write_tar(tmp_path / "own.tar", {"1.txt": b"red", "1.png": png(RED) * 50}).read_bytes()
    (tmp_path / "own.tar").write_bytes(whole[:1300])
    with pytest.raises(UserError, match="own.tar: not a whole tar"):
        open_pairs(tmp_path)


def test_what_is_no_set_is_refused_with_what_one_is(tmp_path):
    with pytest.raises(UserError, match="no pair set.*images/ and prompts.csv.*tars"):
        open_pairs(tmp_path)


def test_a_set_is_named_by_its_ids_and_prompts(tmp_path):
    first = open_pairs(write_folder(tmp_path / "a", [(RED, "red"), (BLUE, "blue")])).sha256
    assert open_pairs(write_folder(tmp_path / "b", [(BLUE, "red"), (BLUE, "blue")])).sha256 == first
    assert open_pairs(write_folder(tmp_path / "c", [(RED, "red"), (BLUE, "navy")])).sha256 != first


def test_the_licence_is_what_the_set_s_own_record_says(tmp_path):
    pairs = open_pairs(write_folder(tmp_path / "set", [(RED, "red")]))
    assert pairs.licence == "not stated"
    (tmp_path / "set" / "pairs.json").write_text('{"licence": "CC0-1.0", "pictures": 1}')
    assert pairs.licence == "CC0-1.0"
    (tmp_path / "set" / "pairs.json").write_text('{"licence": 7}')
    with pytest.raises(UserError, match="pairs.json: not what 'publish pairs' says of a set .licence is 7"):
        _ = pairs.licence
