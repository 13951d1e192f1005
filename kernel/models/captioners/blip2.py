"""BLIP-2 (arXiv 2301.12597): a frozen vision transformer, a Q-Former that asks it, and T5 or OPT, which is told.

The image reaches the language model through slots in its text, and T5's output scaling is a matter of the release of
transformers: both can be silently wrong, so both are checked.
"""

from pathlib import Path
from typing import Any, Literal

from PIL import Image
from typing_extensions import TypedDict

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.models.captioners.captioner import CONFIG, CaptionerKind, Published
from kernel.models.configurations import read_configuration
from kernel.models.weights_folder import ADVICE, loading
from kernel.system.files import write_json


def flan_t5(model_width: int, feed_forward: int, heads: int) -> dict[str, Any]:
    """Source: config.json of google/flan-t5-xl and -xxl, as blip2-flan-t5-xl and -xxl repeat them."""
    text = {
        "model_type": "t5",
        "d_model": model_width,
        "d_ff": feed_forward,
        "d_kv": 64,
        "num_heads": heads,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "scale_decoder_outputs": False,
        "bos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return {"text_config": text, "image_token_index": 32100}


# Source: config.json of blip2-opt-2.7b
OPT = {
    "model_type": "opt",
    "hidden_size": 2560,
    "ffn_dim": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "word_embed_proj_dim": 2560,
    "vocab_size": 50304,
}


class LanguageModel(TypedDict, total=False):
    model_type: Literal["t5", "opt"]


class QFormer(TypedDict, total=False):
    model_type: Literal["blip_2_qformer"]


class Blip2Vision(TypedDict, total=False):
    model_type: Literal["blip_2_vision_model"]


class Blip2Configuration(TypedDict, total=False):
    model_type: Literal["blip-2"]
    architectures: list[Literal["Blip2ForConditionalGeneration"]] | None
    text_config: LanguageModel | None
    qformer_config: QFormer | None
    vision_config: Blip2Vision | None
    image_token_index: int | None
    num_query_tokens: int


class Blip2(CaptionerKind):
    class_name = "Blip2ForConditionalGeneration"
    name = "blip2"
    configuration = Blip2Configuration
    # T5 overflows in half precision in its `wo` matrices; the Q-Former and its queries were trained in float32.
    # Versions of transformers differ in which of these they keep by themselves.
    full_precision = ("wo", "query_tokens", "qformer")
    # by the class itself: EVA ViT-g with 39 layers of 1,408, Q-Former with 12 layers of 768, 32 queries
    published = (
        Published(
            "blip2-flan-t5-xl", class_name, flan_t5(2048, 5120, 32), 3_942_446_592,
            "blip2", "Salesforce/blip2-flan-t5-xl", "MIT", gigabytes=9.10,
        ),
        Published(
            "blip2-opt-2.7b", class_name, {"text_config": OPT, "image_token_index": 50265}, 3_744_761_856,
            "blip2-opt-2.7b", "Salesforce/blip2-opt-2.7b", "MIT", gigabytes=7.70,
        ),
        # tuned by reinforcement on CLIP's and BLIP-2's own judgement of its captions (arXiv 2404.01911)
        Published(
            "vlrm-blip2-opt-2.7b", class_name,
            {"text_config": {**OPT, "vocab_size": 50272}, "image_token_index": 50265}, 3_744_679_936,
            "vlrm", "sashakunitsyn/vlrm-blip2-opt-2.7b", "MIT", gigabytes=7.70,
        ),
        Published("blip2-flan-t5-xxl", class_name, flan_t5(4096, 10240, 64), 12_229_596_672),
    )  # fmt: skip

    def check(self, folder: Path, config: Any, processor: Any) -> None:
        check_output_scaling(folder / CONFIG, self.read_config(folder / CONFIG), config.text_config)
        check_image_slots(folder, config, processor)

    def stated(self, config: dict[str, Any]) -> dict[str, Any]:
        """With T5's output scaling stated.

        flan-T5 does not scale its decoder's outputs, and its head is a matrix of its own; the hub's files say only the
        latter, and transformers 5.0 then scales.
        """
        stated = super().stated(config)
        if (stated.get("text_config") or {}).get("model_type") == "t5":
            stated["text_config"] |= {"scale_decoder_outputs": False, "tie_word_embeddings": False}
        return stated

    def complete(self, folder: Path) -> bool:
        """The image's place among OPT's words, which checkpoints from before transformers 4.46 have none of."""
        config, path = self.read_config(folder / CONFIG), folder / "processor_config.json"
        if (config.get("text_config") or {}).get("model_type") != "opt":
            return False
        queries = read_configuration(path).get("num_query_tokens") if path.is_file() else None
        if queries is not None and config.get("image_token_index") is not None:
            return False
        with loading(folder, "transformers"):
            processor = self.read_processor(folder)  # which gives the tokenizer the token that it lacks
            processor.num_query_tokens = config.get("num_query_tokens", 32)
            processor.save_pretrained(folder)
            place = processor.tokenizer.convert_tokens_to_ids("<image>")
        write_json(folder / CONFIG, {**config, "image_token_index": place})
        return True

    def lengths(self, model: Any, recipe: Recipe) -> dict[str, int]:
        """T5 counts its start token; OPT would count its image slots too."""
        if model.config.use_decoder_only_language_model:
            return {"max_new_tokens": recipe.max_length - 1, "min_new_tokens": recipe.min_length - 1}
        return super().lengths(model, recipe)

    def new_model(self, config: dict[str, Any]) -> Any:
        model = super().new_model(config)
        if config["text_config"].get("tie_word_embeddings") is False:
            import torch

            # transformers 5 ties T5's head to its embedding here; the file holds both, and the loaded model too
            head = model.language_model.lm_head
            head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
        return model

    def adapted(self, model: Any) -> Any:
        if not model.config.use_decoder_only_language_model:
            from kernel.models.captioners.blip2_attention import look_once

            look_once(model)
        return model

    def encode_image(self, model: Any, image: Any) -> Any:
        """Pixels -> T5's encoder outputs or OPT's prefix, (1, slots and a start token, width)."""
        import torch

        patches = model.vision_model(pixel_values=image).last_hidden_state
        queries = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=patches).last_hidden_state
        soft_prompt = model.language_projection(queries.to(patches.dtype))
        # `generate` puts one start token behind the image's slots
        start = torch.zeros(1, 1, device="meta", dtype=torch.long)
        prefix = torch.cat([soft_prompt, model.get_input_embeddings()(start)], dim=1)
        if model.config.use_decoder_only_language_model:
            return prefix
        seen = model.language_model.encoder(inputs_embeds=prefix).last_hidden_state
        self.keys_and_values(model, seen)
        return seen

    def decode_step(self, model: Any, seen: Any, cache: Any) -> Any:
        """OPT reads the image at its first."""
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        token = torch.zeros(1, 1, device="meta", dtype=torch.long)
        given: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if model.config.use_decoder_only_language_model:
            new = {"inputs_embeds": seen} if cache is None else {"input_ids": token}
            output = model.language_model(**new, **given, logits_to_keep=1)
        else:
            encoded = BaseModelOutput(last_hidden_state=seen)
            output = model.language_model(decoder_input_ids=token, encoder_outputs=encoded, **given)
        return output.past_key_values

    def keys_and_values(self, model: Any, seen: Any) -> list[Any]:
        """Of every layer of T5's decoder, which makes them of an image before its first word (blip2_attention.py)."""
        from kernel.models.captioners.blip2_attention import attentions

        return [own for attention in attentions(model) for own in attention.keys_and_values(seen)]

    def image_bytes(self, model: Any, seen: Any) -> tuple[int, int]:
        if model.config.use_decoder_only_language_model:
            return super().image_bytes(model, seen)
        read = sum(own.nbytes for own in self.keys_and_values(model, seen))
        return seen.nbytes + read, read

    def decoder_layers(self, model: Any) -> Any:
        if model.config.use_decoder_only_language_model:
            return model.language_model.model.decoder.layers
        return model.language_model.decoder.block

    def output_head(self, model: Any) -> Any:
        return model.language_model.lm_head.weight


BLIP2 = Blip2()


def check_output_scaling(path: Path, file: dict[str, Any], text_config: Any) -> None:
    """T5 must not scale its decoder's outputs, as flan-T5 was not trained so, and the file must say it: where it does
    not, transformers 5.0 scales, and others guess otherwise."""
    stated = (file.get("text_config") or {}).get("scale_decoder_outputs")
    for found in (stated, text_config.scale_decoder_outputs) if text_config.model_type == "t5" else ():
        if found is not False:
            raise UserError(
                f"{path}: text_config.scale_decoder_outputs is {found}, expected false: "
                f"decoder outputs would be scaled and captions wrong. {ADVICE}"
            )


def check_image_slots(folder: Path, config: Any, processor: Any) -> None:
    """The language model must receive exactly one slot for each query of the Q-Former."""
    queries = config.num_query_tokens
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    found = {
        "processor num_query_tokens": (processor.num_query_tokens, queries),
        "config image_token_index": (config.image_token_index, image_token),
    }
    for what, (value, expected) in found.items():
        if value != expected:
            raise UserError(
                f"{folder}: {what} is {value}, expected {expected}: the image would not reach "
                f"the language model. {ADVICE}"
            )
    if config.text_config.bos_token_id is None:
        raise UserError(
            f"{folder}: text_config.bos_token_id is missing, expected a token id: captions cannot start. {ADVICE}"
        )
    slots = processor(images=Image.new("RGB", (8, 8)), text="", return_tensors="pt")["input_ids"] == image_token
    if int(slots.sum()) != queries:
        raise UserError(
            f"{folder}: the processor makes {int(slots.sum())} image slots for {queries} queries: "
            f"the image would not reach the language model. {ADVICE}"
        )
