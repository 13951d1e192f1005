"""What captioners compute otherwise on a CPU: products by oneDNN, of weights that lie as its kernels read them.

torch takes a float32 product by MKL, of weights as their file has them. oneDNN's kernels take weights packed, once when
a model is loaded, and apply an activation to each sum while it is at hand. A vision tower takes a few images at a time,
as what its layers give of many would leave a CPU's cache before the next layer reads it.
"""

from collections import Counter
from typing import Any

import torch
from transformers.activations import GELUActivation, NewGELUActivation
from transformers.modeling_outputs import BaseModelOutputWithPooling

from kernel.system.devices import Device
from kernel.system.memory import give_back_mapped

# by which names modules of transformers have a linear layer and the activation of all that it gives
ACTIVATED = {"fc1": "activation_fn", "wi_0": "act", "wi": "act", "dense": "intermediate_act_fn"}
# of each activation what oneDNN calls it, and its formula
ACTIVATIONS = {GELUActivation: ("gelu", "none"), NewGELUActivation: ("gelu", "tanh")}
NO_ACTIVATION = ("none", "")
IMAGES_AT_ONCE = 4  # of 577 tokens and 3,072 numbers in BLIP's widest layer: 28 MB


class PackedLinear(torch.nn.Module):
    """Stands where a float32 torch.nn.Linear was, with the activation behind it or without."""

    def __init__(self, plain: torch.nn.Linear, activation: tuple[str, str] = NO_ACTIVATION) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = plain.in_features, plain.out_features, plain.bias
        packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.data)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)  # which nothing but `forward` can read
        self.activation, self.formula = activation

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, self.activation, [], self.formula)


def compute_by_onednn(model: Any, device: Device) -> None:
    """Changes how a loaded model computes in float32, as on a CPU; what it says stays the same."""
    if device.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return
    pack_linear_layers(model)
    if hasattr(model, "vision_model"):
        take_few_images(model.vision_model)


def pack_linear_layers(model: Any) -> None:
    """A weight that other modules read too stays as it is: it would lie in memory twice. So does one whose numbers its
    module reads, which names it among its `matrices`."""
    readers = Counter(id(own) for module in model.modules() for own in module.parameters(recurse=False))
    # without the layers themselves, so that each goes as soon as it is packed
    for module in [module for module in model.modules() if any(True for _ in module.children())]:
        for name, layer in list(module.named_children()):
            applied = type(layer) is torch.nn.Linear and name not in getattr(module, "matrices", ())
            if applied and layer.weight.dtype == torch.float32 and readers[id(layer.weight)] == 1:
                behind = ACTIVATED.get(name, "")
                activation = ACTIVATIONS.get(type(getattr(module, behind, None)), NO_ACTIVATION)
                if activation is not NO_ACTIVATION:
                    setattr(module, behind, torch.nn.Identity())
                setattr(module, name, PackedLinear(layer, activation))
                give_back_mapped(layer.weight.data_ptr(), layer.weight.nbytes)


def take_few_images(tower: Any) -> None:
    """Has a vision tower compute IMAGES_AT_ONCE after IMAGES_AT_ONCE."""
    of_few = tower.forward

    def of_all(pixel_values: torch.Tensor, **others: Any) -> BaseModelOutputWithPooling:
        parts = [of_few(pixel_values=part, **others) for part in pixel_values.split(IMAGES_AT_ONCE)]
        tokens, pooled = ([part[key] for part in parts] for key in ("last_hidden_state", "pooler_output"))
        return BaseModelOutputWithPooling(last_hidden_state=torch.cat(tokens), pooler_output=torch.cat(pooled))

    tower.forward = of_all
