"""How well a text says what an image shows, by BLIP-2's Q-Former (arXiv 2301.12597) with its two heads.

ITM looks at image and text together and says whether they match; ITC compares them apart, as CLIP does. The image goes
through the vision tower once, each text through the Q-Former once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL.Image import Image
from typing_extensions import TypedDict

from kernel.config import ITM
from kernel.errors import UserError
from kernel.models.captioners.blip2 import Blip2Vision, QFormer
from kernel.models.captioners.captioner import CONFIG, in_full_precision, load_complete
from kernel.models.configurations import check_configurations, read_configuration
from kernel.models.shared_tower import completed
from kernel.models.tokenizers import KNOWN_SENTENCE, check_tokenizer, tokenizer_record
from kernel.models.weights_folder import ADVICE, Weights, loading
from kernel.system.devices import Device
from kernel.system.files import write_json

MATCHING = "matching"  # its name in a manifest, and its folder
CLASS_NAME = "Blip2ForImageTextRetrieval"
PUBLISHED = "blip2-itm-vit-g"
REPOSITORY = f"Salesforce/{PUBLISHED}"  # on the hub
# trained in float32; transformers keeps them so by itself, and says nothing where a release does not
FULL_PRECISION = ("query_tokens", "qformer")
IMAGE_TOKEN = "<image>"  # added to every tokenizer by its processor, as the last one where a checkpoint lacks it
SPECIAL = ("pad", "cls", "sep", "bos")
# Source: config.json of Salesforce/blip2-itm-vit-g; what it leaves out is the default of its class
PUBLISHED_CONFIG: dict[str, Any] = {
    "qformer_config": {"vocab_size": 30523, "use_qformer_text_input": True},
    "image_text_hidden_size": 256,
    "num_query_tokens": 32,
}


class MatchingConfiguration(TypedDict, total=False):
    """What of its config.json is acted on; a language model stands there too, of which nothing is made."""

    model_type: Literal["blip-2"]
    architectures: list[Literal["Blip2ForImageTextRetrieval"]] | None
    qformer_config: QFormer | None
    vision_config: Blip2Vision | None
    image_token_index: int | None
    num_query_tokens: int


def read_processor(folder: Path) -> Any:
    """What prepares images, and texts as tokens."""
    from transformers import Blip2Processor

    return Blip2Processor.from_pretrained(folder, local_files_only=True)


def matching_tokenizer_record(processor: Any) -> dict[str, Any]:
    """What the manifest keeps of the tokenizer."""
    tokenizer = processor.tokenizer
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in SPECIAL}
    return tokenizer_record(len(tokenizer), special, tokenizer(KNOWN_SENTENCE)["input_ids"])


def inspect_matching(weights: Weights) -> Any:
    """Checks what needs no weights in memory; returns the processor. Raises UserError."""
    from transformers import Blip2Config

    if MATCHING not in weights.models:
        raise UserError(
            f"{weights.folder}: holds no model for image-text matching, expected it in {MATCHING}/. 'make miniature' "
            "makes the miniature one, 'publish weights --matching' takes the real one; or set caption_weighting to "
            "mean, consensus or clip"
        )
    folder, record = weights.model_folder(MATCHING), weights.models[MATCHING]
    if record["class"] != CLASS_NAME:
        raise UserError(f"{folder}: class {record['class']!r} matches no images and texts; expected {CLASS_NAME}")
    check_configurations(folder, {CONFIG: MatchingConfiguration})
    with loading(folder, "transformers"):
        config = Blip2Config.from_pretrained(folder, local_files_only=True)
        processor = read_processor(folder)
        found = matching_tokenizer_record(processor)
    check_image_slots(folder, config, processor)
    # the published embedding has no row for it, as the queries take its slots before anything is embedded
    unread = int(processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == found["size"] - 1)
    check_tokenizer(str(folder), found, record.get("tokenizer"), config.qformer_config.vocab_size, unread)
    return processor


def check_image_slots(folder: Path, config: Any, processor: Any) -> None:
    """Configuration and processor must both give each query its slot before the text, or neither.

    Where only the configuration does, transformers takes the text's first words for slots and cuts them off: every
    score is another, and no error tells.
    """
    slots = processor.num_query_tokens
    expected = config.num_query_tokens if config.image_token_index is not None else None
    if slots != expected:
        stated = f"image_token_index {config.image_token_index} and num_query_tokens {config.num_query_tokens}"
        raise UserError(
            f"{folder}: processor num_query_tokens is {slots}, expected {expected}, as {CONFIG} has {stated}: scores "
            f"would be of texts without their first words. {ADVICE}"
        )
    image_token = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if expected is not None and config.image_token_index != image_token:
        raise UserError(
            f"{folder}: config image_token_index is {config.image_token_index}, expected {image_token}, the "
            f"tokenizer's {IMAGE_TOKEN}: scores would be of other texts. {ADVICE}"
        )
    if not config.qformer_config.use_qformer_text_input:
        raise UserError(
            f"{folder}: qformer_config.use_qformer_text_input is false: this Q-Former reads no texts, as a "
            f"captioner's; expected one that was trained to match them. {ADVICE}"
        )


def complete_matching(folder: Path) -> bool:
    """Gives each query its slot before the text where but one of a hub's two small files does; whether it did."""
    config = read_matching_config(folder / CONFIG)
    with loading(folder, "transformers"):
        processor = read_processor(folder)
        if (processor.num_query_tokens is None) == (config.get("image_token_index") is None):
            return False
        processor.num_query_tokens = config.get("num_query_tokens", PUBLISHED_CONFIG["num_query_tokens"])
        processor.save_pretrained(folder)
        place = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    write_json(folder / CONFIG, {**config, "image_token_index": place})
    return True


@dataclass
class Matcher:
    """The model with its processor, on a device."""

    model: Any
    processor: Any
    device: Device

    @classmethod
    def load(cls, weights: Weights, device: Device) -> "Matcher":
        """Complete and checked, every weight in its dtype. Raises UserError."""
        from transformers import Blip2ForImageTextRetrieval

        processor = inspect_matching(weights)
        folder = weights.model_folder(MATCHING)
        state = completed(weights, MATCHING)
        kept = type(CLASS_NAME, (Blip2ForImageTextRetrieval,), {"_keep_in_fp32_modules": list(FULL_PRECISION)})
        model = load_complete(kept, folder, device, FULL_PRECISION, state)
        return cls(model.to(device.name).eval(), processor, device)

    def scores(self, images: list[Image], captions: Sequence[list[str]], head: str) -> list[list[float]]:
        """RGB images and each one's texts -> a score a text, higher where it fits better.

        ITM: how much larger the logit of a match is than that of none, the log odds. ITC: the cosine of the best
        query, -1 to 1. An image's score does not depend on the others but for rounding. Raises ValueError where scores
        are no numbers: damaged weights, or half precision that overflowed.
        """
        import torch

        texts = [text for own in captions for text in own]
        if not texts:
            return [[] for _ in captions]
        owners = torch.tensor([image for image, own in enumerate(captions) for _ in own], device=self.device.name)
        with torch.inference_mode():
            found = self.of_pairs(self.patches(images), owners, texts, head).float().cpu().numpy()
        if not np.isfinite(found).all():
            raise ValueError("its scores are no numbers: the weights are damaged, or half precision overflowed")
        remaining = iter(found.tolist())
        return [[next(remaining) for _ in own] for own in captions]

    def patches(self, images: list[Image]) -> Any:
        """What the vision tower says of images: (n, patches, width)."""
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return self.model.vision_model(pixel_values=pixels.to(self.device.name, self.device.dtype)).last_hidden_state

    def of_pairs(self, patches: Any, owners: Any, texts: list[str], head: str) -> Any:
        """(texts,): of each text its score with the image of the number that `owners` (texts,) says."""
        # a text that says the image's token means the word: the token itself has no row in the embedding
        said = [text.replace(IMAGE_TOKEN, "image") for text in texts]
        tokens = self.processor.tokenizer(
            said, padding=True, truncation=True, return_tensors="pt",
            max_length=self.model.config.qformer_config.max_position_embeddings,
        )  # fmt: skip
        ids, mask = tokens["input_ids"].to(self.device.name), tokens["attention_mask"].to(self.device.name)
        return itm_scores(self.model, patches[owners], ids, mask) if head == ITM else itc_scores(
            self.model, patches, owners, ids, mask
        )  # fmt: skip


def itm_logits(model: Any, patches: Any, ids: Any, mask: Any) -> Any:
    """(n, 2), no match and match, of n images' patches (n, patches, width) and a text each, (n, tokens).

    Queries and text see each other, and the head's answers are averaged over the queries. Without a `mask` every token
    is a word.
    """
    import torch

    queries = model.query_tokens.expand(len(ids), -1, -1)
    embedded = model.embeddings(input_ids=ids, query_embeds=queries)
    whole = None if mask is None else torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1)
    seen = model.qformer(
        query_embeds=embedded,
        query_length=queries.shape[1],
        attention_mask=whole,
        encoder_hidden_states=patches,
    ).last_hidden_state
    return model.itm_head(seen[:, : queries.shape[1]].to(model.itm_head.weight.dtype)).mean(dim=1)


def itm_scores(model: Any, patches: Any, ids: Any, mask: Any) -> Any:
    logits = itm_logits(model, patches, ids, mask).float()
    return logits[:, 1] - logits[:, 0]


def itc_features(model: Any, patches: Any) -> Any:
    """(n, queries, width): unit vectors of what each query says of an image, without having seen a text."""
    from torch.nn.functional import normalize

    queries = model.query_tokens.expand(len(patches), -1, -1)
    seen = model.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
    return normalize(model.vision_projection(seen.to(model.vision_projection.weight.dtype)), dim=-1)


def itc_texts(model: Any, ids: Any, mask: Any) -> Any:
    """(n, width): unit vectors of texts, by what their first token says."""
    from torch.nn.functional import normalize

    embedded = model.embeddings(input_ids=ids)
    read = model.qformer(query_embeds=embedded, query_length=0, attention_mask=mask).last_hidden_state
    return normalize(model.text_projection(read[:, 0].to(model.text_projection.weight.dtype)), dim=-1)


def itc_scores(model: Any, patches: Any, owners: Any, ids: Any, mask: Any) -> Any:
    """The cosine of each text and the best query of its image."""
    import torch

    images, texts = itc_features(model, patches), itc_texts(model, ids, mask)
    return torch.einsum("nqd,nd->nq", images[owners].float(), texts.float()).amax(dim=1)


def meta_matching(config: dict[str, Any], half: bool) -> Any:
    """The model without memory for its weights, its dtypes those that `Matcher.load` leaves on a GPU, or on a CPU."""
    import torch
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    with torch.device("meta"):
        model = Blip2ForImageTextRetrieval(Blip2Config(**config))
    if half:
        model.half()
        for name, parameter in model.named_parameters():
            if in_full_precision(name, FULL_PRECISION):
                parameter.data = parameter.data.float()
    return model.eval()


def read_matching_config(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """Its config.json, all of it. Raises UserError."""
    return read_configuration(path, MatchingConfiguration, advice)
