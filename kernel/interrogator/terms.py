"""The phrases that take part in a description, bank by bank, and their features in one table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kernel.banks.word_banks import Phrases, features_file, rank, read_features, read_phrases
from kernel.errors import UserError, did_you_mean
from kernel.interrogator.bans import allowed
from kernel.interrogator.korean import korean_banks
from kernel.interrogator.request import MERGED, NEGATIVE, Request
from kernel.models.weights_folder import Weights

# clip-interrogator 0.6.0: rows compared at a time, and the terms that a chain may choose from
CHUNK = SHORTLIST = 2048
# float32 rounding of a product taken for many images at once beside that for one
CLOSE = 1e-6


def chosen_banks(request: Request, weights: Weights) -> list[Phrases]:
    """The banks of the weights folder and the user's own, but for those left out, in the order of the merged table.

    Mode negative takes the flavors, the user's added banks and, last, the negative one; the others all but that. Raises
    UserError when a file is no list, a name is none, or nothing is left.
    """
    banks = korean_banks(request, weights) if request.language == "ko" else english_banks(request, weights)
    if not any(allowed(words.phrases, request.banned) for words in banks):
        raise UserError(f"mode {request.mode}: every term holds a banned word. Ban fewer of them")
    return banks


def english_banks(request: Request, weights: Weights) -> list[Phrases]:
    """As `chosen_banks`, in English."""
    folder = weights.folder / "word_banks"
    shipped = [name for name in (*MERGED, NEGATIVE) if (folder / f"{name}.txt").is_file()]
    for name in request.without:
        if name not in (*MERGED, NEGATIVE, *request.own):
            valid = [*shipped, *request.own]
            raise UserError(f"no word bank {name!r} to leave out{did_you_mean(name, valid)}. Valid: {', '.join(valid)}")
    taking_part = ("flavors", *(name for name in request.own if name not in (*MERGED, NEGATIVE)), NEGATIVE)
    if request.mode != "negative":
        taking_part = (*MERGED, *taking_part[1:-1])
    banks = []
    for name in taking_part:
        if name not in request.without and (name in shipped or name in request.own):
            path = Path(request.own[name]) if name in request.own else folder / f"{name}.txt"
            banks.append(with_ways(replace(read_phrases(path), name=name)))
    if not banks:
        raise UserError(
            f"mode {request.mode}: no word bank is left that it could take terms of; {weights.folder} holds "
            f"{', '.join(shipped) or 'none'}. Leave out fewer of them, or add one with --words FILE"
        )
    return banks


def with_ways(words: Phrases) -> Phrases:
    """Artists' names as "by NAME", then as "inspired by NAME"; lines that say so already stay as they are."""
    if words.name != "artists":
        return words
    ways = [
        artist if artist.startswith(("by ", "inspired by ")) else f"{way} {artist}"
        for way in ("by", "inspired by")
        for artist in words.phrases
    ]
    return replace(words, phrases=list(dict.fromkeys(ways)))


class TermTable:
    """Every bank's phrases and unit features (p, d), float32, behind one another; each bank is a part of the rows."""

    def __init__(
        self, banks: Sequence[Phrases], clip_sha256: str, folders: Sequence[Path], banned: Sequence[str] = ()
    ) -> None:
        parts, self.rows, start = [], {}, 0
        self.phrases: list[str] = []
        for words in banks:
            path = features_file(words, clip_sha256, folders)
            assert path is not None  # encoded before
            kept, features = allowed(words.phrases, banned), read_features(words, path)
            parts.append(features[kept] if banned else features)
            self.rows[words.name] = (start, start + len(kept))
            start += len(kept)
            self.phrases += [words.phrases[row] for row in kept]
        self.features = np.concatenate(parts)

    def part(self, names: Sequence[str]) -> tuple[int, int]:
        """First and last row + 1 of banks that lie behind one another; (0, 0) when there are none of these."""
        own = [self.rows[name] for name in names if name in self.rows]
        return (min(start for start, _ in own), max(stop for _, stop in own)) if own else (0, 0)

    @property
    def positive(self) -> tuple[int, int]:
        return self.part([name for name in self.rows if name != NEGATIVE])

    def bank_of(self, row: int) -> str:
        return next(name for name, (start, stop) in self.rows.items() if start <= row < stop)

    def best(self, image_features: np.ndarray, part: tuple[int, int], count: int) -> list[list[tuple[int, float]]]:
        """Of each image (n, d) the `count` best rows of this part with their cosines, best first."""
        start, stop = part
        if start == stop:
            return [[] for _ in image_features]
        # one more than asked shows whether the last one was close
        indices, cosines = rank(image_features, self.features[start:stop], count + 1)
        for number in np.flatnonzero((cosines[:, :-1] - cosines[:, 1:] < CLOSE).any(axis=1)):
            order = self.order_of_original(image_features[number], start, stop, count)
            indices[number, : len(order)] = order
            cosines[number, : len(order)] = self.features[start:stop][order] @ image_features[number]
        return [
            [(start + int(row), float(cosine)) for row, cosine in zip(*both, strict=True)]
            for both in zip(indices[:, :count], cosines[:, :count], strict=True)
        ]

    def order_of_original(self, features: np.ndarray, start: int, stop: int, count: int) -> np.ndarray:
        """The best rows of a part for one image, counted from `start`, in the order of clip-interrogator 0.6.0.

        Terms such as "1890s" and "1 8 9 0 s" have the same tokens, so the same features; which of them comes first is
        left to torch's `topk`. Only its own steps give its own order: the best of each CHUNK rows, then of these.
        """
        import torch

        bank, image = torch.from_numpy(self.features[start:stop]), torch.from_numpy(features[None])
        if len(bank) <= CHUNK:
            return (image @ bank.T).topk(min(count, len(bank))).indices[0].numpy()
        keep = max(1, CHUNK // -(-len(bank) // CHUNK))
        chosen = torch.cat([
            first + (image @ part.T).topk(min(keep, len(part))).indices[0]
            for first, part in zip(range(0, len(bank), CHUNK), bank.split(CHUNK), strict=True)
        ])  # fmt: skip
        return chosen[(image @ bank[chosen].T).topk(min(count, len(chosen))).indices[0]].numpy()

    def shortlist(self, image_features: np.ndarray, part: tuple[int, int], reverse: bool = False) -> list[list[int]]:
        """Of each image the rows from which a chain chooses, most fitting first; with `reverse` the least fitting.

        As clip-interrogator 0.6.0 does it: a part of up to CHUNK rows gives all of them, a larger one the best of each
        CHUNK rows, as many of each as make SHORTLIST in all. Its chains see these terms and no others, so the same ones
        are taken here.
        """
        start, stop = part
        sign = np.float32(-1 if reverse else 1)
        chunks = -(-(stop - start) // CHUNK)
        keep = SHORTLIST if chunks <= 1 else max(1, SHORTLIST // chunks)
        rows: list[list[tuple[float, int]]] = [[] for _ in image_features]
        for first in range(start, stop, CHUNK):
            indices, cosines = rank(sign * image_features, self.features[first : min(first + CHUNK, stop)], keep)
            for own, found, values in zip(rows, indices, cosines, strict=True):
                own.extend(zip((-values).tolist(), (first + found).tolist(), strict=True))
        return [[row for _, row in sorted(own)] for own in rows]
