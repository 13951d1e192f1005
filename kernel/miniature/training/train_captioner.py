"""Trains a miniature captioner on the frozen miniature CLIP.

`python -m kernel.miniature.training.train_captioner blip2`.

The vision tower's outputs for all pictures are computed once; only what lies behind it is trained, on
the language-modelling loss (stage 2 of arXiv 2301.12597 for BLIP-2, the captioning loss of arXiv 2201.12086
for BLIP).
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from kernel.miniature.training.captioner_parts import (
    blip2_processor,
    blip_processor,
    new_blip,
    new_blip2,
    vision_weights,
)
from kernel.miniature.training.train_clip import normalised_pixels
from kernel.miniature.world import grammar
from kernel.miniature.world.folders import CAPTIONER_SEED, HELD_OUT_SEED, draw_all, scenes

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
IGNORED = -100  # transformers' label for tokens that bear no loss


@torch.inference_mode()
def vision_outputs(model: Any, pixels: np.ndarray) -> torch.Tensor:
    """The frozen tower's token features, (n, tokens, width) float16: the whole-image token is the first."""
    model.eval()
    parts = [pixels[start : start + 256] for start in range(0, len(pixels), 256)]
    return torch.cat(
        [model.vision_model(pixel_values=normalised_pixels(part)).last_hidden_state.half() for part in parts]
    )


def blip2_loss(model: Any, vision: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Teacher-forced caption loss; the encoder sees the query slots and the start token, as `generate` builds them."""
    queries = model.query_tokens.expand(len(vision), -1, -1)
    seen = model.qformer(query_embeds=queries, encoder_hidden_states=vision).last_hidden_state
    start = torch.full((len(vision), 1), model.config.text_config.bos_token_id)
    inputs = torch.cat([model.language_projection(seen), model.get_input_embeddings()(start)], dim=1)
    labels = ids.masked_fill(ids == 0, IGNORED)
    return model.language_model(inputs_embeds=inputs, labels=labels).loss


def blip_loss(model: Any, vision: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    ids = ids.clone()
    ids[:, 0] = model.config.text_config.bos_token_id
    labels = ids.masked_fill(ids == model.config.text_config.pad_token_id, IGNORED)
    outputs = model.text_decoder(
        input_ids=ids,
        attention_mask=(labels != IGNORED).long(),
        encoder_hidden_states=vision,
        is_decoder=True,
    )
    return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


class Trained(NamedTuple):
    """A captioner that is trained here: its processor, made with a scratch folder, a model for it, and its loss."""

    processor: Callable[[Path], Any]
    model: Callable[[Any], Any]
    loss: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


TRAINED = {
    "blip2": Trained(blip2_processor, new_blip2, blip2_loss),
    "blip": Trained(blip_processor, new_blip, blip_loss),
}


@torch.inference_mode()
def evaluate(model: Any, processor: Any, pixels: np.ndarray, held: list[grammar.Scene]) -> dict[str, float]:
    """Shares of held-out pictures whose best caption names the subject, and is exactly right (greedy)."""
    model.eval()
    captions: list[str] = []
    for start in range(0, len(pixels), 64):
        ids = model.generate(
            pixel_values=normalised_pixels(pixels[start : start + 64]), num_beams=1, max_length=20, min_length=5
        )
        captions += [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    model.train()
    pairs = list(zip(captions, held, strict=True))
    return {
        "subject": round(float(np.mean([scene.subject in caption.split() for caption, scene in pairs])), 3),
        "caption_exact": round(float(np.mean([caption == scene.caption for caption, scene in pairs])), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TRAINED)
    parser.add_argument("--clip", type=Path, default=CHECKPOINTS / "clip")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--steps", type=int, default=2_400)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    out = options.out or CHECKPOINTS / options.name
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    own = TRAINED[options.name]
    with tempfile.TemporaryDirectory() as scratch:
        processor = own.processor(Path(scratch))
    model = own.model(processor)
    tower = vision_weights(load_file(options.clip / "open_clip_model.safetensors"))
    model.load_state_dict(tower, strict=False)
    for parameter in model.vision_model.parameters():
        parameter.requires_grad_(False)

    vision = vision_outputs(model, draw_all(CAPTIONER_SEED, options.pictures))
    captions = [scene.caption for scene in scenes(CAPTIONER_SEED, options.pictures)]
    ids = processor.tokenizer(captions, padding=True, return_tensors="pt")["input_ids"]
    held_pixels, held_scenes = draw_all(HELD_OUT_SEED, 512), scenes(HELD_OUT_SEED, 512)

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.01)
    )
    started = time.monotonic()
    order = np.empty(0, dtype=np.int64)
    model.train()
    for step in range(options.steps):
        if len(order) < options.batch:
            order = np.concatenate([order, rng.permutation(options.pictures)])
        batch, order = order[: options.batch], order[options.batch :]
        loss = own.loss(model, vision[batch].float(), ids[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 400 == 399 or step + 1 == options.steps:
            figures = evaluate(model, processor, held_pixels, held_scenes)
            minutes = (time.monotonic() - started) / 60
            print(
                json.dumps({"step": step + 1, "loss": round(loss.item(), 4), "minutes": round(minutes, 1), **figures}),
                flush=True,
            )
            save(model, processor, out)


def save(model: Any, processor: Any, folder: Path) -> None:
    """Writes configuration, processor and every weight but the vision tower's (committed with CLIP), in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    skipped = ("vision_model.", "text_decoder.cls.predictions.decoder.")  # the second is tied to the embeddings
    state = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(skipped) and not name.endswith("position_ids")
    }
    state.pop("language_model.encoder.embed_tokens.weight", None)  # tied to language_model.shared
    state.pop("language_model.decoder.embed_tokens.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
