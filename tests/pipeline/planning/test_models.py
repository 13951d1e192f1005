"""The models of a weights folder, counted from its configurations: the same as published ones, and as loaded ones."""

import json
from dataclasses import replace

import pytest
import torch

from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.captioners.blip import BLIP
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import CONFIG, ClipEncoder
from kernel.models.image_text_matching import Matcher, itm_logits, meta_matching
from kernel.models.weights_folder import Weights
from kernel.pipeline.planning.gpus import gpu_named
from kernel.pipeline.planning.model_costs import MINILM, captioner_costs, count, sentence_costs, weigh
from kernel.pipeline.planning.models import (
    CAPTIONERS,
    CLIP,
    as_stored,
    models_of,
    published_clip,
    published_models,
)
from kernel.pipeline.planning.plan import plan
from kernel.pipeline.planning.run_plan import predicted_memory, with_fitting_batches
from kernel.pipeline.planning.stage_costs import ASSUMED

BASELINE = RECIPES["baseline"]
MINILM_BYTES = 4 * 22_713_216


@pytest.fixture(scope="module")
def in_float32(weights):
    return models_of(weights, BASELINE, half=False)


@pytest.mark.parametrize("half", [True, False])
def test_the_miniature_models_weigh_what_they_weigh_when_loaded(half, weights, cpu, half_on_cpu):
    models = models_of(weights, BASELINE, half)
    device = half_on_cpu if half else cpu
    loaded = weigh(ClipEncoder.load(weights, device).model), weigh(load_captioner(weights, "blip2", device).model)
    assert len(models.captioners) == 1
    for counted, weighed in zip((models.clip.weights, models.captioners[0].weights), loaded, strict=True):
        assert counted.bytes_by_dtype == weighed.bytes_by_dtype
        assert counted.parameters == weighed.parameters


@pytest.mark.parametrize("half", [True, False])
def test_image_text_matching_weighs_what_it_weighs_when_loaded(half, weights, cpu, half_on_cpu):
    matching = models_of(weights, replace(BASELINE, caption_weighting="itm"), half).matching
    loaded = weigh(Matcher.load(weights, half_on_cpu if half else cpu).model)
    assert matching is not None
    assert matching.weights.bytes_by_dtype == loaded.bytes_by_dtype
    assert models_of(weights, BASELINE, half).matching is None


def test_the_published_matching_has_the_published_number_of_parameters():
    found = published_models(replace(BASELINE, caption_weighting="itc"), half=True).matching
    assert found is not None and round(found.weights.parameters / 1e6) == 1172


def test_matching_holds_the_patches_of_an_image_and_a_copy_for_each_caption(weights):
    recipe = replace(BASELINE, caption_weighting="itm")
    models = models_of(weights, recipe, half=True)
    matcher = json.loads((weights.model_folder("matching") / "config.json").read_text())["vision_config"]
    patches = 2 * matcher["hidden_size"] * (1 + (matcher["image_size"] // matcher["patch_size"]) ** 2)
    found = models.matching
    assert found is not None and found.patches_bytes == patches
    model = meta_matching(json.loads((weights.model_folder("matching") / "config.json").read_text()), half=True)
    seen = torch.empty(1, patches // matcher["hidden_size"] // 2, matcher["hidden_size"], device="meta").half()
    ids = torch.zeros(1, ASSUMED.caption_tokens, device="meta", dtype=torch.long)
    alone = count(lambda: itm_logits(model, seen, ids, None), half=True).activation_bytes
    assert found.caption.activation_bytes == alone + patches
    (stage,) = [own for own in plan(recipe, gpu_named("T4"), 100, models=models).stages if "matching" in own.name]
    assert stage.bytes_per_item == patches + recipe.captions_per_image * found.caption.activation_bytes


def test_captions_that_count_alike_are_the_cure_where_matching_does_not_fit(weights):
    recipe = replace(BASELINE, caption_weighting="itm")
    models = models_of(weights, recipe, half=True)
    plain = plan(replace(recipe, caption_weighting="mean"), gpu_named("T4"), 100, models=models)
    assert "image-text matching" not in [own.name for own in plain.stages]
    found = plan(recipe, gpu_named("T4"), 100, deadline_seconds=plain.seconds, models=models)
    assert not found.fits and "captions that count alike: --set caption_weighting=mean" in found.cures
    none = plan(recipe, gpu_named("T4"), 100, deadline_seconds=plain.seconds / 2, models=models)
    assert "captions that count alike: --set caption_weighting=mean" not in none.cures


def test_a_recipe_s_captioner_is_the_one_counted(weights, in_float32):
    blip = models_of(weights, replace(BASELINE, captioner="blip"), half=False).captioners[0]
    assert (in_float32.captioners[0].name, blip.name) == ("blip2", "blip")
    assert blip.weights.bytes != in_float32.captioners[0].weights.bytes
    assert blip.layers == 3


def test_of_several_captioners_each_is_counted_and_the_smallest_batch_is_all_ones(weights, in_float32):
    several = replace(BASELINE, captioner="blip2,blip")
    models = models_of(weights, several, half=False)
    blip = models_of(weights, replace(BASELINE, captioner="blip"), half=False)
    assert models.captioners == (*in_float32.captioners, *blip.captioners)
    planned = plan(several, gpu_named("cpu"), 100, models=models)
    fits = {own.name: own.fits_up_to for own in planned.stages if own.name.startswith("captions ")}
    assert list(fits) == ["captions blip2", "captions blip"]
    least = replace(planned, stages=[replace(own, fits_up_to=3 if own.name == "captions blip" else own.fits_up_to)
                                     for own in planned.stages])  # fmt: skip
    assert with_fitting_batches(several, least).caption_batch == 3
    assert {"captions blip2", "captions blip"} <= set(predicted_memory(planned))


def test_a_recipe_without_captions_has_no_captioner_to_count(weights):
    assert models_of(weights, replace(BASELINE, estimates={"modifiers": 1.0}), half=False).captioners == ()


def test_word_lists_have_their_own_lengths(weights, in_float32):
    lines = {path.stem: len(path.read_text().splitlines()) for path in (weights.folder / "word_banks").glob("*.txt")}
    assert in_float32.word_lists == lines
    assert set(lines) == {"mediums", "movements", "flavors"}


def test_minilm_is_the_published_one(in_float32):
    assert in_float32.sentences[0].bytes == MINILM_BYTES
    assert in_float32.sentences[1] == sentence_costs(ASSUMED.prompt_tokens, MINILM)[1]


def test_a_cpu_maps_what_the_file_holds_in_float32_and_a_gpu_nothing(weights, in_float32):
    """The miniatures are stored in half precision, MiniLM in float32; a captioner is packed, which maps nothing."""
    assert in_float32.sentences[0].mapped_bytes == MINILM_BYTES
    assert in_float32.clip.weights.mapped_bytes == 0
    assert in_float32.captioners[0].weights.mapped_bytes == 0
    on_gpu = models_of(weights, BASELINE, half=True)
    assert [own.mapped_bytes for own in (on_gpu.sentences[0], on_gpu.clip.weights)] == [0, 0]


@pytest.fixture
def published_folder(tmp_path, weights):
    """The configurations of the published models as a weights folder, without any weights."""
    import open_clip
    from transformers import Blip2Config, BlipConfig

    models = {name: {"class": name, "source": name} for name in ("clip", "sentences")}
    models |= {kind.name: {"class": kind.class_name} for kind in (BLIP2, BLIP)}
    own = Weights(tmp_path, models, ["blip2", "blip"])
    for name in own.models:
        own.model_folder(name).mkdir(parents=True)
    (tmp_path / "word_banks").mkdir()
    config = {"model_cfg": open_clip.get_model_config(CLIP)}
    (own.model_folder("clip") / CONFIG).write_text(json.dumps(config))
    (own.model_folder("sentences") / "config.json").write_text(json.dumps(MINILM))
    for name, published, of in (
        ("blip2", "blip2-flan-t5-xl", Blip2Config),
        ("blip", "blip-image-captioning-large", BlipConfig),
    ):
        stated = of(**CAPTIONERS[published].config).to_dict()
        if name == "blip2":
            stated["text_config"] |= {"tie_word_embeddings": False, "scale_decoder_outputs": False}
        (own.model_folder(name) / "config.json").write_text(json.dumps(stated))
    return own


def test_published_sizes_cost_the_same_from_a_folder_as_by_name(published_folder):
    models = models_of(published_folder, BASELINE, half=True)
    clip, captioner = published_clip(half=True), captioner_costs(CAPTIONERS["blip2-flan-t5-xl"], half=True)
    assert replace(models.clip, name="") == replace(clip, name="")
    assert models.captioners[0].weights.bytes == captioner.weights.bytes == 9_101_850_624
    assert (models.captioners[0].encode, models.captioners[0].steps) == (captioner.encode, captioner.steps)
    assert (models.captioners[0].vocabulary, models.captioners[0].layers) == (captioner.vocabulary, captioner.layers)


def test_a_captioner_that_is_not_there_is_refused(weights):
    with pytest.raises(UserError, match="holds no captioner 'git'"):
        models_of(weights, replace(BASELINE, captioner="git"), half=False)


def test_a_configuration_that_makes_no_model_is_refused(own_copy):
    broken = own_copy("clip")
    path = broken.model_folder("clip") / CONFIG
    path.write_text(json.dumps({"model_cfg": {"embed_dim": 4}}))
    with pytest.raises(UserError, match="open_clip_config.json: not a model's configuration .*vision_cfg is missing"):
        models_of(broken, BASELINE, half=False)
    path.write_text("{")
    with pytest.raises(UserError, match="open_clip_config.json: not a model's configuration .*Invalid JSON"):
        models_of(broken, BASELINE, half=False)
    path.write_text(json.dumps({"model_cfg": {"embed_dim": 4, "vision_cfg": {"head_width": 0}, "text_cfg": {}}}))
    with pytest.raises(UserError, match="cannot be planned"):
        models_of(broken, BASELINE, half=False)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path, in_float32):
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"model.safetensors: named safetensors but is not"):
        as_stored(in_float32.clip.weights, tmp_path, half=False)


# planning with them


CPU = gpu_named("cpu")
SMALL_BATCHES = replace(BASELINE, clip_batch=2, caption_batch=3)


def test_a_plan_of_a_folder_s_models_has_their_weights(in_float32):
    planned = plan(SMALL_BATCHES, CPU, 100, models=in_float32)
    stages = {stage.name: stage for stage in planned.stages}
    assert planned.captioner == "blip2"
    assert stages["clip"].weights_bytes == in_float32.clip.weights.bytes
    assert stages["captions"].weights_bytes == in_float32.captioners[0].weights.bytes
    assert stages["captions"].mapped_bytes == MINILM_BYTES
    assert (stages["clip"].batch, stages["captions"].batch) == (2, 3)
    assert stages["word banks"].batch == max(in_float32.word_lists.values())


def test_a_batch_is_never_larger_than_what_there_is_to_do(in_float32):
    stages = {stage.name: stage for stage in plan(BASELINE, CPU, 2, models=in_float32).stages}
    assert (stages["clip"].batch, stages["captions"].batch) == (2, 2)
    assert stages["sentences"].batch == 2 * BASELINE.captions_per_image


def test_predicted_is_all_but_what_stays_mapped_beside_the_libraries(in_float32):
    planned = plan(SMALL_BATCHES, CPU, 100, models=in_float32)
    predicted = predicted_memory(planned)
    stages = {stage.name: stage for stage in planned.stages}
    base = int(ASSUMED.cpu_libraries_gb * 1e9)
    captions, clip, words = stages["captions"], stages["clip"], stages["word banks"]
    assert predicted["captions"] == base + captions.memory_bytes - MINILM_BYTES
    assert predicted["clip"] == base + clip.memory_bytes - MINILM_BYTES
    assert predicted["words"] == base + words.memory_bytes - MINILM_BYTES
    assert predicted["estimates"] == base + stages["sentences"].memory_bytes - MINILM_BYTES
    assert set(predicted) == {"words", "clip", "captions", "estimates"}


def test_on_a_gpu_predicted_is_what_its_tensors_take(weights):
    models = models_of(weights, BASELINE, half=True)
    planned = plan(BASELINE, gpu_named("T4"), 100, models=models)
    stages = {stage.name: stage for stage in planned.stages}
    assert predicted_memory(planned)["captions"] == stages["captions"].memory_bytes


def test_a_folder_that_fits_nowhere_is_told_so_without_a_smaller_captioner(weights):
    models = models_of(weights, BASELINE, half=True)
    planned = plan(BASELINE, gpu_named("0.6GB:1TFLOPS:10GB/s"), 1000, models=models)
    assert not planned.fits
    assert not any("smaller captioner" in cure for cure in planned.cures)
