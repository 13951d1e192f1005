"""CLIP and SigLIP as transformers saves them: `CLIPModel` (a Korean one has a vocabulary of its own), `SiglipModel`
(SigLIP 2 reads many languages)."""

from pathlib import Path
from typing import Any, Literal

from PIL import Image
from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.models.captioners.captioner import load_complete
from kernel.models.multilingual.encoder import MultilingualClip
from kernel.models.weights_folder import ADVICE
from kernel.system.devices import Device

# transformers' modeling_clip.py: configurations before its change #24773 say 2, and the highest id is read instead
HIGHEST = 2


class ClipConfiguration(TypedDict):
    """config.json."""

    model_type: Literal["clip"]


class SiglipConfiguration(TypedDict):
    """config.json; SigLIP 2 of one fixed size says the same."""

    model_type: Literal["siglip"]


class TransformersClip(MultilingualClip):
    def __init__(self, folder: Path, tokenizer: Any, device: Device) -> None:
        import transformers

        super().__init__(folder, tokenizer, device)
        self.processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model = load_complete(getattr(transformers, self.class_name), folder, device)
        self.model = model.to(device.name).eval()
        self.check()

    def check(self) -> None:
        """Raises UserError where model and tokenizer do not go together."""

    @property
    def embedding_rows(self) -> int:
        return self.model.text_model.embeddings.token_embedding.num_embeddings

    @property
    def context(self) -> int:
        return self.model.config.text_config.max_position_embeddings

    def pixels(self, images: list[Image.Image]) -> Any:
        return self.processor(images=images, return_tensors="pt")["pixel_values"]


class KoreanClip(TransformersClip):
    class_name = "CLIPModel"
    configurations: dict[str, Any] = {"config.json": ClipConfiguration}

    def check(self) -> None:
        """The tower's answer is its state at the end token, which it finds by its id."""
        end, config = self.tokenizer.eos_token_id, self.model.config.text_config.eos_token_id
        read = max(self.tokenizer.get_vocab().values()) if config == HIGHEST else config
        if end != read:
            raise UserError(
                f"{self.folder}: texts end with token {end}, the text tower reads its answer at token {read}: every "
                f"text would get that of another place. Put the model's own tokenizer and config.json there. {ADVICE}"
            )

    def image_features(self, pixels: Any) -> Any:
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    def text_features(self, tokens: Any) -> Any:
        given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return self.model.text_projection(self.model.text_model(**given).pooler_output)


class Siglip(TransformersClip):
    class_name = "SiglipModel"
    configurations: dict[str, Any] = {"config.json": SiglipConfiguration}

    def cleaned(self, text: str) -> str:
        """In small letters, as it was trained: the tokenizer that its hub names, Gemma's, leaves capitals, and the one
        that does not is missing from transformers 5.0.0, Kaggle's."""
        return text.lower()

    def image_features(self, pixels: Any) -> Any:
        return self.model.vision_model(pixel_values=pixels).pooler_output

    def text_features(self, tokens: Any) -> Any:
        """Without the mask: it was trained to see what fills a text up."""
        return self.model.text_model(input_ids=tokens["input_ids"]).pooler_output
