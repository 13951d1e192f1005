"""Tier `head`: from frozen features to MiniLM's space. Ridge regression is the floor; above it stands
Linear-BN-ReLU-Linear by cosine loss, which is handed out only where it is better on the validation pairs.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernel.models.encoders.output_head import OutputHead
from kernel.models.linear_head import REGULARISATIONS, Gram, Head, fit_head, held_out_errors, ridge

EPOCHS = 20
BATCH = 4096
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2
HIDDEN = 2048
STEPS = 400  # at least, however few the pairs: then an epoch is shorter than a batch of the published size
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
    """The regularisation of the least error on the validation pairs; then fitted on these too, unlike what is scored.

    `validation` of what it gives is that of a fit without them.
    """
    grams = [Gram(train.features.shape[1], train.truth.shape[1]) for _ in range(2)]
    for gram, rows in zip(grams, (train, validation), strict=True):
        gram.add(rows.features, rows.truth)
    errors = held_out_errors(*grams, REGULARISATIONS, noise=0)
    judged = one_layer(ridge(grams[0], REGULARISATIONS[int(np.argmin(errors))]))
    return Tried("ridge", one_layer(fit_head(*grams, noise=0)), mean_cosine(judged, validation))


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
    an_epoch = max(1, len(inputs) // batch)
    epochs = max(EPOCHS, -(-STEPS // an_epoch))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * an_epoch)
    best: Tried | None = None
    for own in batches(len(inputs), batch, epochs):
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


def batches(count: int, batch: int, epochs: int) -> Iterator[list[Any]]:
    """Of every epoch the places of its batches, whole ones only: normalisation needs more than one row."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield [own for own in order.split(batch) if len(own) == batch or len(own) == count]


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
