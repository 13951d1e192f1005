"""Every model in the precision of a GPU says what it says in float32."""

import numpy as np
import pytest
import torch

from kernel.banks.word_banks import read_phrases
from kernel.config import RECIPES
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.models.image_text_matching import Matcher
from kernel.models.sentences import SentenceEncoder
from tests.gpu.rounding import COSINE, RELATIVE_ERROR

STEPS = 12


@pytest.fixture(scope="module")
def pictures(drawn):
    return [picture for picture, _ in drawn]


@pytest.fixture(scope="module")
def texts(weights, drawn):
    flavors = read_phrases(weights.folder / "word_banks" / "flavors.txt").phrases
    return [*flavors[:60], *(f"{scene.color} {scene.subject}, {flavors[0]}, {flavors[1]}" for _, scene in drawn)]


@pytest.fixture(scope="module")
def clips(weights, cuda, cpu):
    return ClipEncoder.load(weights, cuda), ClipEncoder.load(weights, cpu)


def test_clip_sees_the_same_in_images(clips, pictures):
    half, full = (clip.encode_images(pictures) for clip in clips)
    assert (half * full).sum(axis=1).min() >= COSINE


def test_clip_reads_the_same_in_texts(clips, texts):
    half, full = (clip.encode_texts(texts, 32) for clip in clips)
    assert (half * full).sum(axis=1).min() >= COSINE


def test_sentences_stay_float32(weights, cuda, cpu, texts):
    on_gpu, on_cpu = (SentenceEncoder.load(weights, device).encode(texts, 16) for device in (cuda, cpu))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_image_text_matching_scores_the_same(weights, cuda, cpu, pictures, drawn, head):
    captions = [[drawn[0][1].caption, scene.caption] for _, scene in drawn]
    half, full = (np.array(Matcher.load(weights, own).scores(pictures, captions, head)) for own in (cuda, cpu))
    # cosines lie within 1 and -1, log odds of what was learned far outside
    np.testing.assert_allclose(half, full, atol=RELATIVE_ERROR * max(1.0, float(np.abs(full).max())))


@pytest.fixture(scope="module", params=["blip", "blip2"])
def captioners(request, weights, cuda, cpu):
    return load_captioner(weights, request.param, cuda), load_captioner(weights, request.param, cpu)


def greedy(captioner, pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """The words that each picture gets one after the other, (n, STEPS), and every word's logit there, (n, STEPS, w)."""
    prompt = captioner.kind.prompt(captioner.processor, pictures, captioner.device)
    with torch.inference_mode():
        told = captioner.model.generate(
            **prompt, num_beams=1, do_sample=False, max_new_tokens=STEPS, min_new_tokens=STEPS,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return told.sequences[:, -STEPS:].cpu(), torch.stack(told.logits, dim=1).float().cpu()


def test_words_differ_only_where_float32_itself_hardly_decides(captioners, pictures):
    """Of each picture up to the first other word, which changes all that follows."""
    (half_words, half), (full_words, full) = (greedy(captioner, pictures) for captioner in captioners)
    compared = 0
    for own in range(len(pictures)):
        for step in range(STEPS):
            compared += 1
            error = half[own, step] - full[own, step]
            assert error.norm() <= RELATIVE_ERROR * full[own, step].norm()
            if half_words[own, step] != full_words[own, step]:
                margin = full[own, step, full_words[own, step]] - full[own, step, half_words[own, step]]
                assert margin <= 2 * error.abs().max()
                break
    assert compared >= len(pictures) * STEPS / 2


def test_a_batch_of_beams_on_the_gpu_is_the_same_every_time(captioners, pictures):
    first, again = (captioners[0].captions(pictures[:5], RECIPES["baseline"]) for _ in range(2))
    assert first == again and len({own[0] for own in first}) > 1
