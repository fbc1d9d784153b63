"""Image-text contrastive losses for few classes, and the batches that they are computed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from glomflow.errors import GlomflowError

ContrastiveLoss = Literal["arange", "supervised_contrastive"]


def contrastive_targets(labels: Tensor, kind: ContrastiveLoss) -> Tensor:
    """Returns which text each image should be matched with, (n, n); rows sum to 1.

    ``arange``: its own place in the batch only, as published (Glo-VLMs, arXiv 2508.15960; Radford et al.,
    ICML 2021), so that an image is pushed away from the text of another image of its class.
    ``supervised_contrastive``: every place of the same class alike (Khosla et al., NeurIPS 2020; UniCL, Yang
    et al., CVPR 2022).

    Args:
        labels: (n,) classes of the batch.
        kind: Name of the loss.
    """
    if kind == "arange":
        return torch.eye(len(labels), dtype=torch.float32, device=labels.device)
    same = (labels[:, None] == labels[None]).float()
    return same / same.sum(dim=1, keepdim=True)


def contrastive_loss(
    images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor | float, kind: ContrastiveLoss
) -> Tensor:
    """Returns half of the cross-entropy from images to texts plus that from texts to images, a scalar.

    Args:
        images: (n, D) unit image features.
        texts: (n, D) unit features of each image's class text.
        labels: (n,) classes.
        scale: Factor of the cosines (not its logarithm).
        kind: See :func:`contrastive_targets`.

    Raises:
        GlomflowError: The batch holds one image: with nothing to tell it from, its loss is 0 whatever the
            weights are.
    """
    if len(images) < 2:
        raise GlomflowError(
            "contrastive loss: the batch holds one image, so that there is nothing to tell it from and "
            "nothing to learn; set batch_size to 2 or more, or use a method with cross-entropy (classifier, "
            "clip_lora)"
        )
    logits = scale * images @ texts.T
    targets = contrastive_targets(labels, kind).to(logits.dtype)
    forward = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    backward = -(targets * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (forward + backward) / 2


def _cut(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cuts an order into batches; a single one left over joins the last batch."""
    if batch_size < 1:
        raise GlomflowError(f"batch_size is {batch_size}; it must be 1 or more")
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and batch_size > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return [order[a:b] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]


def shuffled_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Returns one epoch's batches in random order, each row once.

    A single row left over joins the batch before it, since neither a contrastive loss nor batch
    normalisation can learn from one.

    Args:
        count: Number of rows.
        batch_size: Rows per batch.
        seed: Seed of the run.
        epoch: Epoch, from 0; each has an order of its own, whatever was drawn before.

    Raises:
        GlomflowError: ``batch_size`` is below 1.
    """
    order = np.random.default_rng([seed, epoch, 0]).permutation(count)
    return _cut(order.astype(np.int64), batch_size)


def balanced_batches(labels: ArrayLike, batch_size: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Returns one epoch's batches in which no class has more than one row more than another.

    The classes take turns in an order drawn per epoch; each gives its rows in a random order, anew when all
    are given. An epoch goes through the largest class once, so that rows of smaller classes return. Where a
    single row is left over, it joins the batch before it.

    Args:
        labels: (n,) classes; only those that occur take part.
        batch_size: Rows per batch.
        seed: Seed of the run.
        epoch: Epoch, from 0.

    Raises:
        GlomflowError: There is no row, or ``batch_size`` is below 1.
    """
    truth = np.asarray(labels, dtype=np.int64)
    if not len(truth):
        raise GlomflowError("batches: there is no training row")
    rng = np.random.default_rng([seed, epoch, 1])
    members = [np.flatnonzero(truth == number) for number in rng.permutation(np.unique(truth))]
    rounds = max(len(rows) for rows in members)
    columns = [_cycled(rows, rounds, rng) for rows in members]
    return _cut(np.stack(columns, axis=1).ravel(), batch_size)


def _cycled(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns ``count`` of the rows: random orders of all of them, one after the other."""
    turns: Sequence[NDArray[np.int64]] = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(turns)[:count]
