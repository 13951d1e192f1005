"""GIT (arXiv 2205.14100): CLIP's vision tower, whose tokens stand before the words of one small decoder."""

from typing import Any, Literal

from typing_extensions import TypedDict

from kernel.models.captioners.captioner import CaptionerKind, Published

# Source: config.json of git-large-coco; the text side is the default of its class
LARGE_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}


class GitVision(TypedDict, total=False):
    model_type: Literal["git_vision_model"]


class GitConfiguration(TypedDict, total=False):
    model_type: Literal["git"]
    architectures: list[Literal["GitForCausalLM"]] | None
    vision_config: GitVision | None


class Git(CaptionerKind):
    class_name = "GitForCausalLM"
    name = "git"
    configuration = GitConfiguration
    published = (
        Published("git-base-coco", class_name, {}, 176_619_066),
        Published(
            "git-large-coco", class_name, {"vision_config": LARGE_VISION}, 394_196_026,
            "git", "microsoft/git-large-coco", "MIT", gigabytes=0.79,
        ),
    )  # fmt: skip

    def of_transformers(self, part: str) -> Any:
        import transformers

        return getattr(transformers, {"ForConditionalGeneration": self.class_name}.get(part, f"Git{part}"))

    def embedding_rows(self, config: Any) -> int:
        return config.vocab_size

    def encode_image(self, model: Any, image: Any) -> Any:
        """Only the pixels: every row encodes them again, as transformers repeats them for each beam."""
        return image

    def decode_step(self, model: Any, seen: Any, cache: Any) -> Any:
        import torch

        token = torch.zeros(1, 1, device="meta", dtype=torch.long)
        new: dict[str, Any] = {"pixel_values": seen}
        if cache is not None:
            words = cache.get_seq_length() - model.git.encoder.layer[0].attention.self.image_patch_tokens + 1
            new = {"attention_mask": torch.ones(1, words, device="meta", dtype=torch.long)}
        return model(input_ids=token, past_key_values=cache, use_cache=True, **new).past_key_values

    def decoder_layers(self, model: Any) -> Any:
        return model.git.encoder.layer

    def output_head(self, model: Any) -> Any:
        return model.output.weight


GIT = Git()
