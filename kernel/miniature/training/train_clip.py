"""Trains the miniature CLIP on drawn pictures: `python -m kernel.miniature.training.train_clip`.

Two losses share the logit scale. Contrastive: each picture against the batch's prompts and captions
(CLIP, arXiv 2103.00020; pictures of equal text share the target). Phrases: each picture against every
phrase of its kind, through the same text tower, which is what ranking word banks asks of it.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP, get_tokenizer
from safetensors.torch import save_file

from kernel.miniature.world import grammar
from kernel.miniature.world.folders import HELD_OUT_SEED, TRAIN_SEED, draw_all, scenes

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 80,
        "patch_size": 10,
        "width": 192,
        "layers": 5,
        "head_width": 48,
        "no_ln_pre": True,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 4},
}
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, as open_clip's ViT-g-14 uses them
STD = (0.26862954, 0.26130258, 0.27577711)
PREPROCESS_CONFIG = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}

PHRASES = {
    "subject": [f"a {subject}" for subject in grammar.SUBJECTS],
    "color": list(grammar.COLORS),
    "setting": list(grammar.SETTINGS),
    "medium": list(grammar.MEDIUMS),
    "movement": list(grammar.MOVEMENTS),
}


def normalised_pixels(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) as the preprocessing configuration says."""
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def text_features(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Unit text features of padded tokens, computed only to the longest text: the mask is causal."""
    length = int(tokens.argmax(dim=1).max()) + 1
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection, dim=-1)


def contrastive(images: torch.Tensor, texts: torch.Tensor, tokens: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits = scale * images @ texts.T
    same = (tokens[:, None] == tokens[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def flavor_loss(logits: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Each flavor that is there against all that are not. Shapes (n, 12) float, (n, 12) bool."""
    absent = logits.masked_fill(present, -torch.inf).logsumexp(1, keepdim=True)
    return (torch.logaddexp(logits, absent) - logits)[present].mean()


def partial_prompt(scene: grammar.Scene, rng: np.random.Generator) -> str:
    """Some parts of the prompt in any order, so that the text tower knows each of them alone."""
    parts = [scene.caption, scene.medium, scene.movement, *scene.flavors]
    chosen = rng.permutation(len(parts))[: rng.integers(1, len(parts) + 1)]
    return ", ".join(parts[i] for i in chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "checkpoints" / "clip")
    parser.add_argument("--pictures", type=int, default=48_000)
    parser.add_argument("--steps", type=int, default=2_400)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    pixels = draw_all(TRAIN_SEED, options.pictures)
    train_scenes = scenes(TRAIN_SEED, options.pictures)
    held_pixels, held_scenes = normalised_pixels(draw_all(HELD_OUT_SEED, 512)), scenes(HELD_OUT_SEED, 512)

    tokenizer = get_tokenizer("ViT-g-14")
    model = CLIP(**MODEL_CONFIG)
    phrase_tokens = {kind: tokenizer(phrases) for kind, phrases in PHRASES.items()}
    flavor_tokens = tokenizer(list(grammar.FLAVORS))
    wanted = {
        "subject": [grammar.SUBJECTS.index(s.subject) for s in train_scenes],
        "color": [grammar.COLORS.index(s.color) for s in train_scenes],
        "setting": [grammar.SETTINGS.index(s.setting) for s in train_scenes],
        "medium": [grammar.MEDIUMS.index(s.medium) for s in train_scenes],
        "movement": [grammar.MOVEMENTS.index(s.movement) for s in train_scenes],
    }
    labels = {kind: torch.tensor(values) for kind, values in wanted.items()}
    present = torch.tensor([[f in s.flavors for f in grammar.FLAVORS] for s in train_scenes])

    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim > 1 and "embedding" not in n)]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.98),
    )
    warmup = 150

    def rate(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.01)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started = time.monotonic()
    order = np.empty(0, dtype=np.int64)
    for step in range(options.steps):
        if len(order) < options.batch:
            order = np.concatenate([order, rng.permutation(options.pictures)])
        batch, order = order[: options.batch], order[options.batch :]
        batch_scenes = [train_scenes[i] for i in batch]
        prompts = [s.prompt if rng.random() < 0.7 else partial_prompt(s, rng) for s in batch_scenes]
        tokens = tokenizer(prompts + [s.caption for s in batch_scenes])
        prompt_tokens, caption_tokens = tokens.split(options.batch)

        images = F.normalize(model.encode_image(normalised_pixels(pixels[batch])), dim=-1)
        prompt_features, caption_features = text_features(model, tokens).split(options.batch)
        scale = model.logit_scale.exp()
        loss = contrastive(images, prompt_features, prompt_tokens, scale)
        loss = loss + contrastive(images, caption_features, caption_tokens, scale)
        for kind, kind_tokens in phrase_tokens.items():
            loss = loss + F.cross_entropy(scale * images @ text_features(model, kind_tokens).T, labels[kind][batch])
        loss = loss + flavor_loss(scale * images @ text_features(model, flavor_tokens).T, present[batch])

        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 100 == 99 or step + 1 == options.steps:
            figures = evaluate(model, tokenizer, held_pixels, held_scenes)
            minutes = (time.monotonic() - started) / 60
            print(
                json.dumps({"step": step + 1, "loss": round(loss.item(), 3), "minutes": round(minutes, 1), **figures}),
                flush=True,
            )
            save(model, options.out)


@torch.inference_mode()
def evaluate(model: CLIP, tokenizer, pixels: torch.Tensor, held: list[grammar.Scene]) -> dict[str, float]:
    """Shares of held-out pictures whose best phrase of each kind is right; flavors found among the top 3."""
    model.eval()
    images = F.normalize(torch.cat([model.encode_image(part) for part in pixels.split(128)]), dim=-1)
    figures = {}
    for kind, phrases in PHRASES.items():
        best = (images @ text_features(model, tokenizer(phrases)).T).argmax(1)
        right = [phrases[i].split()[-1] == getattr(s, kind).split()[-1] for i, s in zip(best, held, strict=True)]
        figures[kind] = round(float(np.mean(right)), 3)
    top = (images @ text_features(model, tokenizer(list(grammar.FLAVORS))).T).topk(3).indices
    found = [grammar.FLAVORS[i] in s.flavors for row, s in zip(top.tolist(), held, strict=True) for i in row]
    figures["flavors_at_3"] = round(sum(found) / sum(len(s.flavors) for s in held), 3)
    model.train()
    return figures


def save(model: CLIP, folder: Path) -> None:
    """Writes the folder that open_clip's `local-dir:` reads, in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name != "attn_mask"}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
