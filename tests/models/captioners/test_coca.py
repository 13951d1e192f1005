"""CoCa by a tiny checkpoint of open_clip's own class, through the real loader."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.captioners.captioner import Published
from kernel.models.captioners.coca import COCA, END, START
from kernel.models.captioners.loading import load_captioner
from kernel.models.weights_folder import Weights
from kernel.pipeline.planning.model_costs import captioner_costs, weigh
from tests.models.captioners.conftest import edit_json, edit_state

RECIPE = replace(RECIPES["baseline"], num_beams=3, captions_per_image=3, max_length=7, min_length=3)
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16,
                   "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    "custom_text": True,
}  # fmt: skip
PICTURES = [Image.new("RGB", (50, 40), color) for color in ("red", "blue", "white")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Weights:
    import open_clip

    folder = tmp_path_factory.mktemp("coca")
    own = folder / "captioners" / "coca"
    own.mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.CoCa(**{key: value for key, value in TINY.items() if key != "custom_text"})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    save_file({key: own.half() for key, own in model.state_dict().items()}, own / "open_clip_model.safetensors")
    (own / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}), encoding="utf-8")
    record = {"class": "CoCa", "source": "tests", "revision": "tiny", "sha256": "0" * 64}
    record["tokenizer"] = COCA.tokenizer_record(COCA.read_processor(own))
    return Weights(folder, {"coca": record}, ["coca"])


@pytest.fixture
def own(tiny, tmp_path) -> Weights:
    """The same, to be broken."""
    shutil.copytree(tiny.folder / "captioners", tmp_path / "captioners")
    return replace(tiny, folder=tmp_path)


@pytest.fixture(scope="module")
def captioner(tiny, cpu):
    return load_captioner(tiny, "coca", cpu)


def test_captions_are_the_beams_of_the_models_own_forward(captioner):
    """One beam, by hand: the likeliest word after all that went before."""
    (own,) = captioner.captions(PICTURES[:1], replace(RECIPE, num_beams=1, captions_per_image=1))
    pixels = captioner.kind.prompt(captioner.processor, PICTURES[:1], captioner.device)["pixel_values"]
    row = torch.tensor([[START]])
    with torch.inference_mode():
        while row.shape[1] < RECIPE.max_length:
            scores = captioner.model(pixels, row, output_labels=False)["logits"][:, -1]
            if row.shape[1] < RECIPE.min_length:
                scores[:, END] = float("-inf")
            row = torch.cat([row, scores.argmax(dim=-1, keepdim=True)], dim=1)
    words = [token for token in row[0, 1:].tolist() if token != END]
    assert own == [captioner.processor.tokenizer.decode(words).strip()]


def test_every_image_gets_the_recipes_number_of_captions_whatever_is_beside_it(captioner):
    together = captioner.captions(PICTURES, RECIPE)
    assert [len(own) for own in together] == [3, 3, 3]
    assert [captioner.captions([picture], RECIPE)[0] for picture in PICTURES] == together
    assert len({own[0] for own in together}) > 1


def test_samples_are_the_same_by_the_same_seed_alone(captioner):
    sampled = replace(RECIPE, caption_decoding="sampling", captions_per_image=4, sampling_top_p=1.0)
    first, again, other = (captioner.captions(PICTURES, sampled, seed) for seed in (3, 3, 4))
    assert [len(own) for own in first] == [4, 4, 4]
    assert first == again != other


def test_captions_end_at_the_models_own_length(captioner):
    longer = replace(RECIPE, max_length=60, min_length=50)
    (own,) = captioner.captions(PICTURES[:1], longer)
    assert len(own) == 3


def test_half_precision_speaks_and_says_so_where_it_overflowed(tiny, half_on_cpu):
    loaded = load_captioner(tiny, "coca", half_on_cpu)
    assert loaded.model.text_decoder.resblocks[0].mlp.c_fc.weight.dtype == torch.float16
    assert len(loaded.captions(PICTURES, RECIPE)[2]) == 3
    head = loaded.model.text_decoder.text_projection
    with torch.no_grad():
        head.copy_(torch.randn(head.shape).sign() * 6e4)
    with pytest.raises(ValueError, match="no numbers"):
        loaded.captions(PICTURES, RECIPE)


def test_a_missing_or_foreign_layer_is_refused(own, cpu):
    path = own.model_folder("coca") / "open_clip_model.safetensors"
    edit_state(path, lambda state: state.update({"another.weight": torch.zeros(2)}))
    with pytest.raises(UserError, match="unexpected keys another.weight: it is another model's"):
        load_captioner(own, "coca", cpu)
    edit_state(path, lambda state: [state.pop("another.weight"), state.pop("text_decoder.ln_final.weight")])
    with pytest.raises(UserError, match="missing keys text_decoder.ln_final.weight: .*random numbers"):
        load_captioner(own, "coca", cpu)


def test_another_tokenizer_than_the_manifests_is_refused(own, cpu):
    record = own.models["coca"]
    own = replace(own, models={"coca": {**record, "tokenizer": {**record["tokenizer"], "ids": [1, 2]}}})
    with pytest.raises(UserError, match="tokenizer's ids are .*would mean other words"):
        load_captioner(own, "coca", cpu)


def test_a_configuration_that_reaches_for_a_hub_is_refused(own, cpu):
    def reach(config):
        config["model_cfg"]["text_cfg"]["hf_model_name"] = "somebody/model"

    edit_json(own.model_folder("coca") / "open_clip_config.json", reach)
    with pytest.raises(UserError, match="hf_model_name"):
        load_captioner(own, "coca", cpu)


@pytest.mark.parametrize("half", [True, False])
def test_a_loaded_one_weighs_what_is_planned_by_its_configuration(tiny, half, cpu, half_on_cpu):
    loaded = load_captioner(tiny, "coca", half_on_cpu if half else cpu)
    costs = captioner_costs(Published("coca", "CoCa", {"model_cfg": TINY}), half)
    assert weigh(loaded.model, loaded.kind) == costs.weights
    # nothing is kept, so each word more is that much more work
    (first, _), (second, _), (third, _) = costs.steps
    assert 0 < second.operations - first.operations <= third.operations - second.operations
