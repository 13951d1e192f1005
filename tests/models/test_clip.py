import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from kernel.errors import UserError
from kernel.models import clip as clip_module
from kernel.models.clip import ClipEncoder, clip_tokenizer, token_count
from kernel.models.weights_folder import Weights


@pytest.fixture(scope="module")
def clip(weights, cpu):
    return ClipEncoder.load(weights, cpu)


def test_image_features_are_open_clips_own_normalised(clip, weights, drawn):
    pictures = [picture for picture, _ in drawn[:3]]
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{weights.model_folder('clip')}")
    with torch.no_grad():
        expected = model.eval().encode_image(torch.stack([preprocess(p) for p in pictures]), normalize=True)
    np.testing.assert_allclose(clip.encode_images(pictures), expected.numpy(), atol=1e-6)


def test_text_features_are_open_clips_own_normalised(clip, weights):
    texts = ["a woodcut", "op art, snow, rain", ""]
    name = f"local-dir:{weights.model_folder('clip')}"
    model, _ = open_clip.create_model_from_pretrained(name)
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.get_tokenizer(name)(texts), normalize=True)
    np.testing.assert_allclose(clip.encode_texts(texts, batch=2), expected.numpy(), atol=1e-6)


def test_features_are_float32_unit_rows(clip, drawn):
    for features in (clip.encode_images([drawn[0][0]]), clip.encode_texts(["a woodcut"], batch=1)):
        assert features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_a_picture_is_nearer_to_its_own_caption_than_to_another(clip, drawn):
    images = clip.encode_images([picture for picture, _ in drawn])
    texts = clip.encode_texts([scene.prompt for _, scene in drawn], batch=64)
    assert (np.argmax(images @ texts.T, axis=1) == np.arange(len(drawn))).mean() > 0.7


def test_half_precision_keeps_layer_norms_in_full(weights, half_on_cpu):
    model = ClipEncoder.load(weights, half_on_cpu).model
    for name, parameter in model.named_parameters():
        norm = ".ln_" in name or name.startswith("ln_")
        matrix = name.endswith(("in_proj_weight", "c_fc.weight", "conv1.weight"))
        if norm or matrix:
            assert parameter.dtype == (torch.float32 if norm else torch.float16), name


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 20), (7, 5)])
def test_odd_sizes_are_encoded(clip, size):
    assert np.isfinite(clip.encode_images([Image.new("RGB", size, "red")])).all()


def test_a_text_longer_than_the_context_is_cut_not_refused(clip):
    assert clip.encode_texts(["word " * 500], batch=1).shape == (1, 128)


def test_missing_weights_are_refused_not_replaced_by_random_ones(own_copy, cpu):
    broken = own_copy("clip")
    (broken.model_folder("clip") / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="open_clip cannot load it"):
        ClipEncoder.load(broken, cpu)


def test_a_missing_layer_is_refused(own_copy, cpu):
    from safetensors.torch import load_file, save_file

    broken = own_copy("clip")
    path = broken.model_folder("clip") / "open_clip_model.safetensors"
    state = load_file(path)
    del state["visual.proj"]
    save_file(state, path)
    with pytest.raises(UserError, match="open_clip cannot load it"):
        ClipEncoder.load(broken, cpu)


def with_config(weights: Weights, change) -> Weights:
    path = weights.model_folder("clip") / "open_clip_config.json"
    config = json.loads(path.read_text())
    change(config["model_cfg"])
    path.write_text(json.dumps(config))
    return weights


def test_a_text_tower_that_sees_every_token_has_no_mask(own_copy, cpu):
    own = with_config(own_copy("clip"), lambda config: config["text_cfg"].update(no_causal_mask=True))
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{own.model_folder('clip')}")
    clip = ClipEncoder.load(own, cpu)
    with torch.no_grad():
        expected = model.eval().encode_text(clip.tokenizer(["a woodcut"]), normalize=True)
    assert clip.model.attn_mask is None
    np.testing.assert_allclose(clip.encode_texts(["a woodcut"], batch=1), expected.numpy(), atol=1e-6)


def test_a_configuration_that_is_no_plain_clip_is_refused(own_copy, cpu):
    with pytest.raises(UserError, match="open_clip cannot load it"):
        ClipEncoder.load(with_config(own_copy("clip"), lambda config: config.update(custom_text=True)), cpu)


def test_what_no_file_holds_is_not_left_empty(weights, cpu, monkeypatch):
    """A model with a table of its own that is not among its weights."""
    original = clip_module.meta_clip

    def with_a_table(config, half):
        model = original(config, half)
        model.visual.register_buffer("table", torch.empty(3, device="meta"), persistent=False)
        return model

    monkeypatch.setattr(clip_module, "meta_clip", with_a_table)
    with pytest.raises(UserError, match="no file holds its visual.table"):
        ClipEncoder.load(weights, cpu)


def test_a_damaged_file_is_refused(own_copy, cpu):
    broken = own_copy("clip")
    (broken.model_folder("clip") / "open_clip_model.safetensors").write_bytes(b"damaged, and no header")
    with pytest.raises(UserError, match="open_clip cannot load it"):
        ClipEncoder.load(broken, cpu)


def test_a_tokenizer_of_another_model_is_refused(own_copy, cpu, weights):
    swapped = own_copy("clip")
    folder = swapped.model_folder("clip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(weights.model_folder("sentences") / name, folder / name)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = str(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="tokenizer"):
        ClipEncoder.load(swapped, cpu)


def test_a_manifest_without_a_tokenizer_record_is_refused(weights, cpu):
    models = {**weights.models, "clip": {k: v for k, v in weights.models["clip"].items() if k != "tokenizer"}}
    with pytest.raises(UserError, match="no tokenizer record"):
        ClipEncoder.load(Weights(weights.folder, models, weights.captioners), cpu)


def test_tokens_of_a_text_are_counted_without_those_of_start_and_end(weights):
    own = clip_tokenizer(weights.model_folder("clip"))
    others = open_clip.tokenizer.HFTokenizer(str(weights.model_folder("blip")))
    text = "a red fish, op art, fog"
    assert token_count(own, text) == int((own([text])[0] != 0).sum()) - 2
    assert token_count(others, text) == len(others.tokenizer(text)["input_ids"]) - 2
    assert token_count(own, ", ".join([text] * 40)) > own.context_length
