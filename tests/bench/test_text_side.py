"""The measurement's path on prompts of the miniature world; its figures come from `make textside`."""

import json

import numpy as np
import pytest

from kernel.errors import UserError
from kernel.miniature.world.folders import TEXT_SIDE_SEED, scenes
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows
from kernel.system.devices import Device
from tests.bench.text_side.__main__ import main, page
from tests.bench.text_side.composition import composition_table, kind_of
from tests.bench.text_side.material import EachTextOnce, Material, Sizes, read_material
from tests.bench.text_side.simulation import (
    Corruption,
    mean_agreement,
    noisy_queries,
    simulated_captions,
    where_it_falls_to,
    words_of,
)
from tests.bench.text_side.tables import NEAR, SHRINKS, cell, shown, shrunk

SMALL = Sizes(scored=4, captioned=1, calibrated=2)
OTHER_WORDS = ["dragon", "highly", "detailed"]


@pytest.fixture(scope="module")
def prompts():
    """Each twice, the second time with a capital, which MiniLM does not read: every prompt has one near to it."""
    own = list(dict.fromkeys(scene.prompt for scene in scenes(TEXT_SIDE_SEED, 60)))
    return own + [prompt.capitalize() for prompt in own]


@pytest.fixture(scope="module")
def encoder(weights, cpu):
    return EachTextOnce(SentenceEncoder.load(weights, cpu).model)


@pytest.fixture(scope="module")
def file(tmp_path_factory, prompts):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def measured(file, weights_folder):
    out = file.parent / "out"
    arguments = ["--prompts", str(file), "--out", str(out), "--weights", str(weights_folder), "--device", "cpu"]
    sizes = [part for name, count in vars(SMALL).items() for part in (f"--{name}", str(count))]
    assert main([*arguments, *sizes]) == 0
    return out


def captions(prompts, count=4, drop=0.5, replace=0.5, agreement=0.5, seed=0):
    return simulated_captions(prompts, count, Corruption(drop, replace, agreement), OTHER_WORDS, seed)


def test_without_corruption_a_caption_is_the_prompt(prompts):
    odd = [", a cat ,, oil", "a cat,", "cat"]
    assert captions(prompts + odd, 2, drop=0, replace=0) == [[prompt] * 2 for prompt in prompts + odd]


def test_dropping_all_modifiers_leaves_the_subject():
    assert captions(["a cat, oil on canvas, 8k", " ,a cat", "1, a cat"], 1, drop=1, replace=0) == [["a cat"]] * 3


def test_replacing_all_words_keeps_their_number_and_the_commas():
    ((said,),) = captions(["a cat,  oil on canvas"], 1, drop=0, replace=1)
    assert [len(part.split()) for part in said.split(",")] == [2, 3]
    assert set(words_of([said])) <= set(OTHER_WORDS)


def test_as_many_words_are_replaced_as_asked():
    ((said,),) = captions(["cat " * 999 + "cat"], 1, replace=0.3)
    assert said.split().count("cat") == pytest.approx(700, abs=50)


def test_the_seed_decides_and_prompts_do_not_move_each_other(prompts):
    assert captions(prompts, seed=3) == captions(prompts, seed=3) != captions(prompts, seed=4)
    assert captions(prompts[:5]) == captions(prompts)[:5]


def test_fewer_captions_are_the_first_of_more(prompts):
    assert captions(prompts, 2) == [own[:2] for own in captions(prompts, 5)]


def test_what_is_replaced_stays_replaced_when_more_is():
    ((few,),), ((more,),) = (captions(["cat " * 200 + "cat"], 1, replace=share) for share in (0.2, 0.4))
    pairs = list(zip(few.split(), more.split(), strict=True))
    assert all(more_said == said for said, more_said in pairs if said != "cat")
    assert sum(more_said != said for said, more_said in pairs) > 10


def test_captions_that_agree_wholly_are_identical(prompts):
    assert all(len(set(own)) == 1 for own in captions(prompts, agreement=1))


def test_captions_that_do_not_agree_are_independent():
    ((first, second),) = captions(["cat " * 2999 + "cat"], 2, replace=0.5, agreement=0)
    both = np.array([first.split(), second.split()]) != "cat"
    # independent: the share replaced in both is the product of the shares
    assert both.all(axis=0).mean() == pytest.approx(0.25, abs=0.03)


def test_half_agreement_shares_half_of_the_corruption():
    ((first, second),) = captions(["cat " * 2999 + "cat"], 2, replace=0.5, agreement=0.5)
    both = np.array([first.split(), second.split()]) != "cat"
    assert both.all(axis=0).mean() == pytest.approx(0.5 * 0.5 + 0.5 * 0.25, abs=0.03)


def test_agreement_leaves_a_single_caption_as_corrupted_as_it_was():
    shares = [
        np.mean([word != "cat" for word in captions(["cat " * 2999 + "cat"], 1, agreement=a)[0][0].split()])
        for a in (0, 0.5, 1)
    ]
    assert shares == pytest.approx([0.5] * 3, abs=0.04)


def test_noise_0_is_the_truth_and_noise_is_as_long_as_asked():
    truth = unit_rows(np.random.default_rng(0).normal(size=(200, 384)))
    np.testing.assert_allclose(noisy_queries(truth, 0, 1), truth, atol=1e-6)
    # noise at right angles to the truth and of length 2 leaves a cosine of 1 / sqrt(1 + 2**2)
    assert np.einsum("nd,nd->n", noisy_queries(truth, 2, 1), truth).mean() == pytest.approx(1 / np.sqrt(5), abs=0.01)
    np.testing.assert_array_equal(noisy_queries(truth, 2, 1)[:3], noisy_queries(truth[:3], 2, 1))


def test_mean_agreement_leaves_out_each_caption_with_itself():
    assert mean_agreement(np.array([[[1.0, 0], [0, 1], [0, 1]]])) == pytest.approx(1 / 3)


def test_the_fall_is_found_by_halving():
    assert where_it_falls_to(0.25, lambda x: 1 - x, 0, 1, 20) == pytest.approx(0.75, abs=1e-5)
    assert where_it_falls_to(-5, lambda x: 1 - x, 0, 1, 20) == pytest.approx(1, abs=1e-5)


def test_a_cell_compares_with_the_default_pairwise():
    default = np.repeat([0.1, 0.9, 0.5], 10)
    own = cell("5", "captions", default + 0.02, default)
    assert own["minus_default"]["mean"] == pytest.approx(0.02)
    assert own["minus_default"]["ci95"] == pytest.approx([0.02, 0.02])
    assert own["by_split"] == pytest.approx([0.12, 0.92, 0.52])
    assert shown(own) == "0.520 (+0.020*)"
    assert shown(cell("5", "captions", default, default)) == "0.500"


def test_shrinking_by_half_turns_half_the_way_to_the_mean():
    np.testing.assert_allclose(
        shrunk(np.array([[2.0, 0]]), np.array([0, 0.1]), 0.5), [[np.sqrt(0.5), np.sqrt(0.5)]], atol=1e-6
    )


def test_scored_prompts_and_what_is_near_to_them_are_not_in_the_bank(file, prompts, encoder):
    material = read_material(file, encoder, SMALL)
    held_out = material.scored + material.calibration
    assert len(set(held_out)) == SMALL.held_out == 14
    assert set(material.bank) | set(held_out) <= set(prompts) and not set(material.bank) & set(held_out)
    rows = np.concatenate([material.truth, material.calibration_truth])
    assert (material.bank_rows @ rows.T).max() < 0.95
    assert material.counts["too near to these"] >= 7
    assert material.counts["bank"] + material.counts["too near to these"] + 14 == len(prompts)
    np.testing.assert_allclose(encoder.encode(material.bank[:3]), material.bank_rows[:3], atol=1e-6)


def test_replacement_words_come_from_the_bank_alone(file, encoder):
    material = read_material(file, encoder, SMALL)
    assert material.words == words_of(material.bank)


def test_every_table_holds_its_default_and_whole_intervals(measured):
    content = json.loads((measured / "textside.json").read_text(encoding="utf-8"))
    names = {"dedupe", "shrink", "composition", "captions", "noisy query neighbours", "caption query neighbours"}
    assert set(content["tables"]) == names
    for cells in content["tables"].values():
        for own in cells:
            assert own["ci95"][0] <= own["mean"] <= own["ci95"][1]
            assert own["minus_default"]["ci95"][0] <= own["minus_default"]["mean"] <= own["minus_default"]["ci95"][1]
            assert np.mean(own["by_split"]) == pytest.approx(own["mean"])
            assert own["n"] in (3 * SMALL.scored, 3 * SMALL.captioned)
        for column in {own["column"] for own in cells if "random" not in own["column"]}:
            column_cells = [own for own in cells if own["column"] == column]
            at_default = [own for own in column_cells if own["minus_default"]["ci95"] == [0, 0]]
            assert at_default or "softmax" in column


def test_the_rows_are_the_settings_in_order(measured):
    tables = json.loads((measured / "textside.json").read_text(encoding="utf-8"))["tables"]
    rows = {name: list(dict.fromkeys(own["row"] for own in cells)) for name, cells in tables.items()}
    assert rows["dedupe"] == [f"{near:g}" for near in NEAR]
    assert rows["shrink"] == [f"{share:g}" for share in SHRINKS]
    assert rows["captions"] == ["1", "2", "5", "10", "20"]
    kept = [own["kept"] for own in tables["dedupe"]]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]


def test_independent_captions_lie_further_apart_than_those_that_agree(measured):
    cells = json.loads((measured / "textside.json").read_text(encoding="utf-8"))["tables"]["captions"]
    nearness = {own["column"]: own["nearness"] for own in cells}
    assert nearness["independent"] < nearness["half agree"] < nearness["agree as BLIP-2's beams"]


def test_the_page_is_written_and_holds_no_prompt(measured, prompts):
    content = (measured / "textside.json").read_text(encoding="utf-8")
    written = (measured / "textside.md").read_text(encoding="utf-8")
    assert written == page(json.loads(content)) + "\n"
    assert written.count("###") == 5 and "| 0.9 (" in written
    assert not any(prompt in content + written for prompt in prompts)


def test_without_the_file_one_line_says_so_and_all_is_well(tmp_path, capsys):
    assert main(["--prompts", str(tmp_path / "absent.txt"), "--out", str(tmp_path / "out")]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "absent.txt: not there" in line
    assert not (tmp_path / "out").exists()


def test_too_few_prompts_are_refused_in_one_line(tmp_path, weights_folder, capsys):
    path = tmp_path / "few.txt"
    path.write_text("a cat\na dog\n")
    assert main(["--prompts", str(path), "--out", str(tmp_path / "out"), "--weights", str(weights_folder)]) == 1
    assert "2 different clean prompts; expected more than the" in capsys.readouterr().err


def test_a_bank_that_is_all_near_to_the_scored_is_refused(tmp_path, encoder):
    path = tmp_path / "same.txt"
    path.write_text("a red fish\nA red fish\na Red fish\na red Fish\nA RED FISH\n")
    with pytest.raises(UserError, match="near to one that is held out"):
        read_material(path, encoder, Sizes(1, 1, 1))


def test_a_kind_is_told_by_commas_and_words():
    told = {"a cat, oil, art, fog": "list", "a cat sits on a mat": "sentence", "a cat": None, "a cat, oil": None}
    assert {prompt: kind_of(prompt) for prompt in told} == told


def planted(lists: int, sentences: int) -> Material:
    """Lists and sentences about things of their own, in two corners of the space; three splits of four prompts."""
    kinds = [("a {}, oil, art, fog", lists), ("a {} sits on a mat", sentences)]
    bank = [form.format(number) for form, count in kinds for number in range(count)]
    scored = [form.format(f"new {number}") for number in range(6) for form, _ in kinds]
    rng = np.random.default_rng(0)

    def rows(prompts: list[str]) -> np.ndarray:
        corner = np.array([[1.0, 0.0] if kind_of(prompt) == "list" else [0.0, 1.0] for prompt in prompts])
        return unit_rows(np.concatenate([3 * corner, rng.normal(size=(len(prompts), 8))], axis=1))

    return Material(Sizes(4, 1, 1), scored, rows(scored), [], np.zeros((0, 10)), bank, rows(bank), [], {})


def test_neighbours_are_best_in_a_bank_of_the_kind_that_asks():
    material = planted(40, 90)
    cells = composition_table(material, material.truth, Device("cpu"))
    found = {(own["row"], own["column"]): own["mean"] for own in cells}
    assert {own["bank"] for own in cells} == {40} and {own["n"] for own in cells} == {6}
    for column in ("answer to a", "nearest to a"):
        assert found["100%", f"{column} list"] > found["0%", f"{column} list"]
        assert found["0%", f"{column} sentence"] > found["100%", f"{column} sentence"]
    assert composition_table(planted(0, 90), material.truth, Device("cpu")) == []
