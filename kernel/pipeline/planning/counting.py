"""Operations and memory of a call, counted operation by operation as torch dispatches it.

Operations are those of torch.utils.flop_counter: two for every multiply-add, attention included. Memory is followed
tensor by tensor. On the meta device torch decomposes attention into plain products, so its score matrices count in
full: the kernels of a GPU never hold them all, and the peak is an upper bound.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """One forward pass of one item: operations in half precision, operations in float32, peak activation bytes."""

    half_operations: int = 0
    single_operations: int = 0
    activation_bytes: int = 0

    @property
    def operations(self) -> int:
        return self.half_operations + self.single_operations


def count(forward: Callable[[], Any], half: bool) -> Work:
    """Operations and peak activation bytes of one call without gradients; what it is given is not counted.

    torch's FlopCounterMode attributes operations to modules, not to dtypes, so its formulas are asked here one by one.
    `half` says that attention's own products (bmm) run in half precision: torch decomposes them to float32 here, which
    the kernels of a GPU do not.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    half_operations = single_operations = 0
    living: set[int] = set()
    now = peak = 0

    def let_go(key: int, size: int) -> None:
        nonlocal now
        living.discard(key)
        now -= size

    def storages(tree: Any) -> list[Any]:
        return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]

    class Follower(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal now, peak, half_operations, single_operations
            kwargs = kwargs or {}
            result = func(*args, **kwargs)
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                operations = formula(*args, **kwargs, out_val=result)
                if result.dtype == torch.float16 or (half and func._overloadpacket is torch.ops.aten.bmm):
                    half_operations += operations
                else:
                    single_operations += operations
            given = {id(storage) for storage in storages((args, kwargs))}
            for storage in storages(result):
                key, size = id(storage), storage.nbytes()
                if key not in living and key not in given:
                    living.add(key)
                    now += size
                    weakref.finalize(storage, let_go, key, size)
            peak = max(peak, now)
            return result

    with torch.no_grad(), Follower():
        forward()
    return Work(half_operations, single_operations, peak)
