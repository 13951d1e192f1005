"""Tiny Korean CLIPs with random weights and vocabularies of their own, saved as their makers save theirs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kernel.banks.korean.partners import BANKS, read_partners
from kernel.models.multilingual.encoder import local_tokenizer, multilingual_tokenizer_record
from kernel.models.multilingual.loading import KINDS
from kernel.models.weights_folder import Weights

SIDE = 32
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": SIDE, "patch_size": 16}


def vocabulary(size: int = 700) -> Any:
    """Pieces of Korean and English words; <s> and </s> around a text, the latter with the highest id."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [text for name in BANKS for pair in read_partners(name).english.items() for text in pair if text]
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=size - 2, special_tokens=["<pad>", "<unk>"], show_progress=False)
    pieces.train_from_iterator(texts, trainer)
    pieces.add_special_tokens(["<s>", "</s>"])
    ends = [(own, pieces.token_to_id(own)) for own in ("<s>", "</s>")]
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = vocabulary()
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "pad_token_id": 0,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square).save_pretrained(folder)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tokenizer = vocabulary()
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32,
            "pad_token_id": 0, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_roberta(folder: Path) -> None:
    import open_clip
    from transformers import XLMRobertaConfig

    tokenizer = vocabulary()
    config = XLMRobertaConfig(**TOWER, vocab_size=len(tokenizer), max_position_embeddings=80, pad_token_id=0,
                              bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    config.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    vision = {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    stated = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": stated, "preprocess_cfg": {}}))
    local = {**text, "hf_model_name": str(folder / "text"), "hf_model_pretrained": False}
    model = open_clip.CustomTextCLIP(**{**stated, "text_cfg": local})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


SAVE = {"CLIPModel": save_clip, "SiglipModel": save_siglip, "CustomTextCLIP": save_roberta}


def put(class_name: str, folder: Path) -> dict[str, Any]:
    """Saves a tiny model of the class, different in every layer from the last one; returns its manifest record."""
    torch.manual_seed(sum(map(ord, class_name)))
    folder.mkdir(parents=True)
    SAVE[class_name](folder)
    tokenizer = local_tokenizer(folder / KINDS[class_name].tokenizer_part)
    record = multilingual_tokenizer_record(tokenizer)
    return {"class": class_name, "source": "tests", "revision": "tiny", "sha256": "0" * 64, "tokenizer": record}


def tiny_weights(class_name: str, folder: Path) -> Weights:
    """A weights folder of that one model, `clip_ko`, without a manifest's file."""
    return Weights(folder, {"clip_ko": put(class_name, folder / "clip_ko")}, [])
