"""A real model of timm, with random weights, from a folder as timm itself saves one."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kernel.errors import UserError
from kernel.models.encoders.encoder import on_device
from kernel.models.encoders.towers import read_timm_tower


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    model = timm.create_model("test_vit2", pretrained=False, num_classes=10)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder, model.eval()


@pytest.fixture
def copy(saved, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved[0] / name).read_bytes())
    return tmp_path


def test_it_gives_what_timm_pools(saved, cpu):
    folder, model = saved
    tower, read = read_timm_tower(folder)
    assert (tower.architecture, tower.dimensions) == ("test_vit2", model.num_features)
    picture = Image.effect_noise((tower.pixels.size, tower.pixels.size), 80).convert("RGB")
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    own = model.pretrained_cfg
    mean, std = (torch.tensor(own[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features((pixels - mean) / std), pre_logits=True).numpy()
    found = on_device(read, tower.pixels, cpu).encode_images([picture])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def changed(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_pixels_come_from_the_checkpoint_not_from_the_name(copy):
    config = json.loads((copy / "config.json").read_text())
    changed(copy, pretrained_cfg=config["pretrained_cfg"] | {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]})
    tower, _ = read_timm_tower(copy)
    assert (tower.pixels.mean, tower.pixels.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "test_vit22"}, "architecture 'test_vit22' is none that timm .* knows.*test_vit2"),
        ({"architecture": "hf-hub:timm/test_vit2"}, "architecture 'hf-hub:timm/test_vit2' is none that timm"),
        ({"architecture": "local-dir:/etc"}, "architecture 'local-dir:/etc' is none that timm"),
        ({"architecture": 7}, "architecture is 7"),
        ({"pretrained_cfg": {"mean": [0, 0, 0]}}, "pretrained_cfg.input_size is missing"),
        (
            {
                "pretrained_cfg": {
                    "input_size": [3, 9999, 9999],
                    "mean": [0, 0, 0],
                    "std": [1, 1, 1],
                    "interpolation": "bicubic",
                }
            },
            "9999",
        ),
    ],
)
def test_a_configuration_that_names_something_else_is_refused(copy, changes, words):
    changed(copy, **changes)
    with pytest.raises(UserError, match=words):
        read_timm_tower(copy)


def test_a_transformer_is_made_for_the_pixels_that_its_checkpoint_saw(tmp_path, cpu):
    torch.manual_seed(0)
    model = timm.create_model("test_vit2", num_classes=10, img_size=96)
    model.pretrained_cfg["input_size"] = (3, 96, 96)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    tower, read = read_timm_tower(tmp_path)
    assert tower.pixels.size == 96
    assert on_device(read, tower.pixels, cpu).encode_images([Image.new("RGB", (50, 50))]).shape == (1, 64)


def test_without_pixels_nothing_is_guessed(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["pretrained_cfg"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no pretrained_cfg, so nobody knows which pixels it wants"):
        read_timm_tower(copy)


def test_a_tensor_that_is_missing_or_left_over_is_refused(copy):
    tensors = load_file(copy / "model.safetensors")
    save_file({name: own for name, own in tensors.items() if name != "pos_embed"}, copy / "model.safetensors")
    with pytest.raises(UserError, match="timm cannot load it.*pos_embed"):
        read_timm_tower(copy)
    save_file(tensors | {"extra.weight": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(UserError, match="timm cannot load it.*extra.weight"):
        read_timm_tower(copy)


def test_a_pickle_under_that_name_is_refused(copy):
    torch.save({"a": 1}, copy / "model.safetensors")
    with pytest.raises(UserError, match="named safetensors but is not"):
        read_timm_tower(copy)
