"""Tier `lora`: beside each weight matrix of a tower two narrow ones learn (Hu et al. 2021), by peft; afterwards they
are added to it, so that what is shipped is the tower's own tensors and needs no peft."""

from typing import Any

import torch

from kernel.errors import UserError


def require_peft() -> None:
    """Raises UserError without it, before anything takes long."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tier lora: peft cannot be imported ({error}). Install it: pip install 'image-to-prompts-kernel[lora]'"
        ) from error


def add_adapters(tower: Any, rank: int, seed: int) -> Any:
    """Adapters of `rank` beside every linear layer and every attention of `tower`, in place, beside every dense
    convolution where it has none of these; nothing else of it learns. Returns what `merged` takes. The tower's answers
    are as before: one of each two matrices begins as zeros."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from peft.tuners.lora import torchao as peft_torchao

    # peft refuses every linear layer where an older torchao is installed, as on Kaggle; none of ours is quantized by it
    peft_torchao.is_torchao_available = lambda: False  # type: ignore[assignment]
    torch.manual_seed(seed)
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=adapted_layers(tower))
    return LoraModel(tower, settings, "default")


def adapted_layers(tower: Any) -> list[str]:
    layers = dict(tower.named_modules())
    attentions = [name for name, own in layers.items() if isinstance(own, torch.nn.MultiheadAttention)]
    within = tuple(f"{name}." for name in attentions)  # an attention's own projection is adapted with it
    linear = [name for name, own in layers.items() if isinstance(own, torch.nn.Linear) and not name.startswith(within)]
    dense = [name for name, own in layers.items() if isinstance(own, torch.nn.Conv2d) and own.groups == 1]
    return attentions + linear or dense


def merged(adapters: Any) -> Any:
    """The tower with the tensors that it had before, changed by what its adapters learned."""
    return adapters.merge_and_unload()
