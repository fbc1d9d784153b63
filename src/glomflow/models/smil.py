"""Multi-instance pooling without parameters: the two published variants of SMIL, mean and maximum.

SMIL, sparse multi-instance learning over a bag of electron micrographs, is that of CMUS-Net
(arXiv 2512.15171). All functions treat whole batches of padded bags at once. Padding, as long as it is
finite, and the order of the instances do not change the result; only :func:`smil_sum` with a limit takes
the first ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glomflow.models.batch import mean_over_instances

PUBLISHED_SUM_INSTANCES = 6
"""Instances that the published ``sum`` variant adds up: the first six."""

_SAME = 1e-6  # relative difference below which inverse distances count as equal
_IDENTICAL = 1e-12  # squared distance, as a share of the squared norms, that is rounding alone
_EPSILON = 1e-8
_PIECE = 8192


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """Returns the sum of the instances (B, n, ...) of each bag by their weights (B, n)."""
    flat = torch.bmm(weights[:, None, :].to(features.dtype), features.flatten(2))
    return flat.reshape(features.shape[0], *features.shape[2:])


def smil_sum(
    features: Tensor, mask: Tensor, limit: int | None = PUBLISHED_SUM_INSTANCES
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds up the first instances of each bag (the published ``sum`` variant).

    Args:
        features: (B, n, ...) feature maps, most informative instance first.
        mask: (B, n) bool, True where there is an instance.
        limit: Instances that enter, counted over those present; None for all.

    Returns:
        The sum (B, ...), the weights (B, n) and the kept instances (B, n).
    """
    kept = mask if limit is None else mask & (mask.cumsum(1) <= limit)
    weights = kept.to(features.dtype)
    return weighted_sum(features, weights), weights, kept


def bag_mean(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Averages the instances of each bag.

    Args:
        features: (B, n, ...) feature maps.
        mask: (B, n) bool, True where there is an instance.

    Returns:
        The mean (B, ...), zeros for an empty bag; the weights (B, n), all equal; the kept instances (B, n).
    """
    weights = mask.to(features.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
    return mean_over_instances(features, mask), weights, mask


def bag_max(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Takes the maximum over the instances of each bag, element by element.

    Args:
        features: (B, n, ...) feature maps.
        mask: (B, n) bool, True where there is an instance.

    Returns:
        The maximum (B, ...), zeros for an empty bag; the weights (B, n), each instance's share of the
        elements that it is the largest of (ties are shared), without gradient; the kept instances (B, n).
    """
    there = mask.reshape(*mask.shape, *[1] * (features.ndim - 2))
    highest = features.masked_fill(~there, -torch.inf).amax(1)
    with torch.no_grad():
        largest = ((features == highest[:, None]) & there).flatten(2).to(features.dtype)
        weights = (largest / largest.sum(1, keepdim=True).clamp(min=1.0)).mean(2)
    empty = ~mask.any(1).reshape(-1, *[1] * (features.ndim - 2))
    return highest.masked_fill(empty, 0), weights, mask


def smil_distance(
    features: Tensor, mask: Tensor, threshold: float, *, parity: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Drops outlying instances and weights the others by closeness to the centre of the bag.

    The centre is the instance with the smallest sum of Euclidean distances to the others. Instances
    farther from it than ``threshold`` times the mean distance are dropped; the others but the centre
    get their inverse distance, min-max scaled over them, as weight; the centre gets 1. Weights carry
    no gradient. Where scaling is undefined (one other instance, all equally far) weights are 1.

    Args:
        features: (B, n, ...) feature maps.
        mask: (B, n) bool, True where there is an instance.
        threshold: t, the multiple of the mean distance that is kept.
        parity: Reproduce the published indexing, which looks up the centre's place in the bag within
            the list of kept instances: the instance found there gets 1 instead of the centre.

    Returns:
        The weighted sum (B, ...), zeros for an empty bag; the weights (B, n); the kept instances
        (B, n).
    """
    with torch.no_grad():
        distances = _bag_distances(features, mask)
        centre, kept, from_centre = _filter(distances, mask, threshold)
        if parity:
            special = kept & (kept.cumsum(1) - 1 == centre[:, None])
        else:
            special = torch.arange(mask.shape[1], device=mask.device) == centre[:, None]
        weights = _closeness(from_centre, kept & ~special)
        weights = weights.masked_fill(special & kept, 1.0).to(features.dtype)
    return weighted_sum(features, weights), weights, kept


def _bag_distances(features: Tensor, mask: Tensor) -> Tensor:
    """Returns (B, n, n) distances of bags min-max scaled to 0..1, zeros at padding.

    They come from inner products in float64 and are rounded, because weights depend on small
    differences; elements are taken a piece at a time, which spares large temporaries.
    """
    pieces = [
        features.flatten(2)[:, :, start : start + _PIECE] for start in range(0, _size(features), _PIECE)
    ]
    low = torch.stack([_finite(piece).amin(2) for piece in pieces]).amin(0)
    high = torch.stack([_finite(piece).amax(2) for piece in pieces]).amax(0)
    low = low.masked_fill(~mask, torch.inf).amin(1)[:, None, None]
    extent = high.masked_fill(~mask, -torch.inf).amax(1)[:, None, None] - low
    extent = torch.where(extent > 0, extent, 1.0)
    products = torch.zeros(*mask.shape, mask.shape[1], dtype=torch.float64, device=mask.device)
    for piece in pieces:
        scaled = _finite(piece).sub_(low).div_(extent).double()
        products = torch.baddbmm(products, scaled, scaled.transpose(1, 2))
    squares = products.diagonal(dim1=1, dim2=2)
    sums = squares[:, :, None] + squares[:, None, :]
    squared = sums - 2.0 * products
    distances = torch.where(squared > _IDENTICAL * sums, squared, 0.0).sqrt().float()
    return distances.masked_fill(~(mask[:, :, None] & mask[:, None, :]), 0.0)


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values.float(), nan=0.0, posinf=0.0, neginf=0.0)


def _size(features: Tensor) -> int:
    return features[0, 0].numel()


def _filter(distances: Tensor, mask: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the centre (B,), the kept instances (B, n) and their distance to the centre (B, n)."""
    count = mask.sum(1)
    sums = distances.sum(2)
    centre = sums.masked_fill(~mask, torch.inf).argmin(1)
    others = (count - 1).clamp(min=1).to(sums.dtype)
    mean = (sums / others[:, None]).sum(1) / count.clamp(min=1).to(sums.dtype)
    from_centre = distances.gather(1, centre[:, None, None].expand(-1, 1, mask.shape[1])).squeeze(1)
    kept = mask & (from_centre <= threshold * mean[:, None])
    return centre, kept, from_centre


def _closeness(from_centre: Tensor, among: Tensor) -> Tensor:
    """Returns inverse distances min-max scaled over ``among`` (B, n); 1 where all are equal."""
    inverse = 1.0 / (from_centre + _EPSILON)
    low = inverse.masked_fill(~among, torch.inf).amin(1, keepdim=True)
    high = inverse.masked_fill(~among, -torch.inf).amax(1, keepdim=True)
    extent = high - low
    defined = extent > _SAME * high
    scaled = (inverse - low) / torch.where(defined, extent, torch.ones_like(extent))
    return torch.where(defined, scaled, torch.ones_like(scaled)).masked_fill(~among, 0.0)
