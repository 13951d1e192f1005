"""Checkpoints to half precision, one block of one tensor at a time: no model is ever loaded.

Files are read with plain reads at the offsets of the safetensors header, not mapped into memory, so what stays
in memory is one block, whatever the size of the checkpoint or of its largest tensor.
"""

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from kernel.errors import UserError, first_line
from kernel.system.tensor_files import BLOCK_BYTES, ITEM_BYTES, Tensor, read_header, tensor_blocks, write_tensors

# how much of a mapped pickle may be read before it is mapped anew: mapped pages count as memory until then
REMAP_BYTES = 2**28
NARROWED = ("F32", "BF16")
NUMPY = {"F32": "<f4", "F16": "<f2"}


def convert_safetensors(source: Path, target: Path, full_precision: Sequence[str] = ()) -> str:
    """Writes `source`'s tensors to `target` in half precision; returns the sha256 of what was written.

    float32 and bfloat16 become float16, or float32 where a dotted part of the name is in `full_precision`;
    all else stays. Raises UserError on NaN, a value that float16 cannot hold, a dtype that is none of these, a full
    disk.
    """
    return write_converted(target, tensors_in(source), partial(tensor_blocks, source), full_precision)


def convert_pickle(source: Path, target: Path) -> str:
    """As convert_safetensors, from a flat state dict that torch saved. Its sha256 must have been checked before.

    Raises UserError too when it holds anything but tensors: nothing in it is run.
    """
    import torch

    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
             torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
             torch.bool: "BOOL"}  # fmt: skip
    state = open_pickle(source)
    tensors = [Tensor(name, names.get(own.dtype, str(own.dtype)), tuple(own.shape)) for name, own in state.items()]
    read = 0

    def blocks(tensor: Tensor) -> Iterator[bytes]:
        nonlocal state, read
        if read > REMAP_BYTES:
            # dropped before it is opened again, or both would be mapped
            state, read = {}, 0
            state = open_pickle(source)
        values = state[tensor.name].reshape(-1)
        count = BLOCK_BYTES // values.element_size()
        for start in range(0, len(values), count):
            yield values[start : start + count].contiguous().view(torch.uint8).numpy().tobytes()
        read += values.nbytes

    return write_converted(target, tensors, blocks, ())


def open_pickle(path: Path) -> dict[str, Any]:
    """{name: tensor}, mapped, not read."""
    import torch

    try:
        state = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: torch does not read it as plain weights ({first_line(error)}); nothing in it was run"
        ) from error
    flat = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not flat or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(
            f"{path}: not a flat dictionary of tensors, so its names cannot be the model's. Nothing was run"
        )
    return state


def tensors_in(path: Path) -> list[Tensor]:
    """Raises UserError when the file is no safetensors file, or a damaged one."""
    try:
        return read_header(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}. Remove it and run again, or pin another revision") from error


def write_converted(
    target: Path, tensors: Iterable[Tensor], blocks: Callable[[Tensor], Iterator[bytes]], full_precision: Sequence[str]
) -> str:
    sources = {tensor.name: tensor for tensor in tensors}
    targets = [Tensor(tensor.name, target_dtype(tensor, full_precision), tensor.shape) for tensor in sources.values()]

    def converted(tensor: Tensor) -> Iterator[bytes]:
        for block in blocks(sources[tensor.name]):
            yield recoded(block, sources[tensor.name].dtype, tensor.dtype, tensor.name)

    return write_checkpoint(target, targets, converted)


def target_dtype(tensor: Tensor, full_precision: Sequence[str]) -> str:
    if tensor.dtype not in ITEM_BYTES:
        raise UserError(
            f"{tensor.name} is of dtype {tensor.dtype}; expected one of {', '.join(ITEM_BYTES)}: it cannot be "
            "converted. This checkpoint is not the one that this version was made for"
        )
    if tensor.dtype not in NARROWED:
        return tensor.dtype
    return "F32" if any(part in full_precision for part in tensor.name.split(".")) else "F16"


def recoded(block: bytes, dtype: str, wanted: str, name: str) -> bytes:
    """The values of `block` in another dtype. Raises UserError for NaN, and when a finite value becomes infinite."""
    if dtype == "BF16":
        # bfloat16 is the upper half of a float32
        values = (np.frombuffer(block, "<u2").astype("<u4") << 16).view("<f4")
    elif dtype in NUMPY:
        values = np.frombuffer(block, NUMPY[dtype])
    else:
        return block
    with np.errstate(over="ignore"):
        recoded = values.astype(NUMPY[wanted], copy=False)
    # one look at all, for both: it is the only one where nothing is wrong
    if not all_finite(recoded):
        if np.isnan(recoded).any():
            raise UserError(
                f"{name}: holds NaN, which is no number: all that the model says would be NaN. This checkpoint is "
                "damaged; use the one whose revision is pinned"
            )
        lost = np.isinf(recoded) & np.isfinite(values)
        if lost.any():
            raise UserError(
                f"{name}: holds {values[lost][0]:g}, beyond float16's 65504: the model would give infinities. "
                "This checkpoint cannot be halved; use the one whose revision is pinned"
            )
    return block if dtype == wanted else recoded.tobytes()


def all_finite(values: np.ndarray) -> bool:
    if values.itemsize > 2:
        return bool(np.isfinite(values).all())
    # by their bits, of which the largest exponent is that of infinity and NaN: numpy's own look takes three times that
    return bool((values.view("<u2") & np.uint16(0x7FFF)).max(initial=0) < 0x7C00)


def write_checkpoint(path: Path, tensors: Sequence[Tensor], blocks: Callable[[Tensor], Iterable[bytes]]) -> str:
    """As write_tensors, told to be torch's. Raises UserError when the disk does not take it."""
    try:
        return write_tensors(path, tensors, blocks, {"format": "pt"})
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}), it takes "
            f"{sum(tensor.bytes for tensor in tensors) / 1e9:.2f} GB. Nothing was left under its name. Free space "
            "there or give --out another disk, then run again: finished files are kept"
        ) from error


def shard_index(shards: list[Path]) -> dict[str, Any]:
    """The index that transformers reads beside shards: which file holds which tensor.

    Raises UserError where two hold the same one: the values of which would be the model's is chance.
    """
    total = 0
    places: dict[str, str] = {}
    for shard in shards:
        for tensor in tensors_in(shard):
            if tensor.name in places:
                raise UserError(
                    f"{shard}: holds {reprlib.repr(tensor.name)}, as {places[tensor.name]} does: nobody knows which of "
                    "the two is the model's. This checkpoint is damaged; pin another revision"
                )
            places[tensor.name] = shard.name
            total += tensor.bytes
    return {"metadata": {"total_size": total}, "weight_map": places}
