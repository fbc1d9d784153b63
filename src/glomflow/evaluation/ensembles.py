"""Ensembles of few-shot methods: late fusion of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.evaluation.metrics import Floats
from glomflow.tables import FEW_SHOT, FEW_SHOT_SPACE

_LEAST = 1e-6
"""A probability counts as at least so much, so that no member has a veto."""


def ensembles(predictions: pd.DataFrame, members: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Averages the log probabilities of methods, test crop by test crop (a product of experts).

    Each member has the same say, so that there is nothing to tune and no label enters.

    Args:
        predictions: FEW_SHOT rows with ``p_<class>`` columns of all methods.
        members: Methods of each ensemble, by its name.

    Returns:
        FEW_SHOT rows with ``p_<class>`` columns, at the numbers of shots that all members have.

    Raises:
        GlomflowError: A member has no predictions, members have no number of shots in common, or they
            predict other crops; the message names ensemble and member.
    """
    classes = [column[2:] for column in predictions.columns if column.startswith("p_")]
    parts = []
    for name, own in members.items():
        frames = [_sorted(predictions, name, member) for member in own]
        common = set.intersection(*(set(frame["shots"]) for frame in frames))
        if not common:
            raise GlomflowError(
                f"few_shot.ensembles.{name}: {', '.join(own)} have no number of shots in common; take one out"
            )
        frames = [frame[frame["shots"].isin(common)].reset_index(drop=True) for frame in frames]
        parts.append(_fused(name, own, frames, classes))
    return pd.concat(parts, ignore_index=True)[[*FEW_SHOT, *(f"p_{label}" for label in classes)]]


def _sorted(predictions: pd.DataFrame, name: str, member: str) -> pd.DataFrame:
    found = predictions[predictions["method"] == member]
    if found.empty:
        raise GlomflowError(f"few_shot.ensembles.{name}: there is no prediction of {member}; run it again")
    return found.sort_values(["shots", "run", "crop"])


def _fused(
    name: str, own: Sequence[str], frames: Sequence[pd.DataFrame], classes: Sequence[str]
) -> pd.DataFrame:
    key, columns = ["shots", "run", "crop"], [f"p_{label}" for label in classes]
    for member, frame in zip(own[1:], frames[1:], strict=True):
        if not frame[key].equals(frames[0][key]):
            raise GlomflowError(
                f"few_shot.ensembles.{name}: {own[0]} and {member} do not predict the same crops; run both "
                "again"
            )
    logs = np.mean([np.log(frame[columns].to_numpy().clip(_LEAST)) for frame in frames], axis=0)
    shares: Floats = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    result = frames[0].assign(method=name)
    result[columns] = shares
    result["predicted"] = np.array(classes)[shares.argmax(axis=1)]
    result[list(FEW_SHOT_SPACE)] = np.nan
    return result
