"""What the miniature captioners are made of: tokenizers, configurations, and CLIP's vision tower in them.

Both captioners look through the miniature CLIP's vision tower, frozen, as BLIP-2 does with EVA's. Its
weights are committed once, with CLIP, and put into the captioners when the weights folder is assembled.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertTokenizerFast,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    T5TokenizerFast,
)

from kernel.miniature.training.train_clip import MEAN, MODEL_CONFIG, STD
from kernel.miniature.world import grammar

VISION = {
    "hidden_size": MODEL_CONFIG["vision_cfg"]["width"],
    "intermediate_size": 4 * MODEL_CONFIG["vision_cfg"]["width"],
    "num_hidden_layers": MODEL_CONFIG["vision_cfg"]["layers"],
    "num_attention_heads": MODEL_CONFIG["vision_cfg"]["width"] // MODEL_CONFIG["vision_cfg"]["head_width"],
    "image_size": MODEL_CONFIG["vision_cfg"]["image_size"],
    "patch_size": MODEL_CONFIG["vision_cfg"]["patch_size"],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,  # open_clip's LayerNorm
}
QUERY_TOKENS = 32


def image_processor() -> BlipImageProcessor:
    side = VISION["image_size"]
    return BlipImageProcessor(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD)


def words() -> list[str]:
    """Every word of the grammar, most used kinds first, each once."""
    phrases = [
        *grammar.COLORS,
        *grammar.SUBJECTS,
        *grammar.SETTINGS,
        *grammar.MEDIUMS,
        *grammar.MOVEMENTS,
        *grammar.FLAVORS,
    ]
    return list(dict.fromkeys(word for phrase in ["a an of with in", *phrases] for word in phrase.split()))


def t5_tokenizer(more: Iterable[str] = ()) -> T5TokenizerFast:
    """A SentencePiece unigram tokenizer: the grammar's words and `more` of them whole, everything else by letters."""
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    pieces += [(f"▁{word}", -4.0) for word in words()]
    pieces += [(letter, -8.0) for letter in "▁abcdefghijklmnopqrstuvwxyz-',"]
    pieces += [(f"▁{word}", -12.0) for word in more]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(
        tokenizer_object=tokenizer, extra_ids=0, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )


def blip2_processor(scratch: Path) -> Blip2Processor:
    return Blip2Processor(image_processor(), t5_tokenizer(), num_query_tokens=QUERY_TOKENS)


def blip2_config(processor: Blip2Processor) -> Blip2Config:
    return Blip2Config(
        vision_config={**VISION, "qkv_bias": True},
        qformer_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "cross_attention_frequency": 1,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "encoder_hidden_size": VISION["hidden_size"],
            "vocab_size": 1,
            "max_position_embeddings": 1,
        },
        text_config={
            "model_type": "t5",
            "vocab_size": len(processor.tokenizer),
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 256,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": 0.05,
            "decoder_start_token_id": 0,
            "bos_token_id": 1,
            "tie_word_embeddings": False,
            "scale_decoder_outputs": False,
        },
        num_query_tokens=QUERY_TOKENS,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )


def blip_processor(scratch: Path) -> BlipProcessor:
    """BLIP's tokenizer is BERT's with [DEC] behind it; here a WordPiece vocabulary of the grammar."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "-", "'", *words()]
    pieces += [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = scratch / "vocab.txt"
    vocabulary.write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(vocabulary), vocab=str(vocabulary), do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return BlipProcessor(image_processor(), tokenizer)


def blip_config(processor: BlipProcessor) -> BlipConfig:
    tokenizer = processor.tokenizer
    return BlipConfig(
        vision_config=VISION,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "encoder_hidden_size": VISION["hidden_size"],
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
            "eos_token_id": 2,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=64,
    )


def vision_weights(clip_state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's vision tower under the names of transformers' BLIP and BLIP-2 vision models.

    Both are pre-norm ViTs; open_clip's patch convolution has no bias (zeros here) and its configuration
    leaves out the norm before the first block, which the others do not have.
    """
    width = VISION["hidden_size"]
    state = {
        name.removeprefix("visual."): tensor.float()
        for name, tensor in clip_state.items()
        if name.startswith("visual.")
    }
    result = {
        "embeddings.class_embedding": state["class_embedding"].reshape(1, 1, width),
        "embeddings.position_embedding": state["positional_embedding"].unsqueeze(0),
        "embeddings.patch_embedding.weight": state["conv1.weight"],
        "embeddings.patch_embedding.bias": torch.zeros(width),
        "post_layernorm.weight": state["ln_post.weight"],
        "post_layernorm.bias": state["ln_post.bias"],
    }
    renamed = {
        "ln_1.weight": "layer_norm1.weight",
        "ln_1.bias": "layer_norm1.bias",
        "attn.in_proj_weight": "self_attn.qkv.weight",
        "attn.in_proj_bias": "self_attn.qkv.bias",
        "attn.out_proj.weight": "self_attn.projection.weight",
        "attn.out_proj.bias": "self_attn.projection.bias",
        "ln_2.weight": "layer_norm2.weight",
        "ln_2.bias": "layer_norm2.bias",
        "mlp.c_fc.weight": "mlp.fc1.weight",
        "mlp.c_fc.bias": "mlp.fc1.bias",
        "mlp.c_proj.weight": "mlp.fc2.weight",
        "mlp.c_proj.bias": "mlp.fc2.bias",
    }
    for layer in range(VISION["num_hidden_layers"]):
        for theirs, ours in renamed.items():
            result[f"encoder.layers.{layer}.{ours}"] = state[f"transformer.resblocks.{layer}.{theirs}"]
    return {f"vision_model.{name}": tensor.contiguous() for name, tensor in result.items()}


def new_blip2(processor: Blip2Processor) -> Blip2ForConditionalGeneration:
    """Random weights; the language model's head is its own matrix, as flan-T5's is."""
    model = Blip2ForConditionalGeneration(blip2_config(processor))
    model.query_tokens.data.normal_(0, 0.02)
    head = model.language_model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone() * model.config.text_config.d_model**-0.5)
    model.config.text_config.tie_word_embeddings = False  # as the hub's configuration says; some releases reset it
    return model


def new_blip(processor: BlipProcessor) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration(blip_config(processor))
