"""CoCa (arXiv 2205.01917) by open_clip: a vision tower, a text tower, and a decoder that looks from one to the other.

open_clip's own `generate` asks transformers for a class that is gone in 5, so words come from decoding.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from kernel.errors import UserError
from kernel.models.captioners.captioner import CaptionerKind, Published
from kernel.models.captioners.decoding import beam_search, drawn
from kernel.models.clip import CONFIG, WEIGHTS, Configuration, clip_tokenizer, clip_tokenizer_record
from kernel.models.configurations import check_configurations
from kernel.models.tokenizers import check_tokenizer
from kernel.models.weights_folder import ADVICE, loading
from kernel.system.devices import Device

START, END = 49406, 49407  # open_clip's own tokenizer
# Source: open_clip's model_configs/coca_ViT-L-14.json
LARGE = {
    "embed_dim": 768,
    "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14, "attentional_pool": True,
                   "attn_pooler_heads": 8, "output_tokens": True},
    "text_cfg": {"context_length": 76, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12, "embed_cls": True,
                 "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12,
                       "attn_pooler_heads": 12},
    "custom_text": True,
}  # fmt: skip


@dataclass
class Processor:
    """Pictures to pixels, tokens to words."""

    preprocess: Any
    tokenizer: Any


class Coca(CaptionerKind):
    class_name = "CoCa"
    name = "coca"
    config_file = CONFIG
    configuration = Configuration
    weights_files = (WEIGHTS, "open_clip_pytorch_model.bin")
    published = (
        Published(
            "coca-vit-l-14", class_name, {"model_cfg": LARGE}, 638_450_177,
            "coca", "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k", "MIT", gigabytes=1.28,
        ),
    )  # fmt: skip

    def read_processor(self, folder: Path) -> Processor:
        from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

        config = self.read_config(folder / CONFIG)
        preprocessing = merge_preprocess_dict(PreprocessCfg(), config.get("preprocess_cfg") or {})
        preprocessing["size"] = config["model_cfg"]["vision_cfg"]["image_size"]
        return Processor(image_transform_v2(PreprocessCfg(**preprocessing), is_train=False), clip_tokenizer(folder))

    def tokenizer_record(self, processor: Any) -> dict[str, Any]:
        return clip_tokenizer_record(processor.tokenizer)

    def inspect(self, folder: Path, tokenizer: dict[str, Any] | None) -> Processor:
        check_configurations(folder, self.configurations)
        with loading(folder, "open_clip"):
            processor = self.read_processor(folder)
            record = self.tokenizer_record(processor)
            rows = self.read_config(folder / CONFIG)["model_cfg"]["text_cfg"]["vocab_size"]
        check_tokenizer(str(folder), record, tokenizer, rows)
        return processor

    def load(self, folder: Path, device: Device) -> Any:
        import torch
        from safetensors.torch import load_file

        half = device.dtype == torch.float16
        with loading(folder, "open_clip"):
            model = self.meta_model(self.read_config(folder / CONFIG), half)
            state, dtypes = load_file(folder / WEIGHTS), {key: own.dtype for key, own in model.state_dict().items()}
            lacking, foreign = sorted(set(dtypes) - set(state)), sorted(set(state) - set(dtypes))
            if lacking or foreign:
                follows = "the model would run on random numbers" if lacking else "it is another model's file"
                wrong = f"{'missing' if lacking else 'unexpected'} keys {', '.join((lacking or foreign)[:3])}"
                raise UserError(f"{folder}: {wrong}: {follows}. {ADVICE}")
            model.load_state_dict({key: own.to(dtypes[key]) for key, own in state.items()}, strict=True, assign=True)
            for part in (model.text, model.text_decoder):
                # the only part that no file holds: words see those before them
                part.attn_mask = torch.full(part.attn_mask.shape, float("-inf")).triu(1)
        return model

    def prompt(
        self, processor: Any, images: list[Image.Image], device: Device, language: str = "English"
    ) -> dict[str, Any]:
        import torch

        pixels = torch.stack([processor.preprocess(image) for image in images])
        return {"pixel_values": pixels.to(device.name, device.dtype)}

    def said(self, model: Any, processor: Any, prompt: dict[str, Any], decoding: dict[str, Any]) -> list[str]:
        pixels, each = prompt["pixel_values"], decoding["num_return_sequences"]
        longest = min(decoding["max_length"], model.context_length)
        repeated = each if decoding["do_sample"] else decoding["num_beams"]
        latent, tokens = (own.repeat_interleave(repeated, dim=0) for own in model._encode_image(pixels))

        def next_scores(rows: Any) -> Any:
            seen = {"image_latent": latent, "image_embs": tokens, "output_labels": False}
            scores = model(None, rows.to(pixels.device), **seen)["logits"][:, -1].float()
            for check in decoding["logits_processor"]:
                scores = check(rows, scores)
            if rows.shape[1] < decoding["min_length"]:
                scores[:, END] = float("-inf")
            return scores.log_softmax(dim=-1)

        if decoding["do_sample"]:
            rows = drawn(next_scores, len(pixels) * each, START, END, longest, decoding["top_p"])
        else:
            found = beam_search(next_scores, len(pixels), decoding["num_beams"], START, END, longest)
            rows = [row for own in found for row in own[:each]]
        return [processor.tokenizer.decode(row.tolist()) for row in rows]

    # costs

    def meta_model(self, config: dict[str, Any], half: bool) -> Any:
        import torch
        from open_clip import CoCa

        own = {key: value for key, value in config["model_cfg"].items() if key != "custom_text"}
        with torch.device("meta"):
            model = CoCa(**own, cast_dtype=torch.float16 if half else None)
        # all but the norms; open_clip's own way leaves queries and embeddings, which its attention then refuses
        for part in model.modules() if half else ():
            for parameter in () if isinstance(part, torch.nn.LayerNorm) else part.parameters(recurse=False):
                parameter.data = parameter.data.half()
        return model.eval()

    def one_image(self, model: Any, half: bool) -> Any:
        import torch

        side, _ = model.visual.image_size
        return torch.empty(1, 3, side, side, device="meta", dtype=torch.float16 if half else torch.float32)

    def encode_image(self, model: Any, image: Any) -> Any:
        return model._encode_image(image)

    def decode_step(self, model: Any, seen: Any, cache: Any) -> Any:
        """Nothing is kept but how many tokens there are."""
        import torch

        tokens = (cache or 0) + 1
        ids = torch.zeros(1, tokens, device="meta", dtype=torch.long)
        model(None, ids, image_latent=seen[0], image_embs=seen[1], output_labels=False)
        return tokens

    def decoder_layers(self, model: Any) -> Any:
        import torch

        decoder = model.text_decoder
        return torch.nn.ModuleList([*model.text.transformer.resblocks, *decoder.resblocks, *decoder.cross_attn])

    def output_head(self, model: Any) -> Any:
        return model.text_decoder.text_projection.T

    def cache_bytes(self, cache: Any) -> int:
        return 0


COCA = Coca()
