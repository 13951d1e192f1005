"""Beams and drawn words against all rows there are, of a table of words that is small enough to write down, and beams
against the library's own."""

from itertools import product

import pytest
import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from kernel.models.captioners.decoding import beam_search, drawn

START, END, LONGEST = 0, 1, 4


@pytest.fixture
def table() -> torch.Tensor:
    """log p(next | last) of 4 words, another for each of two images."""
    return torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1)).mul(2).log_softmax(dim=-1)


def scores_of(table, beams):
    def next_scores(rows):
        images = torch.arange(len(table)).repeat_interleave(beams)
        return table[images, rows[:, -1]].clone()

    return next_scores


def every_row(table) -> list[tuple[float, list[int]]]:
    """All rows of one image up to LONGEST tokens with their scores a word, best first."""
    found = []
    for words in range(LONGEST):
        for row in product([0, 2, 3], repeat=words):
            steps = list(zip([START, *row], row, strict=False))
            total = sum(float(table[last, word]) for last, word in steps)
            if words < LONGEST - 1:
                found.append(((total + float(table[row[-1] if row else START, END])) / (words + 1), list(row)))
            else:
                found.append((total / words, list(row)))
    return sorted(found, reverse=True)


def test_as_many_beams_as_there_are_rows_find_the_best_of_all_rows(table):
    found = beam_search(scores_of(table, 40), 2, 40, START, END, LONGEST)
    for image in range(2):
        expected = [row for _, row in every_row(table[image])][:5]
        assert [row.tolist() for row in found[image][:5]] == expected


def test_one_beam_takes_the_likeliest_word_each_time(table):
    for image in range(2):
        (rows,) = beam_search(scores_of(table[image : image + 1], 1), 1, 1, START, END, LONGEST)
        row, last = [], START
        while len(row) < LONGEST - 1 and (last := int(table[image, last].argmax())) != END:
            row.append(last)
        assert rows[0].tolist() == row


def test_draws_are_as_likely_as_their_words(table):
    torch.manual_seed(0)
    many = 4000
    rows = drawn(lambda rows: table[0][rows[:, -1]], many, START, END, 2, 1.0)
    told = torch.tensor([[row.tolist() == own for row in rows] for own in ([], [0], [2], [3])]).float().mean(dim=1)
    expected = table[0][START].exp()[[1, 0, 2, 3]]
    torch.testing.assert_close(told, expected, atol=0.03, rtol=0)


def test_so_little_probability_leaves_the_likeliest_word_alone(table):
    rows = drawn(lambda rows: table[0][rows[:, -1]], 20, START, END, LONGEST, 1e-6)
    (greedy,) = beam_search(scores_of(table[:1], 1), 1, 1, START, END, LONGEST)
    assert all(row.tolist() == greedy[0].tolist() for row in rows)


WORDS, SEARCHED = 6, 12


@pytest.fixture
def by_place():
    """log p(next | last) of some words, for each image and each place another: totals fall, and rise again a word."""

    def drawn(seed: int, images: int = 2) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(images, SEARCHED, WORDS, WORDS, generator=generator).mul(3).log_softmax(dim=-1)

    return drawn


def beams_of(table: torch.Tensor, beams: int) -> list[list[list[int]]]:
    def next_scores(rows):
        images = torch.arange(len(table)).repeat_interleave(beams)
        return table[images, rows.shape[1] - 1, rows[:, -1]].clone()

    found = beam_search(next_scores, len(table), beams, START, END, SEARCHED)
    return [[row.tolist() for row in own] for own in found]


@pytest.mark.parametrize("beams", [2, 3])
def test_an_image_gets_the_rows_that_it_gets_alone(by_place, beams):
    for seed in range(50):
        table = by_place(seed)
        assert beams_of(table, beams) == [beams_of(table[n : n + 1], beams)[0] for n in range(2)]


class TableModel(PreTrainedModel, GenerationMixin):
    """A model whose scores are a table's, for the library's own beams."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__(PretrainedConfig(is_encoder_decoder=False))
        self.table, self.own = table, torch.nn.Linear(1, 1)
        self.post_init()

    def forward(self, input_ids, **_):
        return CausalLMOutput(logits=self.table[input_ids.shape[1] - 1, input_ids[:, -1]].unsqueeze(1))

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_beams_are_the_librarys_own(by_place, beams):
    for seed in range(50):
        table = by_place(seed, images=1)
        expected = TableModel(table[0]).generate(
            torch.tensor([[START]]), num_beams=beams, num_return_sequences=beams, max_length=SEARCHED, do_sample=False,
            eos_token_id=END, pad_token_id=END, use_cache=False, early_stopping=False,
        )  # fmt: skip
        rows = [[word for word in row[1:].tolist() if word != END] for row in expected]
        assert beams_of(table, beams) == [rows]
