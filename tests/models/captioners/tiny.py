"""Tiny captioners with random weights, saved as their makers save theirs: the real classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kernel.models.captioners.loading import KINDS
from kernel.models.tokenizers import KNOWN_SENTENCE
from kernel.models.weights_folder import Weights

WORDS = [*KNOWN_SENTENCE.replace(",", " ,").split(), *"describe this image in one sentence photo of the . : ?".split()]
SIDE = 28


def vocabulary(*special: str, size: int = 96) -> Any:
    """A tokenizer of whole words, told apart at spaces; `special` are known too."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    first = ["<pad>", "<s>", "</s>", "<unk>"]
    words = list(dict.fromkeys([*first, *WORDS]))
    words += [f"word{number}" for number in range(size - len(words) - len(special))]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(own, special=True, normalized=False) for own in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def git() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    config = GitConfig(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": SIDE, "patch_size": 14},
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=96,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return GitForCausalLM(config), GitProcessor(pictures, vocabulary())


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {"git": git}


def tiny_captioner(folder: Path, name: str) -> Weights:
    """Weights with one captioner, `name` of MAKERS, and nothing else."""
    torch.manual_seed(0)
    model, processor = MAKERS[name]()
    own = folder / "captioners" / name
    with torch.no_grad():
        for parameter in model.parameters():  # so far from alike that pictures are told apart
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    model.half().save_pretrained(own)
    processor.save_pretrained(own)
    kind = KINDS[type(model).__name__]
    config = kind.stated(json.loads((own / kind.config_file).read_text(encoding="utf-8")))
    (own / kind.config_file).write_text(json.dumps(config), encoding="utf-8")
    record = {"class": kind.class_name, "source": "tests", "revision": "tiny", "sha256": "0" * 64}
    record["tokenizer"] = kind.tokenizer_record(kind.read_processor(own))
    return Weights(folder, {name: record}, [name])
