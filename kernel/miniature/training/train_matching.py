"""Trains the miniature image-text matching: `python -m kernel.miniature.training.train_matching`.

The Q-Former begins as the miniature BLIP-2's, which has learned to ask CLIP's frozen vision tower, and learns to read
texts, on two of the three losses of stage 1 of arXiv 2301.12597. ITM: each picture with its caption, with the caption
changed in one word, and with another picture's. ITC: each picture against the batch's captions, equal ones sharing the
target.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2Processor

from kernel.miniature.training.captioner_parts import (
    QUERY_TOKENS,
    VISION,
    blip_processor,
    image_processor,
    vision_weights,
)
from kernel.miniature.training.train_captioner import CHECKPOINTS, vision_outputs
from kernel.miniature.world.folders import CAPTIONER_SEED, HELD_OUT_SEED, draw_all, scenes
from kernel.miniature.world.grammar import Scene, other
from kernel.models.image_text_matching import MATCHING, itc_features, itc_texts, itm_logits, itm_scores

PARTS = ("color", "subject", "setting")  # of a caption, one of which is changed
TEMPERATURE = 0.07  # CLIP's at its start (arXiv 2103.00020)


def matching_processor(scratch: Path) -> Blip2Processor:
    return Blip2Processor(image_processor(), blip_processor(scratch).tokenizer, num_query_tokens=QUERY_TOKENS)


def matching_config(processor: Blip2Processor) -> Blip2Config:
    """The language model is one that stands in every configuration of the class; none is made of it."""
    tokenizer = processor.tokenizer
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
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "pad_token_id": tokenizer.pad_token_id,
            "use_qformer_text_input": True,
        },
        text_config={"model_type": "t5", "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},
        image_text_hidden_size=64,
        num_query_tokens=QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )


def new_matching(processor: Blip2Processor, clip: Path, blip2: Path) -> Blip2ForImageTextRetrieval:
    """CLIP's tower and BLIP-2's Q-Former in it; what reads texts begins as what its queries pass through."""
    model = Blip2ForImageTextRetrieval(matching_config(processor))
    known = load_file(blip2 / "model.safetensors")
    state = {name: own.float() for name, own in known.items() if name.startswith(("qformer.", "query_tokens"))}
    for name in list(state):
        for part in ("intermediate", "output"):
            if f".{part}_query." in name:
                state[name.replace(f"{part}_query", part)] = state[name].clone()
    tower = vision_weights(load_file(clip / "open_clip_model.safetensors"))
    unexpected = model.load_state_dict(state | tower, strict=False).unexpected_keys
    assert not unexpected, unexpected
    for parameter in model.vision_model.parameters():
        parameter.requires_grad_(False)
    return model


def tokens_of(processor: Blip2Processor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = processor.tokenizer(texts, padding=True, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"]


def matching_loss(model: Any, processor: Any, patches: torch.Tensor, batch: list[Scene],
                  rng: np.random.Generator) -> torch.Tensor:  # fmt: skip
    """ITM and ITC of a batch's pictures, (n, patches, width), each with its scene."""
    n = len(batch)
    own = [scene.caption for scene in batch]
    near = [other(scene, PARTS[rng.integers(len(PARTS))], rng).caption for scene in batch]
    far = [own[index] for index in (np.arange(n) + rng.integers(1, n)) % n]
    ids, mask = tokens_of(processor, own + near + far)
    matches = torch.tensor([True] * 2 * n + [own[i] == far[i] for i in range(n)])
    matches[n : 2 * n] = False
    logits = itm_logits(model, patches.repeat(3, 1, 1), ids, mask)
    # two of three do not match
    itm = F.cross_entropy(logits, matches.long(), weight=torch.tensor([0.5, 1.0]))

    images, texts = itc_features(model, patches), itc_texts(model, ids[:n], mask[:n])
    cosines = torch.einsum("nqd,td->ntq", images, texts).amax(dim=2) / TEMPERATURE
    same = torch.tensor([[a == b for b in own] for a in own]).float()
    target = same / same.sum(1, keepdim=True)
    itc = (F.cross_entropy(cosines, target) + F.cross_entropy(cosines.T, target)) / 2
    return itm + itc


@torch.inference_mode()
def evaluate(model: Any, processor: Any, vision: torch.Tensor, held: list[Scene]) -> dict[str, float]:
    """Shares of held-out pictures whose caption outranks one with another color, and with another subject, by ITM."""
    rng = np.random.default_rng(0)

    def said(captions: list[str]) -> torch.Tensor:
        return itm_scores(model, vision.float(), *tokens_of(processor, captions))

    true = said([scene.caption for scene in held])
    return {
        part: round(float((true > said([other(scene, part, rng).caption for scene in held])).float().mean()), 3)
        for part in ("color", "subject")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=CHECKPOINTS / "clip")
    parser.add_argument("--blip2", type=Path, default=CHECKPOINTS / "blip2")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS / MATCHING)
    parser.add_argument("--pictures", type=int, default=6_000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    with tempfile.TemporaryDirectory() as scratch:
        processor = matching_processor(Path(scratch))
    model = new_matching(processor, options.clip, options.blip2)
    vision = vision_outputs(model, draw_all(CAPTIONER_SEED, options.pictures))
    drawn = scenes(CAPTIONER_SEED, options.pictures)
    held_vision, held = vision_outputs(model, draw_all(HELD_OUT_SEED, 512)), scenes(HELD_OUT_SEED, 512)

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.01)
    )
    started = time.monotonic()
    order = np.empty(0, dtype=np.int64)
    for step in range(options.steps):
        if len(order) < options.batch:
            order = np.concatenate([order, rng.permutation(options.pictures)])
        batch, order = order[: options.batch], order[options.batch :]
        loss = matching_loss(model, processor, vision[batch].float(), [drawn[index] for index in batch], rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step + 1 == options.steps:
            figures = evaluate(model, processor, held_vision, held)
            minutes = (time.monotonic() - started) / 60
            print(
                json.dumps({"step": step + 1, "loss": round(loss.item(), 4), "minutes": round(minutes, 1), **figures}),
                flush=True,
            )
            save(model, processor, options.out)


def save(model: Any, processor: Any, folder: Path) -> None:
    """Writes configuration, processor and every weight but the vision tower's (committed with CLIP), in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    state = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("vision_model.") and not name.endswith("position_ids")
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
