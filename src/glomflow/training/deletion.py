"""Deletion and insertion: what becomes of a prediction as parts of the patient are taken away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from glomflow.models.base import PatientNet
from glomflow.training.attribution import fusion_logits
from glomflow.training.data import chunks

_AT_ONCE = 8


def neutral_tokens(
    net: PatientNet, maps: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns what a token is set to when it is taken away, (C,) per modality.

    Args:
        net: The network.
        maps: Standardised feature maps of one patient, (1, n, h, w, C).
        masks: Per modality, (1, n) bool.

    Returns:
        Zeros, the mean of the training patients; for a network that does not standardise the mean of the
        patient's own tokens.
    """
    if net.standardise:
        return {name: torch.zeros_like(values[0, 0, 0, 0]) for name, values in maps.items()}
    return {
        name: values[masks[name]].flatten(0, -2).mean(0)
        if bool(masks[name].any())
        else torch.zeros_like(values[0, 0, 0, 0])
        for name, values in maps.items()
    }


def removal_curve(
    net: PatientNet,
    maps: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    order: np.ndarray,
    target: int,
    steps: int,
) -> np.ndarray:
    """Takes a patient's tokens away one after the other (deletion, Petsiuk 2018).

    Args:
        net: The network, in evaluation mode.
        maps: Standardised feature maps of one patient, (1, n, h, w, C) per modality.
        masks: Per modality, (1, n) bool.
        order: (T,) int64: the tokens in the order in which they go. They are numbered modality by modality,
            in the order of ``maps`` but for those that the patient lacks, instance by instance and row by
            row.
        target: The class.
        steps: Number of steps.

    Returns:
        (steps + 1,) float64: probability of the class with 0, 1/steps, ... of the tokens away.
    """
    neutral = neutral_tokens(net, maps, masks)
    rank = torch.empty(len(order), dtype=torch.int64)
    rank[torch.from_numpy(order)] = torch.arange(len(order))
    gone = torch.from_numpy(np.round(np.linspace(0, len(order), steps + 1)).astype(np.int64))
    found = []
    for counts in chunks(gone, _AT_ONCE):
        kept = rank[None] >= counts[:, None]
        left, start = {}, 0
        for name, values in maps.items():
            if not bool(masks[name].any()):
                left[name] = values.expand(len(counts), *values.shape[1:])
                continue
            size = values[0, ..., 0].numel()
            here = kept[:, start : start + size].reshape(len(counts), *values.shape[1:4]).to(values.device)
            left[name] = torch.where(here[..., None], values, neutral[name])
            start += size
        copies = {name: mask.expand(len(counts), -1) for name, mask in masks.items()}
        logits = fusion_logits(net, left, copies)
        found.append(torch.softmax(logits.double(), 1)[:, target])
    return torch.cat(found).cpu().numpy()


def token_order(maps: Mapping[str, Tensor], tie_breaks: np.ndarray) -> np.ndarray:
    """Returns the tokens from the highest value of a map to the lowest.

    Args:
        maps: Per modality, (1, n, h, w); numbered as in :func:`removal_curve`.
        tie_breaks: (T,) what decides between equal values, lower first: a random order.

    Returns:
        (T,) int64.
    """
    values = np.concatenate([part.flatten().cpu().numpy() for part in maps.values()])
    return np.lexsort((tie_breaks, -values.astype(np.float64)))
