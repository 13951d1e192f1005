"""What a tower costs to train, counted without its weights: the real class on the meta device, by tier.

Parameters are exact. Operations are those of one forward pass, as kernel/pipeline/planning/model_costs.py counts them.
Activations are the tensors that autograd keeps for the backward pass, each storage once; attention is taken for a fused
kernel, as GPUs and CPUs run it, which keeps no matrix of scores.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.config import EMBEDDING_DIMENSIONS, TrainingSettings
from kernel.models.clip import CONFIG, Configuration
from kernel.models.configurations import read_configuration
from kernel.models.encoders.towers import open_clip_tower, read_timm_configuration, timm_model
from kernel.models.weights_folder import open_weights
from kernel.pipeline.planning.model_costs import count
from kernel.training.heads import HIDDEN

# the tower of most of the competition's winners, and the size of its pictures
ARCHITECTURE, SIZE = "vit_large_patch14_clip_224.openai", 224


@dataclass(frozen=True)
class Trained:
    """Parameters that are trained, the head's among them, and the bytes in float32 that a picture's way through the
    tower keeps for the backward pass."""

    parameters: int
    activation_bytes: int


@dataclass(frozen=True)
class TowerCosts:
    """`parameters` with those of the `head`; `operations` of one picture's forward pass; `tiers` are those that train
    the tower."""

    name: str
    size: int
    parameters: int
    head: int
    operations: int
    tiers: dict[str, Trained]

    @property
    def width(self) -> int:
        """Numbers of a picture's features, by the head's two layers that read them."""
        return (self.head - (HIDDEN + 1) * EMBEDDING_DIMENSIONS) // HIDDEN - 1


def tower_of(folder: Path | None, weights: Path | None, settings: TrainingSettings) -> TowerCosts:
    """A folder's model of timm, else the weights folder's CLIP, else the ViT-L/14 of OpenAI's CLIP. Only configurations
    are read. Raises UserError as `train` does."""
    if folder is None and weights is not None:
        opened = open_weights(weights, parts=("clip",), hashes=False)
        config = read_configuration(opened.model_folder("clip") / CONFIG, Configuration)["model_cfg"]
        size = config["vision_cfg"]["image_size"]
        return tower_costs(opened.models["clip"]["source"], size, lambda: open_clip_tower(config), settings)
    architecture, size = ARCHITECTURE, SIZE
    if folder is not None:
        architecture, pixels = read_timm_configuration(folder)
        size = pixels.size
    return tower_costs(
        architecture, size, lambda: timm_model(architecture, size, folder or Path(architecture)), settings
    )


def tower_costs(name: str, size: int, make: Callable[[], Any], settings: TrainingSettings) -> TowerCosts:
    """Counts the tower that `make` builds, for pictures of `size` x `size`."""
    import torch

    from kernel.training.tower.lora import adapted_layers
    from kernel.training.tower.trained import freeze_lower_layers

    with torch.device("meta"):
        tower = make().float().eval()
    pixels = torch.empty(1, 3, size, size, device="meta")
    width = tower(pixels).shape[1]
    head = (width + 1) * HIDDEN + (HIDDEN + 1) * EMBEDDING_DIMENSIONS
    operations = count(lambda: tower(pixels), half=False).operations
    every = sum(own.numel() for own in tower.parameters())
    beside = tuple(f"{layer}." for layer in adapted_layers(tower))
    shapes = [own.shape for name, own in tower.named_parameters() if own.ndim > 1 and name.startswith(beside)]
    lora = sum(settings.lora_rank * (own[0] + own[1:].numel()) for own in shapes)
    full = kept_bytes(tower, pixels)
    freeze_lower_layers(tower, settings.trained_layers)
    upper = sum(own.numel() for own in tower.parameters() if own.requires_grad)
    tiers = {
        "blocks": Trained(upper + head, kept_bytes(tower, pixels)),
        "lora": Trained(lora + head, full),
        "full": Trained(every + head, full),
    }
    return TowerCosts(name, size, every + head, head, operations, tiers)


def kept_bytes(model: Any, pixels: Any) -> int:
    """Bytes of what autograd keeps of one forward pass, the weights themselves left out."""
    import torch

    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    with fused_attention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(pixels)
    return sum(storage.nbytes() for storage in kept.values())


@contextmanager
def fused_attention() -> Iterator[None]:
    """On the meta device torch decomposes attention and keeps the scores; a fused kernel keeps what goes in and out."""
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            answer = torch.empty_like(query)
            ctx.save_for_backward(query, key, value, answer)
            return answer

    functional = torch.nn.functional
    usual = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: Attention.apply(query, key, value)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = usual
