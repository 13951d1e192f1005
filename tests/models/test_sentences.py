import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kernel.errors import UserError
from kernel.models.sentences import SentenceEncoder, inspect_sentences
from kernel.pipeline.submission import read_submission
from kernel.system.files import file_sha256
from tests.conftest import ROOT

# all-MiniLM-L6-v2's model.safetensors on its hub
PUBLISHED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="module")
def encoder(weights, cpu):
    return SentenceEncoder.load(weights, cpu)


def test_the_weights_are_the_published_ones(weights):
    assert file_sha256(weights.model_folder("sentences") / "model.safetensors") == PUBLISHED_SHA256


def test_module_names_are_those_that_every_release_reads(weights):
    modules = json.loads((weights.model_folder("sentences") / "modules.json").read_text())
    assert {module["type"] for module in modules} == {
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Normalize",
    }


def test_the_hosts_answers_are_reproduced(encoder, sample):
    with (sample / "prompts.csv").open(encoding="utf-8", newline="") as file:
        prompts = {row["imgId"]: row["prompt"] for row in csv.DictReader(file)}
    truth = read_submission(sample / "sample_submission.csv")
    rows = encoder.encode([prompts[image_id] for image_id in truth], batch=32)
    difference = np.abs(rows - np.stack(list(truth.values())))
    assert difference.size == 2688
    assert difference.max() <= 2e-7


def test_rows_are_float32_unit_rows(encoder):
    rows = encoder.encode(["a red fish", "", "é" * 2000], batch=2)
    assert rows.shape == (3, 384) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_batches_do_not_change_rows(encoder):
    prompts = ["a red fish", "a woodcut, op art, snow, rain and fog over the long long hill", "x"]
    np.testing.assert_allclose(encoder.encode(prompts, 1), encoder.encode(prompts, 3), atol=1e-6)


@pytest.fixture(params=["loaded", "inspected"])
def looked_at(request, cpu):
    """Both ways of looking at MiniLM's folder: what one refuses before the first image, the other would later."""
    return inspect_sentences if request.param == "inspected" else lambda weights: SentenceEncoder.load(weights, cpu)


def test_sound_weights_pass(looked_at, weights):
    looked_at(weights)


def test_a_swapped_tokenizer_is_refused(own_copy, looked_at, weights):
    swapped = own_copy("sentences")
    shutil.copy(weights.model_folder("blip") / "tokenizer.json", swapped.model_folder("sentences") / "tokenizer.json")
    with pytest.raises(UserError, match="tokenizer's (size|ids|special_ids)"):
        looked_at(swapped)


def test_two_exchanged_words_in_the_tokenizer_are_refused(own_copy, looked_at):
    swapped = own_copy("sentences")
    path = swapped.model_folder("sentences") / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["fish"], vocabulary["hill"] = vocabulary["hill"], vocabulary["fish"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer's ids"):
        looked_at(swapped)


@pytest.mark.parametrize(("setting", "said"), [
    ({"model_type": "roberta"}, "config.json: not a model's configuration"),
    ({"auto_map": {"AutoModel": "evil.Model"}}, "config.json: not a model's configuration"),
])  # fmt: skip
def test_a_configuration_of_another_model_is_refused(own_copy, looked_at, setting, said):
    own = own_copy("sentences")
    path = own.model_folder("sentences") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **setting}))
    with pytest.raises(UserError, match=said):
        looked_at(own)


def test_a_model_of_other_dimensions_is_refused_before_it_is_loaded(own_copy):
    own = own_copy("sentences")
    path = own.model_folder("sentences") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 768}))
    with pytest.raises(UserError, match="embeds in 768 dimensions, the competition scores 384"):
        inspect_sentences(own)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_one_weight_that_is_no_number_is_refused_before_it_is_loaded(own_copy, number):
    own = own_copy("sentences")
    path = own.model_folder("sentences") / "model.safetensors"
    state = {name: tensor.copy() for name, tensor in load_file(path).items()}
    state["encoder.layer.5.output.dense.weight"][383, 1535] = number
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.safetensors: encoder\.layer\.5\.output\.dense\.weight holds what"):
        inspect_sentences(own)


def test_looking_at_it_imports_no_sentence_transformers(weights_folder):
    code = (
        "import sys; from pathlib import Path\n"
        "from kernel.models.sentences import inspect_sentences\n"
        "from kernel.models.weights_folder import open_weights\n"
        "inspect_sentences(open_weights(Path(sys.argv[1]), hashes=False))\n"
        "print(*sys.modules.keys() & {'sentence_transformers', 'sklearn'})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(weights_folder)], cwd=ROOT, check=True, capture_output=True,
                          text=True)  # fmt: skip
    assert done.stdout == "\n"
