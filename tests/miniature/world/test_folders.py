"""Folders of drawn pictures: which pictures, under which names, and that no two purposes draw the same ones."""

import numpy as np
from PIL import Image

from kernel.miniature.world import folders
from kernel.miniature.world.drawing import draw
from kernel.miniature.world.folders import TEST_SEED, draw_folder, scenes, write_prompts
from kernel.miniature.world.grammar import scene_stream
from kernel.pipeline.images import list_images


def test_no_two_purposes_share_a_seed():
    seeds = [seed for name, seed in vars(folders).items() if name.endswith("_SEED")]
    assert len(seeds) > 10 and len(set(seeds)) == len(seeds)


def test_a_folder_holds_the_pictures_of_its_seed_and_their_prompts_by_name(tmp_path):
    prompts = draw_folder(tmp_path / "images", TEST_SEED, 3, "picture-{}".format)
    assert prompts == {f"picture-{number}": scene.prompt for number, scene in enumerate(scenes(TEST_SEED, 3))}
    assert [image.id for image in list_images(tmp_path / "images")] == list(prompts)
    for name, (scene, rng) in zip(prompts, scene_stream(TEST_SEED, 3), strict=True):
        saved = np.asarray(Image.open(tmp_path / "images" / f"{name}.png"))
        assert np.array_equal(saved, np.asarray(draw(scene, rng)))


def test_only_what_is_missing_is_drawn(tmp_path):
    draw_folder(tmp_path, TEST_SEED, 2)
    (tmp_path / "000000.png").write_bytes(b"mine")
    whole = (tmp_path / "000001.png").read_bytes()
    (tmp_path / "000001.png").unlink()
    draw_folder(tmp_path, TEST_SEED, 2)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"mine", whole]


def test_pictures_of_another_side(tmp_path):
    draw_folder(tmp_path, TEST_SEED, 1, side=24)
    assert Image.open(tmp_path / "000000.png").size == (24, 24)


def test_prompts_are_written_as_the_competition_does(tmp_path):
    write_prompts(tmp_path / "prompts.csv", {"a": 'a "fox", red', "b": "größe"})
    assert (tmp_path / "prompts.csv").read_bytes() == 'imgId,prompt\r\na,"a ""fox"", red"\r\nb,größe\r\n'.encode()
