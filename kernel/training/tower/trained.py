"""What is trained: a tower with its head behind it, and which of its weights learn how fast."""

from itertools import chain
from typing import Any

import numpy as np
import torch

from kernel.config import TrainingSettings
from kernel.models.encoders.output_head import OutputHead


class Trained(torch.nn.Module):
    """Pixels (n, 3, size, size) to unit rows (n, 384)."""

    def __init__(self, tower: Any, head: OutputHead) -> None:
        super().__init__()
        self.tower = tower
        self.head = torch.nn.Sequential(*chain.from_iterable(
            [torch.nn.ReLU()] * (index > 0) + [linear(*layer)] for index, layer in enumerate(head.layers)
        ))  # fmt: skip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.head(self.tower(pixels).float()), dim=-1)

    def output_head(self) -> OutputHead:
        layers = [own for own in self.head if isinstance(own, torch.nn.Linear)]
        return OutputHead(tuple((array(own.weight), array(own.bias)) for own in layers))

    def learning(self) -> dict[str, torch.Tensor]:
        """The weights that are trained, by name."""
        return {name: own for name, own in self.named_parameters() if own.requires_grad}


def linear(weights: np.ndarray, bias: np.ndarray) -> torch.nn.Linear:
    layer = torch.nn.Linear(*reversed(weights.shape))
    layer.load_state_dict({"weight": torch.from_numpy(weights), "bias": torch.from_numpy(bias)})
    return layer


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().copy()


def freeze_lower_layers(tower: Any, share: float) -> None:
    """Leaves the upper `share` of the tower's layers to be trained, by timm's count of layers."""
    from timm.models import group_parameters

    layers = group_parameters(tower, tower.group_matcher(), reverse=True)
    count = max(layers.values()) + 1
    for name, own in tower.named_parameters():
        own.requires_grad_(layers[name] >= count - max(1, round(share * count)))


def parameter_groups(model: Trained, settings: TrainingSettings) -> list[dict[str, Any]]:
    """For AdamW: the tower's by layer, the lower the slower; the head's faster; norms and biases without decay."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    groups = param_groups_layer_decay(model.tower, settings.weight_decay, layer_decay=settings.layer_decay)
    head = param_groups_weight_decay(model.head, settings.weight_decay)
    return [*groups, *({**own, "lr_scale": settings.head_factor} for own in head)]
