"""Tier `head`: from frozen features to MiniLM's space. Ridge regression is the floor; above it stands
Linear-BN-ReLU-Linear by cosine loss, which is handed out only where it is better on the validation pairs.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernel.models.encoders.output_head import OutputHead
from kernel.models.linear_head import REGULARISATIONS, Gram, Head, held_out_errors, ridge

EPOCHS = 20
BATCH = 4096
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2
HIDDEN = 2048
STEPS = 400  # at least, however few the pairs: of these an epoch is gone through several times
SEED = 0


@dataclass(frozen=True)
class Rows:
    """Features (n, d) and the unit rows (n, 384) of the prompts that they should become."""

    features: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Tried:
    """A head that was fitted on the training pairs, and its mean cosine on the validation pairs."""

    name: str
    head: OutputHead
    validation: float


def mean_cosine(head: OutputHead, rows: Rows) -> float:
    return float(np.einsum("nd,nd->n", head.apply(rows.features).astype(np.float64), rows.truth).mean())


def fit_ridge(train: Rows, validation: Rows) -> Tried:
    """Of the regularisations that with the least error on the validation pairs, which are fitted on by nobody: what is
    trained from here on is judged by them too."""
    own, other = gram_of(train), gram_of(validation)
    errors = held_out_errors(own, other, REGULARISATIONS, noise=0)
    head = one_layer(ridge(own, REGULARISATIONS[int(np.argmin(errors))]))
    return Tried("ridge", head, mean_cosine(head, validation))


def gram_of(rows: Rows) -> Gram:
    gram = Gram(rows.features.shape[1], rows.truth.shape[1])
    gram.add(rows.features, rows.truth)
    return gram


def one_layer(fitted: Head) -> OutputHead:
    weights = fitted.weights.T.astype(np.float64)
    bias = fitted.embedding_mean - weights @ fitted.feature_mean
    return OutputHead(((weights.astype(np.float32), bias.astype(np.float32)),))


def fit_two_layers(train: Rows, validation: Rows, hidden: int = HIDDEN) -> Tried:
    """Linear-BN-ReLU-Linear on standardised features, AdamW under a cosine schedule; the best epoch, the normalisation
    folded into the first layer. The same numbers whenever it is called, on one machine."""
    import torch

    mean = train.features.mean(axis=0)
    spread = np.maximum(train.features.std(axis=0), 1e-6)
    torch.manual_seed(SEED)
    model = torch.nn.Sequential(
        torch.nn.Linear(train.features.shape[1], hidden),
        torch.nn.BatchNorm1d(hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, train.truth.shape[1]),
    )
    inputs = torch.from_numpy((train.features - mean) / spread)
    truth = torch.from_numpy(train.truth)
    batch = min(BATCH, max(64, len(inputs) // 8))
    passes = max(1, -(-STEPS // (EPOCHS * max(1, len(inputs) // batch))))
    epochs = [list(batches(len(inputs), batch, range(epoch * passes, (epoch + 1) * passes))) for epoch in range(EPOCHS)]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, sum(map(len, epochs)))
    best: Tried | None = None
    for own in epochs:
        model.train()
        for part in own:
            answers = torch.nn.functional.normalize(model(inputs[part]), dim=-1)
            loss = 1 - (answers * truth[part]).sum(dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        head = folded(copy.deepcopy(model).eval(), mean, spread)
        found = mean_cosine(head, validation)
        if best is None or found > best.validation:
            best = Tried("head", head, found)
    assert best is not None
    return best


def batches(count: int, batch: int, passes: Iterable[int]) -> Iterator[Any]:
    """The places of each batch of these passes through all, whole ones only: normalisation needs more than one row."""
    import torch

    for number in passes:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED + number))
        yield from (own for own in order.split(batch) if len(own) == batch or len(own) == count)


def folded(model: Any, mean: np.ndarray, spread: np.ndarray) -> OutputHead:
    """One first layer of standardisation, linear layer and batch normalisation, as all three are linear."""
    first, norm, _, last = model
    weights, bias = (own.detach().numpy().astype(np.float64) for own in (first.weight, first.bias))
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy().astype(np.float64)
    shift = norm.bias.detach().numpy() - norm.running_mean.numpy() * scale
    whole = scale[:, None] * weights / spread
    offset = scale * bias + shift - whole @ mean
    layers = ((whole, offset), (last.weight.detach().numpy(), last.bias.detach().numpy()))
    return OutputHead(tuple((own.astype(np.float32), more.astype(np.float32)) for own, more in layers))
