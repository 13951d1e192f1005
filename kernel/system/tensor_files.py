"""safetensors files without the library that loads them: a header read, and tensors written block by block.

So what stays in memory is one block, whatever the size of the file or of its largest tensor.
"""

import hashlib
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from kernel.system.files import whole_file
from kernel.system.opening import open_file

BLOCK_BYTES = 2**26
MOST_SAID = 200  # characters of a header in one line
MOST_HEADER_BYTES = 2**24  # 100 bytes for each of 160,000 tensors; a shard of 9 GB has a few hundred kB
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file: its dtype in safetensors' words, its shape, where its bytes begin."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> list[Tensor]:
    """The tensors of a safetensors file in the order of their bytes, which follow each other without gap or overlap.

    Raises ValueError that says what is wrong, a name that stands twice included: libraries take the last and tell
    nobody. Whether a dtype is one of ITEM_BYTES is left to who reads on.
    """
    size = path.stat().st_size
    try:
        with open_file(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, MOST_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes, the file has {size}")
            header = json.loads(file.read(length).decode(), object_pairs_hook=named_once)
        if not all(type(value) is str for value in header.pop("__metadata__", {}).values()):
            raise ValueError("its metadata are no words")
        found = [(name, entry["dtype"], entry["shape"], *entry["data_offsets"]) for name, entry in header.items()]
        found.sort(key=lambda own: own[3:])
        tensors = []
        place = 0
        for name, dtype, shape, begin, end in found:
            sound = type(dtype) is str and type(shape) is list
            sound = sound and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
            tensor = Tensor(name, dtype, tuple(shape), 8 + length + begin)
            if not sound or not begin == place <= end or (dtype in ITEM_BYTES and end - begin != tensor.bytes):
                raise ValueError(f"{name} of {dtype} {shape} at {begin} to {end}"[:MOST_SAID])
            tensors.append(tensor)
            place = end
            if 8 + length + end > size:
                break
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"named safetensors but is not (a renamed pickle?): {error!r}") from error
    if 8 + length + place > size:
        raise ValueError(f"ends before {reprlib.repr(tensors[-1].name)} does: it is incomplete")
    if 8 + length + place < size:
        raise ValueError(f"{size} bytes, its header says {8 + length + place}")
    return tensors


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def tensor_blocks(path: Path, tensor: Tensor) -> Iterator[bytes]:
    """The bytes of a tensor of the file, of BLOCK_BYTES each but the last."""
    with path.open("rb") as file:
        file.seek(tensor.start)
        for start in range(0, tensor.bytes, BLOCK_BYTES):
            yield file.read(min(BLOCK_BYTES, tensor.bytes - start))


def header_of(tensors: Iterable[Tensor], metadata: dict[str, str]) -> tuple[bytes, list[Tensor]]:
    """The head of a file, and its tensors in the order in which their bytes follow.

    Wide items first, as the format's own writer does: each tensor then begins at a multiple of its item.
    """
    ordered = sorted(tensors, key=lambda tensor: (-ITEM_BYTES[tensor.dtype], tensor.name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for tensor in ordered:
        offsets = [offset, offset + tensor.bytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ordered


def write_tensors(
    path: Path, tensors: Iterable[Tensor], blocks: Callable[[Tensor], Iterable[bytes]], metadata: dict[str, str]
) -> str:
    """Writes a safetensors file, header first, then each tensor's blocks; returns its sha256.

    The file stands under its name only when it is whole. Raises ValueError when a tensor's blocks are not its bytes.
    """
    head, ordered = header_of(tensors, metadata)
    digest = hashlib.sha256(head)
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        file.write(head)
        for tensor in ordered:
            written = 0
            for block in blocks(tensor):
                digest.update(block)
                written += file.write(block)
            if written != tensor.bytes:
                raise ValueError(f"{path}: {written} bytes of {tensor.name}; expected {tensor.bytes}")
    return digest.hexdigest()
