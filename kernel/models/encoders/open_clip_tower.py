"""CLIP's vision tower as timm's tools know models: which of its tensors belong to which layer."""

from typing import Any

import torch


class OpenClipTower(torch.nn.Module):
    """Pixels (n, 3, h, w) to unit rows (n, d)."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.visual(pixels), dim=-1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """By timm's rule: the stem first, then block after block, then what pools and projects."""
        return {
            "stem": r"^visual\.(?:conv1|class_embedding|positional_embedding|ln_pre)",
            "blocks": [(r"^visual\.transformer\.resblocks\.(\d+)", None), (r"^visual\.(?:ln_post|proj)", (99999,))],
        }
