"""Each kind of CLIP that reads Korean, saved tiny and loaded by the real path, beside its library's own answers."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kernel.errors import UserError
from kernel.models.multilingual.encoder import MultilingualClip, local_tokenizer, multilingual_tokenizer_record
from kernel.models.multilingual.loading import KINDS, load_clip
from kernel.models.text_tower import TextTower
from kernel.models.weights_folder import Weights
from tests.models.multilingual.tiny import tiny_weights

TEXTS = ["눈 덮인 산, 안개", "벚꽃", "a castle at dusk", "", "해 질 녘 " * 40]
FILES = {"CustomTextCLIP": "open_clip_model.safetensors"}


@pytest.fixture(scope="module", params=list(KINDS))
def saved(request, tmp_path_factory):
    return tiny_weights(request.param, tmp_path_factory.mktemp(request.param) / "weights")


@pytest.fixture(scope="module")
def clip(saved, cpu):
    return load_clip(saved, cpu, "clip_ko")


@pytest.fixture
def own(saved, tmp_path) -> Weights:
    """A copy that the test may break."""
    shutil.copytree(saved.folder, tmp_path / "weights")
    return replace(saved, folder=tmp_path / "weights")


def class_of(weights: Weights) -> str:
    return weights.models["clip_ko"]["class"]


def weights_file(weights: Weights):
    return weights.model_folder("clip_ko") / FILES.get(class_of(weights), "model.safetensors")


def unit(features) -> np.ndarray:
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1).numpy()


def own_features(weights: Weights, texts, pictures, tmp_path) -> tuple[np.ndarray, np.ndarray]:
    """The library's own model and preprocessing, called as its pages tell."""
    folder = weights.model_folder("clip_ko")
    with torch.inference_mode():
        if class_of(weights) == "CustomTextCLIP":
            import open_clip
            from open_clip.tokenizer import HFTokenizer

            shutil.copytree(folder, tmp_path / "named")
            config = json.loads((folder / "open_clip_config.json").read_text())
            config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(folder / "text"), "hf_model_pretrained": False}
            (tmp_path / "named" / "open_clip_config.json").write_text(json.dumps(config))
            model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'named'}")
            model = model.eval()
            ids = HFTokenizer(str(folder / "text"))(texts)
            pixels = torch.stack([preprocess(picture) for picture in pictures])
            return unit(model.encode_text(ids)), unit(model.encode_image(pixels))
        import transformers

        model = getattr(transformers, class_of(weights)).from_pretrained(folder).eval()
        pixels = transformers.AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
        if class_of(weights) == "SiglipModel":
            how = {"padding": "max_length", "max_length": 64, "return_attention_mask": False}
            texts = [text.lower() for text in texts]
        else:
            how = {"padding": True, "max_length": 24}
        tokens = local_tokenizer(folder)(texts, truncation=True, return_tensors="pt", **how)
        tokens = {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
        return unit(model.get_text_features(**tokens)), unit(model.get_image_features(**pixels))


def test_features_are_the_library_s_own_normalised(saved, clip, drawn, tmp_path):
    pictures = [picture for picture, _ in drawn[:3]]
    texts, images = own_features(saved, TEXTS, pictures, tmp_path)
    np.testing.assert_allclose(clip.encode_texts(TEXTS, batch=2), texts, atol=1e-5)
    np.testing.assert_allclose(clip.encode_images(pictures), images, atol=1e-5)
    assert np.abs(texts[0] - texts[1]).max() > 1e-3 and np.abs(images[0] - images[1]).max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 20)])
def test_odd_sizes_are_encoded(clip, size):
    assert np.isfinite(clip.encode_images([Image.new("RGB", size, "red")])).all()


def test_a_text_that_takes_every_token_is_full(clip):
    tower = TextTower(clip, 2)
    assert tower.is_full("해 질 녘 " * 40) and not tower.is_full("안개") and not tower.shares_beginnings


def test_half_precision_is_half_everywhere(saved, half_on_cpu):
    model = load_clip(saved, half_on_cpu, "clip_ko").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_nothing_is_looked_for_on_a_hub(saved, cpu, monkeypatch):
    import huggingface_hub

    def asked(*arguments, **options):
        raise AssertionError("asked a hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", asked)
    monkeypatch.chdir(saved.folder.parent)
    assert isinstance(load_clip(saved, cpu, "clip_ko"), MultilingualClip)


def change_state(weights: Weights, change) -> None:
    path = weights_file(weights)
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def a_layer(state) -> str:
    return next(name for name in state if "layers.1" in name or "layer.1" in name or "resblocks.1" in name)


def test_a_missing_layer_is_refused(own, cpu):
    change_state(own, lambda state: state.pop(a_layer(state)))
    with pytest.raises(UserError, match="missing keys .* random numbers"):
        load_clip(own, cpu, "clip_ko")


def test_quantised_numbers_are_refused(own, cpu):
    def quantise(state):
        name = a_layer(state)
        state[name] = (state[name] * 127).to(torch.int8)

    change_state(own, quantise)
    with pytest.raises(UserError, match="is stored as I8, expected one of F16, BF16, F32"):
        load_clip(own, cpu, "clip_ko")


def test_a_tokenizer_of_the_same_size_whose_words_are_exchanged_is_refused(own, cpu):
    path = own.model_folder("clip_ko") / KINDS[class_of(own)].tokenizer_part / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    known = local_tokenizer(path.parent).tokenize("붉은")[0]
    words[known], words["a"] = words["a"], words[known]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="the tokenizer's ids are .* its ids would mean other words"):
        load_clip(own, cpu, "clip_ko")


def test_the_english_clips_tokenizer_is_refused(own, cpu, weights):
    folder = own.model_folder("clip_ko") / KINDS[class_of(own)].tokenizer_part
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(weights.model_folder("sentences") / name, folder / name)
    with pytest.raises(UserError, match="the tokenizer has 30522 tokens, the model's embedding|texts end with token"):
        load_clip(own, cpu, "clip_ko")


def test_a_manifest_without_a_tokenizer_record_is_refused(saved, cpu):
    model = {key: value for key, value in saved.models["clip_ko"].items() if key != "tokenizer"}
    with pytest.raises(UserError, match="no tokenizer record"):
        load_clip(replace(saved, models={"clip_ko": model}), cpu, "clip_ko")


def test_another_class_of_model_is_refused(saved, cpu):
    others = {"CLIPModel": "SiglipModel", "SiglipModel": "CLIPModel", "CustomTextCLIP": "CLIPModel"}
    model = {**saved.models["clip_ko"], "class": others[class_of(saved)]}
    with pytest.raises(UserError, match="model_type|can(not|'t) load"):
        load_clip(replace(saved, models={"clip_ko": model}), cpu, "clip_ko")


def test_a_class_that_is_no_kind_is_refused_with_those_that_are(saved, cpu):
    model = {**saved.models["clip_ko"], "class": "ClipModel"}
    with pytest.raises(
        UserError, match="'ClipModel' is no CLIP that reads Korean; expected one of CLIPModel, SiglipModel"
    ):
        load_clip(replace(saved, models={"clip_ko": model}), cpu, "clip_ko")


@pytest.mark.parametrize("end, fits", [(2, True), (5, False)])
def test_a_clip_must_read_its_answer_where_texts_end(tmp_path, cpu, end, fits):
    """2 is what older configurations say, whose models read at the highest id, here the end token's."""
    own = tiny_weights("CLIPModel", tmp_path / "weights")
    path = own.model_folder("clip_ko") / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["eos_token_id"] = end
    path.write_text(json.dumps(config))
    if fits:
        assert load_clip(own, cpu, "clip_ko").encode_texts(["안개"], 1).shape == (1, 16)
    else:
        with pytest.raises(UserError, match="texts end with token 699, the text tower reads its answer at token 5"):
            load_clip(own, cpu, "clip_ko")


def test_siglip_reads_capitals_as_small_letters_and_fills_up_to_64(tmp_path, cpu):
    clip = load_clip(tiny_weights("SiglipModel", tmp_path / "weights"), cpu, "clip_ko")
    assert not np.array_equal(clip.tokenizer("A Castle")["input_ids"], clip.tokenizer("a castle")["input_ids"])
    np.testing.assert_array_equal(clip.encode_texts(["A Castle"], 1), clip.encode_texts(["a castle"], 1))
    assert clip.tokens(["안개"])["input_ids"].shape == (1, 64)


def test_an_open_clip_configuration_that_names_a_hub_is_refused(tmp_path, cpu):
    own = tiny_weights("CustomTextCLIP", tmp_path / "weights")
    path = own.model_folder("clip_ko") / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "xlm-roberta-large"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="hf_model_name is 'xlm-roberta-large': it loads what is none of the folder's"):
        load_clip(own, cpu, "clip_ko")


def test_features_that_are_no_numbers_are_an_error(own, cpu):
    """As half precision that overflowed leaves them; no row of them may be kept."""
    clip = load_clip(own, cpu, "clip_ko")
    for parameter in clip.model.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="features are no numbers: the weights are damaged, or half precision over"):
        clip.encode_texts(["안개"], 1)
    with pytest.raises(ValueError, match="features are no numbers"):
        clip.encode_images([Image.new("RGB", (40, 40), "red")])


def test_a_tokenizer_that_cannot_fill_texts_up_is_refused_before_the_first(own, cpu):
    folder = own.model_folder("clip_ko") / KINDS[class_of(own)].tokenizer_part
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        if content.pop("pad_token", None):
            path.write_text(json.dumps(content))
    record = multilingual_tokenizer_record(local_tokenizer(folder))
    assert record["special_ids"]["pad"] is None
    models = {"clip_ko": {**own.models["clip_ko"], "tokenizer": record}}
    with pytest.raises(UserError, match="names no pad token.*tokenizer_config.json"):
        load_clip(replace(own, models=models), cpu, "clip_ko")
