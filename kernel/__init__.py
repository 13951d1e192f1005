"""Offline image-to-prompt kernel: images in, prompt embeddings out, no network anywhere.

From a notebook or a script:

    import kernel
    record = kernel.run("images", "RUN", recipe="text")
    kernel.show("RUN")
    kernel.show("RUN", n=6, prompts="prompts.csv")
    kernel.evaluate("RUN/submission.csv", "prompts.csv").mean
    kernel.describe("images", mode="fast")[0]["prompt"]
    print(kernel.plan("T4x2", images=16000))
    kernel.serve().address

Nothing heavy is imported before it is used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel.commands.api import describe, evaluate, plan, run, serve, show
    from kernel.config import Recipe
    from kernel.sidecars.asked import Sidecars

# Without it MKL, whose matrix products torch takes on a CPU, sums in another order where memory is aligned otherwise
# (oneMKL's developer guide, "Obtaining Numerically Reproducible Results"): the last bits of an interrupted
# run's rows may differ. MKL reads it at its first product.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.2.0"
__all__ = ["Recipe", "Sidecars", "describe", "evaluate", "plan", "run", "serve", "show"]
HOMES = {
    "Recipe": "kernel.config",
    "Sidecars": "kernel.sidecars.asked",
    **dict.fromkeys(("describe", "evaluate", "plan", "run", "serve", "show"), "kernel.commands.api"),
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'kernel' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(HOMES[name]), name)
