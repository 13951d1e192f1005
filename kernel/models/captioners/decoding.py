"""Words one after the other for models that transformers' `generate` does not know: by beams, or drawn.

Nothing is kept from step to step: `next_scores` sees all words so far again.
"""

from collections.abc import Callable
from typing import Any

NextScores = Callable[[Any], Any]


def beam_search(
    next_scores: NextScores, images: int, beams: int, start: int, end: int, longest: int
) -> list[list[Any]]:
    """For each image its `beams` best rows of tokens, best first, without `start` and `end`.

    `next_scores` takes rows (images x beams, tokens) and returns log probabilities (images x beams, vocabulary) of what
    comes next. A row's score is the sum of its words' over their number, `end` among them, as transformers counts with
    its length penalty of 1. An image's search ends when no open row betters its `beams` finished ones, whatever is
    beside it; at the last word open rows count as they are.
    """
    import torch

    rows = torch.full((images * beams, 1), start)
    totals = torch.full((images, beams), float("-inf"))
    totals[:, 0] = 0.0
    finished: list[list[tuple[float, Any]]] = [[] for _ in range(images)]
    over = [False] * images  # no row is taken any more, however long the images beside it go on
    for length in range(1, longest):
        said = next_scores(rows).float().cpu()
        candidates = (totals.view(-1, 1) + said).view(images, -1)
        best, places = candidates.topk(min(2 * beams, candidates.shape[1]))
        kept: list[int] = []
        for image in range(images):
            open_rows = 0
            for rank, (total, place) in enumerate(zip(best[image].tolist(), places[image].tolist(), strict=True)):
                row, token = image * beams + place // said.shape[1], place % said.shape[1]
                if token == end:
                    if rank < beams and total > float("-inf") and not over[image]:
                        finished[image].append((total / length, rows[row, 1:]))
                elif open_rows < beams:
                    kept += [row, token]
                    totals[image, open_rows] = total
                    open_rows += 1
            finished[image] = sorted(finished[image], key=lambda own: -own[0])[:beams]
        chosen = torch.tensor(kept).view(-1, 2)
        rows = torch.cat([rows[chosen[:, 0]], chosen[:, 1:]], dim=1)
        for n, own in enumerate(finished):
            over[n] = over[n] or (len(own) == beams and own[-1][0] >= float(totals[n, 0]) / length)
        if all(over):
            break
    for image, own in enumerate(finished):
        unfinished = [(float(totals[image, n]) / max(1, rows.shape[1] - 1), rows[image * beams + n, 1:])
                      for n in range(beams)]  # fmt: skip
        finished[image] = sorted([*own, *([] if over[image] else unfinished)], key=lambda each: -each[0])[:beams]
    return [[row for _, row in own] for own in finished]


def drawn(next_scores: NextScores, rows: int, start: int, end: int, longest: int, top_p: float) -> list[Any]:
    """`rows` rows of tokens without `start` and `end`, each word drawn by torch's seed from the likeliest that have
    together the probability `top_p`."""
    import torch
    from transformers import TopPLogitsWarper

    likeliest = TopPLogitsWarper(top_p)
    tokens = torch.full((rows, 1), start)
    ended = torch.zeros(rows, dtype=torch.bool)
    for _ in range(1, longest):
        scores = likeliest(tokens, next_scores(tokens).float().cpu())
        new = torch.multinomial(scores.softmax(dim=-1), 1)
        new[ended] = end
        tokens = torch.cat([tokens, new], dim=1)
        ended |= new[:, 0] == end
        if ended.all():
            break
    return [row[1:][row[1:] != end] for row in tokens]
