import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from kernel.__main__ import main
from kernel.banks.build import build_bank
from kernel.banks.nearest import nearest, neighbour_weights
from kernel.banks.prompt_bank import PromptBank
from kernel.config import RECIPES, BankSettings
from kernel.errors import UserError
from kernel.evaluation.explain import explain, text_of
from kernel.miniature.world.folders import TEST_SEED, scenes
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import open_weights
from kernel.pipeline.decoding import decode
from kernel.system.devices import Device
from tests.engines import HERE

SHARES = {"neighbours": 0.5, "prompts": 0.3, "head": 0.2}
FAST = replace(RECIPES["text"], num_beams=2, captions_per_image=2, neighbours=20, estimates=SHARES)


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("bank")
    prompts = [scene.prompt for scene in scenes(TEST_SEED + 2, 100)]
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
    build_bank(BankSettings([folder / "prompts.txt"], near=1.0), weights.folder, folder / "bank", HERE)
    return folder / "bank"


@pytest.fixture(scope="module")
def picture(tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("picture") / "one.png"
    drawn[0][0].save(path)
    return path


@pytest.fixture(scope="module")
def explained(picture, weights_folder, bank_folder):
    return explain(picture, FAST, weights_folder, bank_folder, "cpu")


def test_the_nearest_prompts_come_nearest_first_with_falling_weights(explained, bank_folder, weights):
    distances = [own["distance"] for own in explained.neighbours]
    assert len(distances) == 10 and distances == sorted(distances)
    assert [own["weight"] for own in explained.neighbours] == sorted(
        (o["weight"] for o in explained.neighbours), reverse=True
    )
    assert 0 < sum(own["weight"] for own in explained.neighbours) < 1  # of 20 neighbours
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    assert {own["prompt"] for own in explained.neighbours} <= set(bank.prompts(range(len(bank.features))))


@pytest.fixture
def calls(monkeypatch):
    """How often a function of the package was called, by whichever module."""

    def counted(real):
        made = []

        def counting(*arguments, **keywords):
            made.append(arguments)
            return real(*arguments, **keywords)

        for name, module in list(sys.modules.items()):
            if name.startswith("kernel") and getattr(module, real.__name__, None) is real:
                monkeypatch.setattr(module, real.__name__, counting)
        return made

    return counted


def test_weights_are_hashed_and_the_bank_is_searched_once(picture, weights_folder, bank_folder, calls, explained):
    opened, searched = calls(open_weights), calls(nearest)
    only_neighbours = replace(FAST, estimates={"neighbours": 1.0})
    found = explain(picture, only_neighbours, weights_folder, bank_folder, "cpu")
    assert (len(opened), len(searched)) == (1, 1)
    assert found.neighbours == explained.neighbours


def test_weights_are_those_among_all_neighbours(explained, picture, weights_folder, bank_folder, weights, tmp_path):
    """Of 20, of which 10 are shown: as the bank itself says of the image."""
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    features = ClipEncoder.load(weights, Device("cpu")).encode_images([decode(picture)])
    indices, cosines = nearest(features, bank.features, 20, Device("cpu"))
    expected = neighbour_weights(cosines, FAST.neighbour_weighting, FAST.neighbour_temperature)[0]
    assert expected.sum() == pytest.approx(1)
    assert [own["weight"] for own in explained.neighbours] == pytest.approx(expected[:10].tolist(), rel=1e-4)
    assert [own["prompt"] for own in explained.neighbours] == bank.prompts(indices[0, :10])


def test_captions_and_modifiers_are_the_runs_own(explained):
    assert len(explained.captions) == 2
    assert len(explained.modifiers) == 5


def test_each_estimate_says_its_share_and_how_near_it_is_to_the_answer(explained):
    assert {name: own["share"] for name, own in explained.estimates.items()} == SHARES
    neighbours, prompts = explained.estimates["neighbours"]["cosine"], explained.estimates["prompts"]["cosine"]
    # the answer is 0.5 n + 0.3 p, so with c = n.p: n.a = (0.5 + 0.3 c) / length, p.a = (0.5 c + 0.3) / length
    c = np.linspace(-1, 1, 200_001)
    length = np.sqrt(0.34 + 0.3 * c)
    misfit = np.abs((0.5 + 0.3 * c) / length - neighbours) + np.abs((0.5 * c + 0.3) / length - prompts)
    assert misfit.min() < 1e-4


def test_the_head_says_nothing_of_one_image_alone(explained):
    assert explained.estimates["head"]["cosine"] is None
    assert "head         share 0.200, says nothing of one image alone" in text_of(explained)


def test_the_text_shows_what_there_is(explained):
    text = text_of(explained)
    for words in (*explained.captions, *explained.modifiers, *(own["prompt"] for own in explained.neighbours)):
        assert words in text


def test_without_a_bank_the_baseline_is_explained(picture, weights_folder):
    found = explain(
        picture, replace(RECIPES["baseline"], num_beams=1, captions_per_image=1), weights_folder, None, "cpu"
    )
    assert found.neighbours == []
    assert found.estimates["prompts"]["cosine"] == pytest.approx(1, abs=1e-6)


def test_the_command_prints_one_json_object(picture, weights_folder, bank_folder, capsys):
    settings = [f"--set=estimates={json.dumps({'neighbours': 1.0})}", "--set=neighbours=3"]
    where = ["--weights", str(weights_folder), "--bank", str(bank_folder), "--recipe", "text"]
    assert main(["explain", str(picture), *where, *settings, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["estimates"]) == ["neighbours"]
    assert len(content["neighbours"]) == 3 and content["captions"] == []


@pytest.mark.parametrize(("content", "words"), [(None, "no such file"), (b"", "nothing to explain")])
def test_an_image_that_is_none_is_refused(tmp_path, weights_folder, bank_folder, content, words):
    path = tmp_path / "odd.png"
    if content is not None:
        path.write_bytes(content)
    recipe = replace(FAST, estimates={"neighbours": 1.0})
    with pytest.raises(UserError, match=f"odd.png: .*{words}"):
        explain(path, recipe, weights_folder, bank_folder, "cpu")
