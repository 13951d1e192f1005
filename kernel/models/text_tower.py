"""CLIP's text tower for thousands of texts that begin alike, as those of one round of a chain do.

A text's tokens see only those before them, so what the tower makes of a common beginning is the same in every text. It
is computed once, and of each text only its own end, which attends to the beginning's keys and values.
"""

from typing import Any

import numpy as np

from kernel.models.clip import ClipEncoder
from kernel.models.multilingual.encoder import MultilingualClip

# tokens of texts' ends in one pass, each of which takes a copy of its beginning's keys and values; few enough on a CPU
# to stay in its cache
TOKENS = {"cpu": 1024, "cuda": 16_384}


class TextTower:
    """Cosines of texts to images; equal to those of `ClipEncoder.encode_texts` but for rounding."""

    def __init__(self, clip: ClipEncoder | MultilingualClip, batch: int) -> None:
        self.clip, self.batch = clip, batch
        self.shares_beginnings = shares_beginnings(clip)
        self.known: dict[str, list[int]] = {}

    def is_full(self, text: str) -> bool:
        """Whether a text takes all the tokens that CLIP reads."""
        return self.clip.is_full(text)

    def cosines(self, texts: list[str], image_features: np.ndarray) -> np.ndarray:
        """Of n texts to n images (n, d), each to its own -> (n,)."""
        if not texts:
            return np.zeros(0, dtype=np.float32)
        return (self.clip.encode_texts(texts, self.batch) * image_features).sum(axis=1)

    def similarities(self, starts: list[str], terms: list[list[str]], image_features: np.ndarray) -> list[np.ndarray]:
        """Of each image (n, d) the cosines of "START, TERM" for every term; of the terms alone where START is empty."""
        return [self.of_image(start, own, row) for start, own, row in zip(starts, terms, image_features, strict=True)]

    def of_image(self, start: str, terms: list[str], features: np.ndarray) -> np.ndarray:
        """The terms' cosines to one image, (d,): those of about one length go through the tower together."""
        import torch

        beginning, ends = self.split(start, terms) if self.shares_beginnings else ([], [[] for _ in terms])
        found = np.zeros(len(terms), dtype=np.float32)
        whole = [number for number, end in enumerate(ends) if not end]
        if whole:
            texts = [joined(start, terms[number]) for number in whole]
            found[whole] = self.clip.encode_texts(texts, self.batch) @ features
        order = sorted((number for number, end in enumerate(ends) if end), key=lambda number: -len(ends[number]))
        if order:
            device = self.clip.device.name
            with torch.inference_mode():
                shared = Beginning(self.clip.model, torch.tensor([beginning], device=device))
                image = torch.from_numpy(features).to(device)
                while order:
                    count = max(1, TOKENS[device.partition(":")[0]] // len(ends[order[0]]))
                    part, order = order[:count], order[count:]
                    found[part] = (shared.features([ends[number] for number in part]) @ image).cpu().numpy()
        return found

    def split(self, start: str, terms: list[str]) -> tuple[list[int], list[list[int]]]:
        """Token ids of the beginning that all the texts share, and of each text what follows up to its end token.

        A text gets an empty end when its tokens do not begin with these: as where `ftfy` mends characters across the
        border, which it may in texts that are not ASCII.
        """
        tokenizer, length = self.clip.tokenizer, self.clip.tokenizer.context_length
        beginning = [tokenizer.sot_token_id, *(tokenizer.encode(f"{start},") if start else [])]
        plain = is_plain(start)
        ends = []
        for term in terms:
            if plain and is_plain(term):
                own = self.known.get(term)
                if own is None:
                    own = self.known[term] = tokenizer.encode(term)
                ids = [*beginning, *own]
            else:
                ids = [tokenizer.sot_token_id, *tokenizer.encode(joined(start, term))]
            ids = [*ids[: length - 1], tokenizer.eot_token_id]
            # CLIP's feature is that of the first end token, and what stands behind it is seen by nobody before
            ids = ids[: ids.index(tokenizer.eot_token_id) + 1]
            common = beginning[: length - 1]
            ends.append(ids[len(common) :] if ids[: len(common)] == common else [])
        return beginning[: length - 1], ends


def shares_beginnings(clip: ClipEncoder | MultilingualClip) -> bool:
    """Whether this is the tower that `Beginning` computes: plain blocks, causal, read at the end token."""
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import ResidualAttentionBlock

    model, tokenizer = clip.model, clip.tokenizer
    return (
        isinstance(tokenizer, SimpleTokenizer)
        and tokenizer.reduction_fn is None
        and model.attn_mask is not None
        and model.text_pool_type == "argmax"
        and all(type(block) is ResidualAttentionBlock for block in model.transformer.resblocks)
    )


def joined(start: str, term: str) -> str:
    return f"{start}, {term}" if start else term


def is_plain(text: str) -> bool:
    """Whether the tokens of a text that follows on another with a blank are its own: nothing mends or unescapes it."""
    return text.isascii() and text.isprintable() and "&" not in text


class Beginning:
    """Keys and values of a beginning in every layer; ends are computed behind them.

    Shapes: P tokens of the beginning, C ends, L tokens of the longest end.
    """

    def __init__(self, model: Any, ids: Any) -> None:
        from torch.nn.functional import scaled_dot_product_attention

        self.model, self.device, self.length = model, ids.device, ids.shape[1]
        self.layers = []
        states = self.embedded(ids, 0)
        for block in model.transformer.resblocks:
            queries, keys, values = heads(block, states)
            self.layers.append((block, keys, values))
            states = finished(block, states, scaled_dot_product_attention(queries, keys, values, is_causal=True))

    def embedded(self, ids: Any, first: int) -> Any:
        """Token ids (n, T), the first of which stands at this place of its text -> (n, T, w)."""
        kind = self.model.transformer.get_cast_dtype()
        places = self.model.positional_embedding.to(kind)[first : first + ids.shape[1]]
        return self.model.token_embedding(ids).to(kind) + places

    def features(self, ends: list[list[int]]) -> Any:
        """C lists of ids, whose last is the end token -> (C, d) float32 unit rows, a tensor."""
        import torch

        count, length = len(ends), max(map(len, ends))
        ids = torch.tensor([[*end, *[0] * (length - len(end))] for end in ends], device=self.device)
        states = self.embedded(ids, self.length)
        # True where an end's token may look: at the whole beginning, and at its own end up to itself
        seen = torch.ones(length, self.length + length, dtype=torch.bool, device=self.device).tril(self.length)
        for block, *before in self.layers:
            queries, *own = heads(block, states)
            keys, values = (
                torch.cat([old.expand(count, -1, -1, -1), new], dim=2) for old, new in zip(before, own, strict=True)
            )
            attended = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
            states = finished(block, states, attended)
        last = states[torch.arange(count), [len(end) - 1 for end in ends]]
        features, projection = self.model.ln_final(last), self.model.text_projection
        features = projection(features) if isinstance(projection, torch.nn.Linear) else features @ projection
        return torch.nn.functional.normalize(features.float(), dim=-1)


def heads(block: Any, states: Any) -> tuple[Any, Any, Any]:
    """Queries, keys and values of states (n, T, w), each (n, H, T, w / H)."""
    import torch

    attention = block.attn
    mixed = torch.nn.functional.linear(block.ln_1(states), attention.in_proj_weight, attention.in_proj_bias)
    shape = (*states.shape[:2], attention.num_heads, -1)
    queries, keys, values = (part.reshape(shape).transpose(1, 2).contiguous() for part in mixed.chunk(3, dim=-1))
    return queries, keys, values


def finished(block: Any, states: Any, attended: Any) -> Any:
    """What a block makes of states (n, T, w) when this is what its heads attended to."""
    attended = attended.transpose(1, 2).reshape(states.shape)
    states = states + block.ls_1(block.attn.out_proj(attended))
    return states + block.ls_2(block.mlp(block.ln_2(states)))
