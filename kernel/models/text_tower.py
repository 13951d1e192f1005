"""CLIP's text tower for thousands of texts that begin alike, as those of one round of a chain do.

A text's tokens see only those before them, so what the tower makes of a common beginning is the same in every text. It
is computed once, and of each text only its own end, which attends to the beginning's keys and values.
"""

from typing import Any

import numpy as np

from kernel.models.clip import ClipEncoder

# tokens of texts' ends in one pass: on a CPU few enough to stay in its cache
TOKENS = {"cpu": 4096, "cuda": 65_536}


class TextTower:
    """Cosines of texts to images; equal to those of `ClipEncoder.encode_texts` but for rounding."""

    def __init__(self, clip: ClipEncoder, batch: int) -> None:
        self.clip, self.batch = clip, batch
        self.shares_beginnings = shares_beginnings(clip)
        self.known: dict[str, list[int]] = {}

    def is_full(self, text: str) -> bool:
        """Whether a text takes all the tokens that CLIP reads."""
        return bool(self.clip.tokenizer([text])[0][-1] != 0)

    def cosines(self, texts: list[str], image_features: np.ndarray) -> np.ndarray:
        """Of n texts to n images (n, d), each to its own -> (n,)."""
        if not texts:
            return np.zeros(0, dtype=np.float32)
        return (self.clip.encode_texts(texts, self.batch) * image_features).sum(axis=1)

    def similarities(self, starts: list[str], terms: list[list[str]], image_features: np.ndarray) -> list[np.ndarray]:
        """Of each image (n, d) the cosines of "START, TERM" for every term; of the terms alone where START is empty."""
        if not self.shares_beginnings:
            return [self.whole(start, own, row) for start, own, row in zip(starts, terms, image_features, strict=True)]
        split = [self.split(start, own) for start, own in zip(starts, terms, strict=True)]
        beginnings = [beginning for beginning, _ in split]
        found = self.ends(beginnings, [[end or [0] for end in ends] for _, ends in split], image_features)
        for image, (_, ends) in enumerate(split):
            odd = [number for number, end in enumerate(ends) if not end]
            if odd:
                texts = [terms[image][number] for number in odd]
                found[image][odd] = self.whole(starts[image], texts, image_features[image])
        return found

    def whole(self, start: str, terms: list[str], features: np.ndarray) -> np.ndarray:
        return self.clip.encode_texts([joined(start, term) for term in terms], self.batch) @ features

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

    def ends(self, beginnings: list[list[int]], ends: list[list[list[int]]], image_features: np.ndarray) -> Any:
        """Cosines of every end behind its image's beginning to that image: a list of (ends,) arrays.

        The images go through the tower together, ends of about one length at a time.
        """
        import torch

        device = self.clip.device.name
        found = [np.zeros(len(own), dtype=np.float32) for own in ends]
        orders = [np.argsort([len(end) for end in own], kind="stable") for own in ends]
        images = torch.from_numpy(np.ascontiguousarray(image_features)).to(device)
        with torch.inference_mode():
            beginning = Beginning(self.clip.model, padded(beginnings, device), [len(own) for own in beginnings])
            start = 0
            while start < max(map(len, orders)):
                longest = max(
                    len(own[order[min(start, len(order) - 1)]]) for own, order in zip(ends, orders, strict=True)
                )
                count = max(1, TOKENS[device.partition(":")[0]] // (len(ends) * longest))
                parts = [order[start : start + count] for order in orders]
                count = max(map(len, parts))
                filled = [[*(own[row] for row in part), *[[0]] * (count - len(part))]
                          for own, part in zip(ends, parts, strict=True)]  # fmt: skip
                cosines = beginning.cosines(filled, images)
                for own, part, row in zip(found, parts, cosines, strict=True):
                    own[part] = row[: len(part)]
                start += count
        return found


def shares_beginnings(clip: ClipEncoder) -> bool:
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


def padded(rows: list[list[int]], device: str) -> Any:
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


class Beginning:
    """Keys and values of each image's beginning in every layer; ends are computed behind them.

    Shapes: n images, P tokens of the longest beginning, C ends an image, L tokens of the longest end, H heads.
    """

    def __init__(self, model: Any, ids: Any, lengths: list[int]) -> None:
        import torch

        self.model, self.blocks = model, model.transformer.resblocks
        self.dtype = model.transformer.get_cast_dtype()
        self.lengths = torch.tensor(lengths, device=ids.device)
        # True where an end's token may look: at tokens that this image's beginning has
        self.seen = torch.arange(ids.shape[1], device=ids.device) < self.lengths[:, None]
        self.keys, self.values = [], []
        states = self.embedded(ids, torch.arange(ids.shape[1], device=ids.device))
        for number, block in enumerate(self.blocks):
            queries, keys, values = heads(block, states)
            self.keys.append(keys)
            self.values.append(values)
            if number < len(self.blocks) - 1:
                attended = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
                states = finished(block, states, attended)

    def embedded(self, ids: Any, positions: Any) -> Any:
        return (
            self.model.token_embedding(ids).to(self.dtype) + self.model.positional_embedding.to(self.dtype)[positions]
        )

    def cosines(self, ends: list[list[list[int]]], images: Any) -> Any:
        """Ends (n x C lists of ids, whose last is the end token) to images (n, d) -> (n, C) array."""
        import torch

        count, device = len(ends[0]), images.device
        ids = padded([end for own in ends for end in own], device)
        length = ids.shape[1]
        last = torch.tensor([len(end) - 1 for own in ends for end in own], device=device)
        positions = self.lengths[:, None] + torch.arange(length, device=device)
        positions = positions.clamp(max=len(self.model.positional_embedding) - 1)  # beyond an end nothing is read
        states = self.embedded(ids, positions.repeat_interleave(count, dim=0))
        states = states.view(len(ends), count * length, -1)
        for block, keys, values in zip(self.blocks, self.keys, self.values, strict=True):
            attended = self.attended(heads(block, states), keys, values, count)
            states = finished(block, states, attended)
        states = states.view(len(ends) * count, length, -1)[torch.arange(len(last), device=device), last]
        features = self.model.ln_final(states)
        projection = self.model.text_projection
        features = projection(features) if isinstance(projection, torch.nn.Linear) else features @ projection
        features = torch.nn.functional.normalize(features.float(), dim=-1).view(len(ends), count, -1)
        return (features @ images[:, :, None])[..., 0].cpu().numpy()

    def attended(self, own: tuple[Any, Any, Any], keys: Any, values: Any, count: int) -> Any:
        """Attention of ends' tokens (n, H, C x L, D) to their beginning and, causally, to their own end."""
        import torch

        queries, own_keys, own_values = own
        images, number, tokens, width = queries.shape
        length = tokens // count
        by_end = (images, number, count, length, width)
        scale = width**-0.5
        before = (queries @ keys.transpose(-1, -2) * scale).float()
        before.masked_fill_(~self.seen[:, None, None, :], float("-inf"))
        within = (queries.view(by_end) @ own_keys.view(by_end).transpose(-1, -2) * scale).float()
        later = torch.ones(length, length, dtype=torch.bool, device=queries.device).triu(1)
        within = within.masked_fill(later, float("-inf")).view(images, number, tokens, length)
        weights = torch.cat([before, within], dim=-1).softmax(dim=-1).to(values.dtype)
        to_before, to_own = weights.split([keys.shape[2], length], dim=-1)
        mixed = to_own.reshape(images, number, count, length, length) @ own_values.view(by_end)
        return to_before @ values + mixed.view(queries.shape)


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
