"""Tiny captioners with random weights, saved as their makers save theirs: the real classes."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kernel.models.captioners.loading import KINDS
from kernel.models.tokenizers import KNOWN_SENTENCE
from kernel.models.weights_folder import Weights

WORDS = [*KNOWN_SENTENCE.replace(",", " ,").split(), *"describe this image in one sentence photo of the . : ?".split(),
         *"caption en ko 이 이미지를 한국어 한 문장으로 묘사해 주세요.".split()]  # fmt: skip
SIDE = 28


def vocabulary(*special: str, size: int = 96, **named: Any) -> Any:
    """A tokenizer of whole words, told apart at spaces; `special` are known too, and as `named`."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    first = ["<pad>", "<s>", "</s>", "<unk>"]
    words = list(dict.fromkeys([*first, *WORDS]))
    words += [f"word{number}" for number in range(size - len(words) - len(special))]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(own, special=True, normalized=False) for own in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", **named
    )  # fmt: skip


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


def vlrm() -> tuple[Any, Any]:
    """BLIP-2 with OPT."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    processor = Blip2Processor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), vocabulary(), 4)
    config = Blip2Config(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": SIDE, "patch_size": 14},
        qformer_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "vocab_size": 8, "encoder_hidden_size": 32},
        text_config={"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "word_embed_proj_dim": 32, "vocab_size": 100, "bos_token_id": 1,
                     "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 64},
        num_query_tokens=4, image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return Blip2ForConditionalGeneration(config), processor


def qwen(version: int) -> tuple[Any, Any]:
    import transformers

    names = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    words = vocabulary(*names)
    ids = dict(zip(names, words.convert_tokens_to_ids(list(names)), strict=True))
    turned = {"mrope_section": [2, 1, 1]}
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 512, "eos_token_id": 2,
        "pad_token_id": 0, "bos_token_id": 1, "rope_theta": 10000.0,
    }  # fmt: skip
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14}
    if version == 2:
        text |= {"rope_scaling": {"type": "mrope", **turned}}
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    else:
        text |= {"rope_scaling": {"rope_type": "default", "mrope_interleaved": True, **turned}, "head_dim": 8}
        vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "num_position_embeddings": 64,
                   "deepstack_visual_indexes": [0]}  # fmt: skip
    given = {
        "text_config": text, "vision_config": vision, "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"], "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"], "tie_word_embeddings": True,
    }  # fmt: skip
    family = f"Qwen{version}VL"
    model = getattr(transformers, f"{family}ForConditionalGeneration")(
        getattr(transformers, f"{family}Config")(**given)
    )
    pictures = transformers.Qwen2VLImageProcessor(patch_size=14)
    videos = getattr(transformers, f"{family}VideoProcessor")(patch_size=14)
    template = (
        "{% for message in messages %}<|im_start|> {{ message.role }} {% for part in message.content %}"
        "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|> {% else %}{{ part.text }} {% endif %}"
        "{% endfor %}<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
    )
    processor = getattr(transformers, f"{family}Processor")(pictures, words, videos, chat_template=template)
    return model, processor


def smolvlm() -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    words = vocabulary("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
    config = Idefics3Config(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": SIDE, "patch_size": 7},
        text_config={"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 96, "pad_token_id": 0,
                     "bos_token_id": 1, "eos_token_id": 2},
        image_token_id=words.convert_tokens_to_ids("<image>"), scale_factor=2, pad_token_id=0,
    )  # fmt: skip
    pictures = Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    template = (
        "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
        "{% if part.type == 'image' %}<image>{% else %}{{ part.text }} {% endif %}{% endfor %}<end_of_utterance> "
        "{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
    )
    processor = Idefics3Processor(pictures, words, image_seq_len=4, chat_template=template)
    return Idefics3ForConditionalGeneration(config), processor


def florence2() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor

    words = vocabulary("<image>", extra_special_tokens={"image_token": "<image>"})
    config = Florence2Config(
        vision_config={"depths": [1, 1], "embed_dim": [16, 32], "num_heads": [2, 2], "num_groups": [2, 2],
                       "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
                       "patch_prenorm": [False, True], "window_size": 4, "projection_dim": 32},
        text_config={"model_type": "bart", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
                     "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
                     "decoder_ffn_dim": 64, "vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                     "decoder_start_token_id": 2, "forced_eos_token_id": 2, "max_position_embeddings": 128},
        image_token_id=words.image_token_id,
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    pictures.image_seq_length = 17
    return Florence2ForConditionalGeneration(config), Florence2Processor(pictures, words)


def kosmos2() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, Kosmos2Config, Kosmos2ForConditionalGeneration, Kosmos2Processor

    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = Kosmos2Processor(pictures, vocabulary(), num_patch_index_tokens=4)
    config = Kosmos2Config(
        text_config={"embed_dim": 32, "layers": 2, "ffn_dim": 64, "attention_heads": 2,
                     "vocab_size": len(processor.tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": SIDE, "patch_size": 14},
        latent_query_num=64,
    )  # fmt: skip
    return Kosmos2ForConditionalGeneration(config), processor


def paligemma() -> tuple[Any, Any]:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )  # fmt: skip

    pictures = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    pictures.image_seq_length = 4
    processor = PaliGemmaProcessor(pictures, vocabulary())
    rows = len(processor.tokenizer)
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": rows,
                     "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
                       "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14,
                       "vision_use_head": False},
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"), projection_dim=32, vocab_size=rows,
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration(config), processor


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "git": git,
    "vlrm": vlrm,
    "florence2": florence2,
    "kosmos2": kosmos2,
    "paligemma": paligemma,
    "smolvlm": smolvlm,
    "qwen2-vl": partial(qwen, 2),
    "qwen3-vl": partial(qwen, 3),
}


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
