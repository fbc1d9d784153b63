"""Few-shot classification of glomeruli on frozen features, beside a colour and texture floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.config import FewShot
from glomflow.errors import GlomflowError
from glomflow.evaluation.draws import draw_shots, labelled_crops
from glomflow.evaluation.metrics import Floats
from glomflow.evaluation.texture import texture_matrix
from glomflow.shots import shown_at
from glomflow.tables import FEW_SHOT, FEW_SHOT_SPACE

_POOL_BLOCK = 256


def pool_features(maps: NDArray[np.generic], rows: NDArray[np.int64] | None = None) -> Floats:
    """Averages feature maps over their cells, block by block, so that a memory map stays on disk.

    Args:
        maps: (N, h, w, C), or (N, C) already pooled.
        rows: (n,) rows wanted; all if None.

    Returns:
        (n, C) float64.

    Raises:
        GlomflowError: The shape is another, or a feature is not finite; the message names the row.
    """
    if maps.ndim not in {2, 4}:
        raise GlomflowError(f"few-shot: features of shape {maps.shape}; expected (N, h, w, C) or (N, C)")
    wanted = np.arange(len(maps)) if rows is None else rows
    pooled = np.empty((len(wanted), maps.shape[-1]))
    for start in range(0, len(wanted), _POOL_BLOCK):
        block = maps[wanted[start : start + _POOL_BLOCK]].astype(np.float64)
        pooled[start : start + _POOL_BLOCK] = block.mean(axis=(1, 2)) if maps.ndim == 4 else block
    bad = wanted[~np.isfinite(pooled).all(axis=1)]
    if len(bad):
        raise GlomflowError(
            f"few-shot: features of row {bad[0]} are not finite ({len(bad)} such); encode the crops again"
        )
    return pooled


def few_shot(
    indexes: Sequence[pd.DataFrame],
    features: Sequence[NDArray[np.floating]],
    crops: Sequence[NDArray[np.uint8]],
    settings: FewShot,
    *,
    seed: int,
    draws: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Runs the few-shot experiment: every method, number of shots and run.

    One recipe for both methods, with nothing to tune: each feature is standardised by its mean and
    standard deviation over all crops of the run's training slides (no label enters, no test slide),
    each crop's vector is scaled to unit length (Tian et al., ECCV 2020), and a multinomial logistic
    regression with an L2 penalty is fitted on the shots, classes weighted equally.

    Args:
        indexes: CROPS of the OM crops, one frame per shard.
        features: Feature maps (N, h, w, C) of the same shards; may be empty without linear_probe.
        crops: uint8 (N, H, W, 3) crops of the same shards; may be empty without colour_texture.
        settings: Methods, shots, runs and penalty.
        seed: Seed of the draws.
        draws: The draws, if made before with the same settings; drawn from ``seed`` if None.

    Returns:
        FEW_SHOT rows with ``p_<class>`` columns.

    Raises:
        GlomflowError: Shards do not agree, a class has too few crops, or a value is unusable.
    """
    index = pd.concat(indexes, ignore_index=True)
    used, classes = labelled_crops(index, settings)
    if draws is None:
        draws = draw_shots(index, settings, seed=seed)
    unknown = sorted(set(draws["crop"]) ^ set(used["crop"]))
    if unknown:
        raise GlomflowError(
            f"few-shot: crop '{unknown[0]}' is not both in the draws and in the crop index "
            f"({len(unknown)} such); draw the shots again"
        )
    sizes = [len(frame) for frame in indexes]
    parts = []
    for method in settings.methods:
        arrays = features if method == "linear_probe" else crops
        if [len(array) for array in arrays] != sizes:
            raise GlomflowError(
                f"few-shot, {method}: stores of {[len(array) for array in arrays]} rows for crop indexes of "
                f"{sizes}; make the crops and features again"
            )
        rows = _vectors(arrays, used.index.to_numpy(), method)
        vectors = pd.DataFrame(rows, index=used["crop"])
        parts += [
            _run_predictions(vectors, run, classes, settings).assign(method=method)
            for _, run in draws.groupby("run", sort=True)
        ]
    columns = [*FEW_SHOT, *(f"p_{name}" for name in classes)]
    return pd.concat(parts, ignore_index=True)[columns]


def _vectors(arrays: Sequence[NDArray[np.generic]], rows: NDArray[np.int64], method: str) -> Floats:
    """Describes the rows wanted of all shards, numbered through; (len(rows), D), in their order."""
    starts = np.cumsum([0, *(len(array) for array in arrays)])
    described: list[Floats] = []
    places: list[NDArray[np.int64]] = []
    for start, array in zip(starts, arrays, strict=False):
        inside = np.flatnonzero((rows >= start) & (rows < start + len(array)))
        if not len(inside):
            continue
        describe = pool_features if method == "linear_probe" else texture_matrix
        described.append(describe(array, rows[inside] - start))
        places.append(inside)
    stacked = np.concatenate(described)
    result = np.empty_like(stacked)
    result[np.concatenate(places)] = stacked
    return result


def _run_predictions(
    vectors: pd.DataFrame, run: pd.DataFrame, classes: list[str], settings: FewShot
) -> pd.DataFrame:
    """Fits and predicts one run for all numbers of shots."""
    training, test = run[run["split"] == "train"], run[run["split"] == "test"]
    scaled = _scale(vectors, training["crop"])
    parts = []
    for shots in sorted({count for count in settings.shots if count}):
        shown = training[shown_at(training["shots"], shots)]
        probabilities = fit_predict(
            scaled.loc[shown["crop"].tolist()].to_numpy(),
            shown["label"].tolist(),
            scaled.loc[test["crop"].tolist()].to_numpy(),
            classes,
            penalty=settings.l2,
        )
        rows = test[["run", "crop", "slide", "label"]].assign(shots=shots)
        rows["predicted"] = np.array(classes)[probabilities.argmax(axis=1)]
        rows[list(FEW_SHOT_SPACE)] = np.nan
        rows[[f"p_{name}" for name in classes]] = probabilities
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def _scale(vectors: pd.DataFrame, training: pd.Series[str]) -> pd.DataFrame:
    """Standardises by the training slides' crops, then scales each row to unit length."""
    reference = vectors.loc[training.tolist()].to_numpy()
    spread = reference.std(axis=0)
    values = (vectors.to_numpy() - reference.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    values[:, spread == 0] = 0.0
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return pd.DataFrame(values / np.where(norms > 0, norms, 1.0), index=vectors.index)


def fit_predict(
    shots: Floats, labels: Sequence[str], test: Floats, classes: Sequence[str], *, penalty: float
) -> Floats:
    """Fits a logistic regression on the shots and returns the test crops' probabilities.

    Args:
        shots: (s, D) vectors, every class among them.
        labels: s classes.
        test: (n, D) vectors.
        classes: K classes, in the order of the result's columns.
        penalty: Inverse strength of the L2 penalty (scikit-learn's C).

    Returns:
        (n, K), rows sum to 1.

    Raises:
        GlomflowError: A class has no shot.
    """
    from sklearn.linear_model import LogisticRegression

    absent = sorted(set(classes) - set(labels))
    if absent:
        raise GlomflowError(f"few-shot: no shot of class '{absent[0]}'")
    number = {name: place for place, name in enumerate(classes)}
    model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=5000)
    model.fit(shots, [number[name] for name in labels])
    result: Floats = model.predict_proba(test)
    return result
