"""What a model costs, counted without its weights: the real class with the published configuration on the meta device.

Parameters and bytes are exact. Operations are counted as in open_clip's docs/model_profile.csv, by torch's own counter
with two for every multiply-add, attention included (ViT-g-14: 534.06 GFLOPs an image, 47.09 a text).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernel.budget.counting import Work, count
from kernel.budget.published_models import MINILM, Published
from kernel.captions import BLIP2, FULL_PRECISION_PARTS
from kernel.clip import meta_clip


@dataclass(frozen=True)
class Weighed:
    """A model's parameters in memory, and their bytes by dtype as the loader leaves them.

    `stored` also counts the output head of BLIP, which its file holds twice. `largest_block` is the most that one
    device must take of a split model; `read_per_token` are the bytes that one step of decoding reads. `mapped_bytes`
    are those of a known file that the CPU runs as they lie there.
    """

    parameters: int
    stored: int
    bytes_by_dtype: dict[str, int]
    largest_block: int = 0
    read_per_token: int = 0
    mapped_bytes: int = 0

    @property
    def bytes(self) -> int:
        return sum(self.bytes_by_dtype.values())


@dataclass(frozen=True)
class Clip:
    """CLIP: weights, and the work of one image and of one text."""

    name: str
    weights: Weighed
    image: Work
    text: Work
    dimensions: int


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded: `rows` sequences an image of `steps` new tokens; beams are reordered, samples not."""

    rows: int
    steps: int
    reordered: bool = True


@dataclass(frozen=True)
class Captioning:
    """A captioner: its weights, the work of encoding one image, and that of the first three tokens of one row.

    `steps` holds each one's work and the bytes of keys and values after it. From the second on, each step adds the same
    to the one before: one token more to attend to. `layers` are the blocks that every step passes. `image_token_bytes`
    are an image's tokens that all its rows look at in every layer (BLIP; the others have them in the cache).
    """

    name: str
    weights: Weighed
    encode: Work
    steps: tuple[tuple[Work, int], tuple[Work, int], tuple[Work, int]]
    vocabulary: int
    layers: int
    image_token_bytes: int = 0

    def decode(self, decoding: Decoding) -> Work:
        """All steps of all rows of one image."""
        first, second, third = (work for work, _ in self.steps)
        later = decoding.steps - 1

        def total(of: Callable[[Work], int]) -> int:
            growing = (of(third) - of(second)) * later * (later - 1) // 2
            return decoding.rows * (of(first) + later * of(second) + growing)

        return Work(
            total(lambda step: step.half_operations),
            total(lambda step: step.single_operations),
            decoding.rows * max(step.activation_bytes for step, _ in self.steps),
        )

    def row_cache_bytes(self, decoding: Decoding) -> int:
        """Keys and values of all rows of one image at the last step."""
        (_, first), (_, second), _ = self.steps
        return decoding.rows * (first + (decoding.steps - 1) * (second - first))


def clip_costs(name: str, model_config: dict[str, Any], half: bool) -> Clip:
    """CLIP by open_clip's configuration, in half precision as kernel/clip.py loads it on a GPU, else in float32."""
    import torch

    model = meta_clip(model_config, half)
    side = model_config["vision_cfg"]["image_size"]
    pixels = torch.empty(1, 3, side, side, device="meta", dtype=torch.float16 if half else torch.float32)
    tokens = torch.zeros(1, model.context_length, device="meta", dtype=torch.long)
    return Clip(
        name,
        weigh(model),
        count(lambda: model.encode_image(pixels), half),
        count(lambda: model.encode_text(tokens), half),
        model_config["embed_dim"],
    )


def sentence_costs(tokens: int, config: dict[str, Any] = MINILM) -> tuple[Weighed, Work]:
    """MiniLM in float32, as kernel/sentences.py loads it: its weights, and the work of a text of `tokens` tokens."""
    import torch
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig(**config)).eval()
    ids = torch.zeros(1, tokens, device="meta", dtype=torch.long)
    return weigh(model), count(lambda: model(input_ids=ids), half=False)


def captioner_costs(published: Published, half: bool) -> Captioning:
    """A captioner with one image encoded and three tokens decoded, as kernel/captions.py would."""
    import torch

    model = meta_captioner(published, half)
    side = model.config.vision_config.image_size
    pixels = torch.empty(1, 3, side, side, device="meta", dtype=torch.float16 if half else torch.float32)
    seen: list[Any] = []
    steps: list[tuple[Work, int]] = []
    caches: list[Any] = [None]
    encode = count(lambda: seen.append(encode_image(model, pixels)), half)
    for _ in range(3):
        work = count(lambda: caches.append(decode_step(model, seen[0], caches[-1])), half)
        # the cache stays from step to step, so it is no activation
        size = cache_size(caches[-1])
        steps.append((Work(work.half_operations, work.single_operations, max(0, work.activation_bytes - size)), size))
    return Captioning(
        published.name,
        weigh(model, published.head_stored_twice),
        encode,
        (steps[0], steps[1], steps[2]),
        model.config.text_config.vocab_size,
        len(decoder_layers(model)),
        0 if hasattr(model, "qformer") else seen[0].nbytes,
    )


def meta_captioner(published: Published, half: bool) -> Any:
    """The captioner without weights, its dtypes those that kernel/captions.py checks after loading."""
    import torch
    from transformers import Blip2Config, Blip2ForConditionalGeneration, BlipConfig, BlipForConditionalGeneration

    from kernel.image_attention import look_once

    is_blip2 = published.class_name == BLIP2
    with torch.device("meta"):
        if is_blip2:
            model = Blip2ForConditionalGeneration(Blip2Config(**published.config))
        else:
            model = BlipForConditionalGeneration(BlipConfig(**published.config))
            look_once(model)
        if is_blip2 and published.config["text_config"].get("tie_word_embeddings") is False:
            # transformers 5 ties T5's head to its embedding here; the file holds both, and the loaded model too
            head = model.language_model.lm_head
            head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
    if half:
        model.half()
    if is_blip2:
        for name, parameter in model.named_parameters():
            if is_full_precision(name):
                parameter.data = parameter.data.float()
    return model.eval()


def encode_image(model: Any, pixels: Any) -> Any:
    """What decoding sees of one image: T5's encoder outputs, OPT's prefix, or BLIP's patches, (1, length, d)."""
    import torch

    patches = model.vision_model(pixel_values=pixels).last_hidden_state
    if not hasattr(model, "qformer"):
        return patches
    queries = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=patches).last_hidden_state
    soft_prompt = model.language_projection(queries.to(patches.dtype))
    # `generate` puts one start token behind the image's slots
    start = torch.zeros(1, 1, device="meta", dtype=torch.long)
    prefix = torch.cat([soft_prompt, model.get_input_embeddings()(start)], dim=1)
    if model.config.use_decoder_only_language_model:
        return prefix
    return model.language_model.encoder(inputs_embeds=prefix).last_hidden_state


def decode_step(model: Any, seen: Any, cache: Any) -> Any:
    """One token more of one row, as beam search asks for it; returns the cache. OPT reads the image at its first."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    token = torch.zeros(1, 1, device="meta", dtype=torch.long)
    given: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    if not hasattr(model, "qformer"):
        output = model.text_decoder(input_ids=token, encoder_hidden_states=seen, **given)
    elif model.config.use_decoder_only_language_model:
        new = {"inputs_embeds": seen} if cache is None else {"input_ids": token}
        output = model.language_model(**new, **given, logits_to_keep=1)
    else:
        encoded = BaseModelOutput(last_hidden_state=seen)
        output = model.language_model(decoder_input_ids=token, encoder_outputs=encoded, **given)
    return output.past_key_values


def cache_size(cache: Any) -> int:
    """Bytes of a transformers cache: a row's keys and values of every layer, T5's attention to the image included."""
    halves = [cache.self_attention_cache, cache.cross_attention_cache] if hasattr(cache, "is_updated") else [cache]
    layers = [layer for half in halves for layer in half.layers if layer.keys is not None]
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def decoder_layers(model: Any) -> Any:
    if not hasattr(model, "qformer"):
        return model.text_decoder.bert.encoder.layer
    if model.config.use_decoder_only_language_model:
        return model.language_model.model.decoder.layers
    return model.language_model.decoder.block


def output_head(model: Any) -> Any:
    """The matrix from the decoder's last state to the scores of all tokens."""
    if not hasattr(model, "qformer"):
        return model.text_decoder.cls.predictions.decoder.weight
    return model.language_model.lm_head.weight


def is_full_precision(name: str) -> bool:
    """Whether a parameter or module stays in float32 on a GPU, by its dotted name."""
    return any(part in FULL_PRECISION_PARTS for part in name.split("."))


def weigh(model: Any, head_stored_twice: bool = False) -> Weighed:
    """Parameters and bytes of a model on any device."""
    import torch

    parameters = 0
    by_dtype: dict[str, int] = {}
    for parameter in model.parameters():
        parameters += parameter.numel()
        name = str(parameter.dtype).removeprefix("torch.")
        by_dtype[name] = by_dtype.get(name, 0) + parameter.nbytes
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    blocks = [sum(parameter.nbytes for parameter in block.parameters()) for blocks in lists for block in blocks]
    read = stored_again = 0
    if hasattr(model, "text_decoder") or hasattr(model, "qformer"):
        head = output_head(model)
        read = sum(parameter.nbytes for parameter in decoder_layers(model).parameters()) + head.nbytes
        stored_again = head.numel() if head_stored_twice else 0
    return Weighed(parameters, parameters + stored_again, by_dtype, max(blocks, default=0), read)
