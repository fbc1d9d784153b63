"""What validation data decide: the macro AUC of many runs, and when each stops."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from glomflow.models.vlm.methods.base import Recipe


def masked_macro_auc(probabilities: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Returns the macro one-vs-rest AUC of each run over the classes that occur, ties counting one half.

    The same as :func:`glomflow.evaluation.metrics.macro_auc`, run by run.

    Args:
        probabilities: (R, V, K).
        labels: (R, V) int64.
        mask: (R, V), False where padded.

    Returns:
        (R,) float64; NaN with fewer than two classes.
    """
    scores = probabilities.double().transpose(1, 2).contiguous()
    scores = scores.masked_fill(~mask[:, None], torch.inf)
    ordered = scores.sort(dim=-1).values
    below = torch.searchsorted(ordered, scores)
    upto = torch.searchsorted(ordered, scores, right=True)
    ranks = (below + upto + 1).double() / 2
    member = functional.one_hot(labels, scores.shape[1]).transpose(1, 2) * mask[:, None]
    positives = member.sum(dim=-1).double()
    pairs = positives * (mask.sum(dim=1)[:, None] - positives)
    areas = ((ranks * member).sum(dim=-1) - positives * (positives + 1) / 2) / pairs
    return areas.masked_fill(pairs == 0, torch.nan).nanmean(dim=1)


class EarlyStopping:
    """Stops each run when its validation AUC has not grown for a while, and remembers its best epoch.

    Args:
        recipe: ``min_delta`` and ``patience``.
        runs: R.

    Attributes:
        best: (R,) best AUC.
        epochs: (R,) epochs trained when it was seen.
    """

    def __init__(self, recipe: Recipe, runs: int) -> None:
        self._recipe = recipe
        self.best = np.full(runs, -np.inf)
        self.epochs = np.zeros(runs, dtype=np.int64)
        self._waited = np.zeros(runs, dtype=np.int64)

    def see(
        self, runs: NDArray[np.int64], scores: NDArray[np.float64], epoch: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Takes the scores of an epoch.

        Args:
            runs: (r,) which runs are still trained.
            scores: (r,) their validation AUC.
            epoch: Epoch, from 0.

        Returns:
            (r,) which are better than before by more than ``min_delta``, and which stop now.
        """
        better = scores > self.best[runs] + self._recipe.min_delta
        self.best[runs[better]] = scores[better]
        self.epochs[runs[better]] = epoch + 1
        self._waited[runs] = np.where(better, 0, self._waited[runs] + 1)
        return better, self._waited[runs] >= self._recipe.patience
