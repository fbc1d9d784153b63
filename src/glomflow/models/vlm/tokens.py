"""Tokens without the filling that a text tower does not need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def shortened(backbone: Any, tokens: Tensor) -> Tensor:
    """Cuts off the filling after the longest text, if the tower gives the same without it.

    A causal tower never looks at what follows the text's end; one that does keeps its full length.

    Args:
        backbone: The model.
        tokens: (T, L) int64.

    Returns:
        (T, L') int64 whose features are those of ``tokens`` to 1e-6.
    """
    varied = (tokens != tokens[:, -1:]).any(dim=0).nonzero()
    length = min(tokens.shape[1], int(varied.max()) + 2) if len(varied) else tokens.shape[1]
    if length == tokens.shape[1]:
        return tokens
    try:
        same = backbone.text_features(tokens[:, :length])
    except (RuntimeError, ValueError, IndexError):  # a tower that takes its full length only
        return tokens
    close = bool((same - backbone.text_features(tokens)).abs().max() < 1e-6)
    return tokens[:, :length] if close else tokens
