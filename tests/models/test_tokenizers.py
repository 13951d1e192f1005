"""The trap of a Korean BLIP-2: KoBERT's 8,002 tokens fit among the 30,522 rows of the BERT that a Q-Former is."""

import json
from dataclasses import replace

import pytest

from kernel.errors import UserError
from kernel.models.sentences import SentenceEncoder, sentence_tokenizer, sentence_tokenizer_record
from kernel.models.tokenizers import check_tokenizer, tokenizer_record

KOBERT, BERT, QFORMER = 8_002, 30_522, 30_523  # a Q-Former adds the start token that its decoding begins with
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}


@pytest.fixture
def swapped(own_copy):
    """MiniLM, a BERT, with a vocabulary of KoBERT's size: Korean syllables, BERT's special tokens at their own ids."""
    own = own_copy("sentences")
    path = own.model_folder("sentences") / "tokenizer.json"
    content = json.loads(path.read_text())
    free = [number for number in range(KOBERT) if number not in SPECIAL.values()]
    syllables = {chr(ord("가") + place): number for place, number in enumerate(free)}
    content["model"]["vocab"] = {**SPECIAL, **syllables}
    path.write_text(json.dumps(content))
    return own


def test_it_is_refused_as_another_model_s_by_the_manifest(swapped, cpu):
    with pytest.raises(UserError, match="size are 8002, the manifest says 30522: its ids would mean other words"):
        SentenceEncoder.load(swapped, cpu)


def test_it_is_refused_even_where_the_manifest_was_written_of_it(swapped, cpu):
    record = sentence_tokenizer_record(sentence_tokenizer(swapped.model_folder("sentences")))
    assert record["size"] == KOBERT and max(record["ids"]) < BERT  # nothing would fail by itself
    models = {**swapped.models, "sentences": {**swapped.models["sentences"], "tokenizer": record}}
    with pytest.raises(UserError, match="8002 tokens, the model's embedding 30522 rows.*own tokenizer back"):
        SentenceEncoder.load(replace(swapped, models=models), cpu)


@pytest.mark.parametrize("rows", [BERT, QFORMER])
def test_a_vocabulary_of_that_size_is_refused_on_both_embeddings(rows):
    record = tokenizer_record(KOBERT, {"pad": 1, "start": 2, "end": 3}, [2, 517, 6896, 3])
    with pytest.raises(UserError, match=f"8002 tokens, the model's embedding {rows} rows"):
        check_tokenizer("captioners/koblip", record, record, rows)


def test_the_own_vocabularies_of_both_pass():
    record = tokenizer_record(BERT, {"pad": 0}, [101, 102])
    assert check_tokenizer("bert", record, record, BERT) is check_tokenizer("qformer", record, record, QFORMER) is None
