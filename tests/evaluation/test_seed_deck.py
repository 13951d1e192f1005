import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest

from kernel.config import EMBEDDING_DIMENSIONS, Paths, Recipe
from kernel.errors import UserError
from kernel.evaluation.finished import finished_run
from kernel.evaluation.seed_deck import CAPTIONED, DECK_CAPTIONS, DECK_MODIFIERS, reason_against, verify
from kernel.pipeline.folder import results
from kernel.pipeline.folder.results import CaptionShard
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import ImageFile
from kernel.pipeline.run import run as run_pipeline
from kernel.pipeline.submission import write_submission

IDS = sorted(DECK_MODIFIERS)
REAL = {
    "clip": "laion/CLIP-ViT-g-14-laion2B-s34B-b88K",
    "blip2": "Salesforce/blip2-flan-t5-xl",
    "sentences": "sentence-transformers/all-MiniLM-L6-v2",
}
OTHER_MEDIUM = "a photo"
OTHER_CAPTIONS = ["a photo of something"] * 5


@pytest.fixture(scope="module")
def real_run(tmp_path_factory, weights_folder, drawn) -> Path:
    """A run of the deck's recipe, with the miniature weights over seven drawn pictures of the visible images' names."""
    home = tmp_path_factory.mktemp("deck")
    (home / "images").mkdir()
    for name, (picture, _) in zip(IDS, drawn, strict=False):
        picture.save(home / "images" / f"{name}.png")
    run_pipeline(replace(Recipe(), shard_images=3), Paths(home / "images", weights_folder, home / "run"), "cpu")
    return home / "run"


@pytest.fixture
def written(tmp_path, real_run) -> Callable[..., Path]:
    """What a finished run leaves, with other words, as if the real weights had said them: by default the deck's."""

    def write(
        ids: list[str] = IDS,
        modifiers: dict[str, list[str]] | None = None,
        captions: list[str] = DECK_CAPTIONS,
        recipe: Recipe | None = None,
        **record: object,
    ) -> Path:
        folder = tmp_path / "run"
        recipe = replace(recipe or Recipe(), shard_images=3)  # 3 shards, the last of one image
        run = RunFolder(folder, [ImageFile(name, Path("gone", f"{name}.png")) for name in ids], recipe.shard_images)
        shutil.copytree(real_run, folder)
        shutil.rmtree(folder / "estimates")  # of other words
        said = {**DECK_MODIFIERS, **(modifiers or {})}
        results.write_modifiers(run, [said.get(name, ["a photo"] * 5) for name in ids])
        for shard in range(len(run.borders)):
            own = [captions if file.id == CAPTIONED else OTHER_CAPTIONS for file in run.shard_files(shard)]
            results.write_captions(run, shard, CaptionShard(own, ["blip2"] * len(own)))
        write_submission(folder / "submission.csv", ids, np.ones((len(ids), EMBEDDING_DIMENSIONS)))
        content = json.loads((folder / "run.json").read_text())
        content |= {"recipe": asdict(recipe), "shards": run.borders, "models": {**content["models"], **REAL}}
        content["counts"] |= {"images": len(ids)}
        run.write_run({**content, **record})
        return folder

    return write


def with_other_mediums(count: int) -> dict[str, list[str]]:
    return {name: [OTHER_MEDIUM, *DECK_MODIFIERS[name][1:]] for name in IDS[:count]}


def refusal(run: Path) -> str:
    with pytest.raises(UserError) as refused:
        verify(run)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# the deck


def real_phrases(name: str) -> set[str]:
    listed = files("clip-interrogator") or []
    path = next(file for file in listed if file.as_posix() == f"clip_interrogator/data/{name}.txt").locate()
    return set(Path(str(path)).read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("bank", "positions"), [("mediums", slice(0, 1)), ("movements", slice(1, 2)), ("flavors", slice(2, 5))]
)
def test_the_decks_phrases_stand_in_the_real_word_lists(bank, positions):
    printed = {phrase for line in DECK_MODIFIERS.values() for phrase in line[positions]}
    assert printed - real_phrases(bank) == ({'"a dinosaur market'} if bank == "flavors" else set())


def test_the_real_flavor_has_a_curly_quote_where_the_deck_has_a_straight_one():
    assert "“a dinosaur market" in real_phrases("flavors")


def test_the_decks_images_are_the_visible_ones(sample):
    assert IDS == sorted(path.stem for path in (sample / "images").iterdir())


# the same words


def test_a_run_that_says_what_the_deck_says_has_no_differences(written):
    verdict = verify(written())
    assert (verdict.same_mediums, verdict.differences, verdict.plausible) == (7, [], True)


def test_a_run_without_differences_says_only_that(written):
    assert verify(written()).text == "7 of 7 images have the seed deck's medium; 0 lines differ"


def test_a_curly_quote_is_no_difference(written):
    line = ["a storybook illustration", "digital art", "nachosaurus", "“a dinosaur market", "pastry lizard"]
    assert verify(written(modifiers={"92e911621": line})).differences == []


@pytest.mark.parametrize("change", [str.lower, str.upper, "{}.".format, " {} ".format])
def test_case_and_end_of_a_caption_are_no_difference(written, change):
    assert verify(written(captions=[change(caption) for caption in DECK_CAPTIONS])).differences == []


def test_the_run_may_list_its_images_in_any_order(written):
    assert verify(written(ids=IDS[::-1])).differences == []


# other words


def test_another_flavor_is_a_difference_with_both_lines(written):
    line = ["a woodcut", "art nouveau", "whorl", "swirl", "carved wood"]
    assert verify(written(modifiers={"227ef0887": line})).differences == [
        "227ef0887 modifiers: the deck has 'a woodcut, art nouveau, whorl, carved wood, swirl', "
        "this run 'a woodcut, art nouveau, whorl, swirl, carved wood'"
    ]


def test_another_flavor_leaves_the_medium_the_same(written):
    assert verify(written(modifiers={"227ef0887": ["a woodcut", "art nouveau", "a", "b", "c"]})).same_mediums == 7


def test_a_modifier_in_other_letters_is_a_difference(written):
    line = ["A woodcut", "art nouveau", "whorl", "carved wood", "swirl"]
    assert len(verify(written(modifiers={"227ef0887": line})).differences) == 1


def test_another_caption_is_a_difference_with_its_beam_and_both_lines(written):
    captions = [*DECK_CAPTIONS[:2], "a wooden plate", *DECK_CAPTIONS[3:]]
    assert verify(written(captions=captions)).differences == [
        "227ef0887 caption 3: the deck has 'A circular piece of wood with a spiral pattern on it', "
        "this run 'a wooden plate'"
    ]


def test_captions_in_another_beam_order_are_differences(written):
    captions = [DECK_CAPTIONS[1], DECK_CAPTIONS[0], *DECK_CAPTIONS[2:]]
    assert [line[:19] for line in verify(written(captions=captions)).differences] == [
        "227ef0887 caption 1",
        "227ef0887 caption 2",
    ]


def test_a_missing_caption_is_a_difference(written):
    assert verify(written(captions=DECK_CAPTIONS[:4])).differences == [
        "227ef0887 caption 5: the deck has 'A circular piece of wood with a spiral pattern', this run ''"
    ]


def test_other_captions_alone_do_not_fail(written):
    assert verify(written(captions=OTHER_CAPTIONS)).plausible


# how much may differ


def test_5_of_7_mediums_pass(written):
    verdict = verify(written(modifiers=with_other_mediums(2)))
    assert (verdict.same_mediums, verdict.plausible) == (5, True)


def test_4_of_7_mediums_fail(written):
    verdict = verify(written(modifiers=with_other_mediums(3)))
    assert (verdict.same_mediums, verdict.plausible) == (4, False)


def test_every_difference_is_printed_before_the_verdict(written):
    verdict = verify(written(modifiers=with_other_mediums(3)))
    assert [line[:9] for line in verdict.text.splitlines()[:-1]] == IDS[:3]


def test_a_verdict_that_failed_says_so_and_what_to_check(written):
    *_, last = verify(written(modifiers=with_other_mediums(3))).text.splitlines()
    assert "4 of 7 images have the seed deck's medium, expected 5 or more: something is wrong. Check" in last
    assert [word for word in ("weights", "preprocessing", "tokenizer", "scale_decoder_outputs") if word in last] == [
        "weights",
        "preprocessing",
        "tokenizer",
        "scale_decoder_outputs",
    ]


def test_a_verdict_that_passed_says_how_many_lines_differ(written):
    assert verify(written(modifiers=with_other_mediums(2))).text.splitlines()[-1] == (
        "5 of 7 images have the seed deck's medium; 2 lines differ"
    )


# where it does not apply


def test_it_applies_to_a_run_on_the_visible_images_with_the_real_weights(written):
    assert reason_against(finished_run(written())) is None


def test_a_run_on_other_images_is_refused_with_one_that_it_lacks(written):
    run = written(ids=[*IDS[:6], "ffffffff0"])
    assert "it has no image 'f27825b2c', expected exactly the competition's 7 visible images" in refusal(run)


@pytest.mark.parametrize("ids", [IDS[:6], [*IDS, "ffffffff0"]])
def test_a_run_on_fewer_or_more_images_is_refused_with_their_number(written, ids):
    assert f"it is on {len(ids)} images, expected exactly the competition's 7 visible images" in refusal(written(ids))


@pytest.mark.parametrize("model", ["clip", "blip2"])
def test_a_run_with_other_weights_is_refused_with_both_sources(written, model):
    run = written(models={**REAL, model: "elsewhere/tiny"})
    assert f"its {model} is elsewhere/tiny, the deck's was {REAL[model]}" in refusal(run)


@pytest.mark.parametrize("captioners", [{"blip": 7}, {"blip2": 5, "blip": 2}])
def test_a_run_with_the_fallback_captioner_is_refused(written, captioners):
    run = written(captioners=captioners, models={**REAL, "blip": "Salesforce/blip-image-captioning-large"})
    assert "its blip is Salesforce/blip-image-captioning-large, the deck's was" in refusal(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_beams": 6},
        {"captions_per_image": 4},
        {"max_length": 21},
        {"min_length": 4},
        {"modifiers": {"mediums": 1, "movements": 1, "flavors": 4}},
        {"modifiers": {"movements": 1, "mediums": 1, "flavors": 3}},
    ],
)
def test_a_run_with_another_recipe_is_refused_with_the_setting(written, changes):
    (name,) = changes
    assert f"its recipe has {name}=" in refusal(written(recipe=replace(Recipe(), **changes)))


def test_a_run_of_several_captioners_is_refused_also_where_but_one_of_them_spoke(written):
    run = written(recipe=replace(Recipe(), captioner="blip2,coca"))
    assert "its recipe has captioner=blip2,coca, the deck had one alone. Run with --recipe baseline" in refusal(run)


@pytest.mark.parametrize("changes", [{"separator": ", "}, {"normalise": False}, {"clip_batch": 1}])
def test_a_setting_that_changes_no_word_is_no_hindrance(written, changes):
    assert reason_against(finished_run(written(recipe=replace(Recipe(), **changes)))) is None


def test_a_run_with_a_bad_image_is_refused_with_its_reason(written):
    assert "its image c98f79f71 is bad (truncated)" in refusal(written(bad_images={"c98f79f71": "truncated"}))


def test_a_real_run_with_the_miniature_weights_is_refused(real_run):
    assert "its clip is kernel/miniature/checkpoints, the deck's was laion/" in refusal(real_run)


@pytest.mark.parametrize(("stage", "words"), [("clip", "modifiers"), ("captions", "captions")])
def test_a_run_whose_words_are_gone_is_refused(written, stage, words):
    run = written()
    shutil.rmtree(run / stage)
    assert f"its image {IDS[0]} has no {words}. Give the same 'python -m kernel run' command again" in refusal(run)


def test_a_run_whose_words_are_of_fewer_images_is_refused(written):
    run = written()
    (run / "clip" / "modifiers.json").write_text("[]")
    assert "modifiers.json is of 0 images, the run of 7" in refusal(run)
