"""Metrics of probabilistic classification, for one sample or for many weighted resamples at once.

Every metric takes true labels, probabilities and, if asked, weights: how often each row counts in
each resample. A resample is a row of weights, not a copy of the data, so that thousands of
bootstrap resamples are a few matrix products.

Classes that do not occur are handled alike everywhere: a class counts in a macro average if the
quantity is defined for it. Balanced accuracy averages over the classes that occur among the true
labels, F1 over those that occur among true or predicted labels, the area under the ROC curve over
those with at least one row inside and one outside; with fewer than two classes among the true
labels the area is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glomflow.errors import GlomflowError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

METRICS = ("accuracy", "balanced_accuracy", "macro_auc", "macro_f1", "ece")
"""The metrics of :func:`evaluate`, in the order of the tables."""

ORDERED_METRICS = ("quadratic_kappa", "absolute_error")
"""Further metrics of :func:`evaluate` where classes are ordered."""

_SUM_TOLERANCE = 1e-4


def check_scores(
    labels: ArrayLike, probabilities: ArrayLike, names: Sequence[str] | None = None
) -> tuple[Labels, Floats]:
    """Checks labels and probabilities.

    Args:
        labels: (n,) true classes, 0 to K - 1.
        probabilities: (n, K), each row between 0 and 1 and summing to 1.
        names: n names of the rows (patients, crops) for the message.

    Returns:
        The labels as int64 and the probabilities as float64.

    Raises:
        GlomflowError: A shape is wrong, a label out of range, a probability missing or out of
            range, or a row does not sum to 1; the message names the row.
    """
    truth = np.asarray(labels)
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < 2 or truth.shape != (len(scores),):
        raise GlomflowError(
            f"metrics: labels of shape {truth.shape} and probabilities of shape {scores.shape}; "
            "expected (n,) and (n, classes) with at least two classes"
        )
    if not len(scores):
        raise GlomflowError("metrics: there is no row to evaluate")
    classes = scores.shape[1]
    sums = scores.sum(axis=1)
    problems = (
        (~np.isfinite(scores).all(axis=1), "a probability is missing (NaN) or infinite"),
        ((scores < 0).any(axis=1) | (scores > 1).any(axis=1), "a probability is not between 0 and 1"),
        (np.abs(sums - 1) > _SUM_TOLERANCE, "the probabilities do not sum to 1"),
        ((truth < 0) | (truth >= classes), f"the label is not a class number from 0 to {classes - 1}"),
    )
    for bad, message in problems:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            name = f"row {row}" if names is None else f"row {row} ({names[row]})"
            more = f"; {int(bad.sum()) - 1} more such rows" if bad.sum() > 1 else ""
            raise GlomflowError(
                f"metrics: {name}: {message} (label {truth[row]}, probabilities {scores[row].tolist()}){more}"
            )
    return truth.astype(np.int64), scores


def _rows(weights: ArrayLike | None, count: int) -> Floats:
    if weights is None:
        return np.ones((1, count))
    rows = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if rows.shape[-1] != count:
        raise GlomflowError(f"metrics: weights of shape {rows.shape} for {count} rows")
    return rows


def _like(values: Floats, weights: ArrayLike | None) -> Floats:
    """Drops the resample axis where there was none in ``weights``."""
    single = weights is None or np.ndim(weights) == 1
    result: Floats = values[0] if single else values
    return result


def _divide(above: Floats, below: Floats) -> Floats:
    """Divides, with NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(above, below)
    result: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return result


def _nan_mean(values: Floats) -> Floats:
    """Averages the last axis over what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def confusion(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Counts predictions (class of highest probability, the first on a tie) by true class.

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).
        weights: (n,) or (R, n), how often each row counts; once if None.

    Returns:
        (K, K) or (R, K, K): rows are true classes, columns predicted ones.

    Raises:
        GlomflowError: Labels or probabilities are unusable.
    """
    truth, scores = check_scores(labels, probabilities)
    classes = scores.shape[1]
    cell = truth * classes + scores.argmax(axis=1)
    counts = _rows(weights, len(truth)) @ np.eye(classes * classes)[cell]
    return _like(counts.reshape(-1, classes, classes), weights)


def sensitivity(counts: Floats) -> Floats:
    """Returns each class's recall (..., K) from a confusion matrix (..., K, K); NaN if absent."""
    return _divide(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def specificity(counts: Floats) -> Floats:
    """Returns the share of the other classes' rows that are not called this class, (..., K)."""
    total = counts.sum(axis=(-2, -1))[..., None]
    outside = total - counts.sum(axis=-1)
    called = counts.sum(axis=-2) - np.diagonal(counts, axis1=-2, axis2=-1)
    return _divide(outside - called, outside)


def precision(counts: Floats) -> Floats:
    """Returns the share of rows called a class that are of it, (..., K); NaN if none is called so."""
    return _divide(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2))


def class_f1(counts: Floats) -> Floats:
    """Returns each class's F1 (..., K): 2 TP / (2 TP + FP + FN); NaN if neither true nor predicted."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return _divide(2 * hits, counts.sum(axis=-1) + counts.sum(axis=-2))


def _overall(counts: Floats) -> dict[str, Floats]:
    hits = np.diagonal(counts, axis1=-2, axis2=-1).sum(axis=-1)
    return {
        "accuracy": _divide(hits, counts.sum(axis=(-2, -1))),
        "balanced_accuracy": _nan_mean(sensitivity(counts)),
        "macro_f1": _nan_mean(class_f1(counts)),
    }


def accuracy(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Returns the share of rows whose class of highest probability is the true one, () or (R,)."""
    return _overall(confusion(labels, probabilities, weights))["accuracy"]


def balanced_accuracy(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
) -> Floats:
    """Returns the mean sensitivity over the classes that occur, () or (R,)."""
    return _overall(confusion(labels, probabilities, weights))["balanced_accuracy"]


def macro_f1(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Returns the mean F1 over classes, () or (R,); 0 for a class that is missed altogether."""
    return _overall(confusion(labels, probabilities, weights))["macro_f1"]


def class_auc(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Returns each class's area under the one-vs-rest ROC curve, by the Mann-Whitney statistic.

    Ties count one half. The scores are probabilities, never logits, whose scale differs from row
    to row.

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).
        weights: (n,) or (R, n), how often each row counts; once if None.

    Returns:
        (K,) or (R, K); NaN for a class with no row, or with all of them.

    Raises:
        GlomflowError: Labels or probabilities are unusable.
    """
    truth, scores = check_scores(labels, probabilities)
    rows = _rows(weights, len(truth))
    areas = np.empty((len(rows), scores.shape[1]))
    for number in range(scores.shape[1]):
        order = np.argsort(scores[:, number], kind="stable")
        ordered = scores[order, number]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        inside = truth[order] == number
        positive = np.add.reduceat(rows[:, order] * inside, starts, axis=1)
        negative = np.add.reduceat(rows[:, order] * ~inside, starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        areas[:, number] = _divide((positive * below).sum(axis=1), pairs)
    return _like(areas, weights)


def macro_auc(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Returns the mean one-vs-rest area over the classes that occur, () or (R,); NaN below two."""
    return _nan_mean(class_auc(labels, probabilities, weights))


def confidence_bins(confidences: ArrayLike, bins: int) -> NDArray[np.int64]:
    """Returns the equal-width bin of each confidence: (low, high], the first closed on both sides."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.digitize(np.asarray(confidences, dtype=np.float64), edges[1:-1], right=True).astype(np.int64)


def ece(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 15
) -> Floats:
    """Returns the expected calibration error of the highest probability (Guo et al., ICML 2017).

    The sum over bins of confidence of the bin's share of rows times the distance between its
    accuracy and its mean confidence.

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).
        weights: (n,) or (R, n), how often each row counts; once if None.
        bins: Number of equal-width bins over 0 to 1.

    Returns:
        () or (R,), 0 (calibrated) to 1.

    Raises:
        GlomflowError: Labels or probabilities are unusable.
    """
    truth, scores = check_scores(labels, probabilities)
    rows = _rows(weights, len(truth))
    confidence = scores.max(axis=1)
    excess = (scores.argmax(axis=1) == truth) - confidence
    per_bin = rows @ (np.eye(bins)[confidence_bins(confidence, bins)] * excess[:, None])
    return _like(_divide(np.abs(per_bin).sum(axis=1), rows.sum(axis=1)), weights)


def quadratic_kappa(counts: Floats) -> Floats:
    """Returns quadratic-weighted kappa (Cohen, Psychol Bull 1968) from a confusion matrix (..., K, K).

    One less the observed over the expected disagreement, a disagreement by d classes counting d squared;
    -1 to 1, NaN where no disagreement is expected.
    """
    total = counts.sum(axis=(-2, -1))
    chance = _divide(
        counts.sum(axis=-1)[..., :, None] * counts.sum(axis=-2)[..., None, :], total[..., None, None]
    )
    costs = distances(counts.shape[-1]) ** 2
    observed, expected = (counts * costs).sum(axis=(-2, -1)), (chance * costs).sum(axis=(-2, -1))
    kappa: Floats = 1 - _divide(observed, expected)
    return kappa


def absolute_error(counts: Floats) -> Floats:
    """Returns the mean distance between true and predicted class from a confusion matrix (..., K, K)."""
    costs = distances(counts.shape[-1])
    return _divide((counts * costs).sum(axis=(-2, -1)), counts.sum(axis=(-2, -1)))


def distances(classes: int) -> Floats:
    """Returns how many classes lie between each pair of K ordered classes, (K, K)."""
    places = np.arange(classes, dtype=np.float64)
    return np.abs(places[:, None] - places[None])


def evaluate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 15,
    ordered: bool = False,
) -> dict[str, Floats]:
    """Returns all of :data:`METRICS`, each () or (R,); with ordered classes :data:`ORDERED_METRICS`, too.

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).
        weights: (n,) or (R, n), how often each row counts; once if None.
        bins: Bins of the expected calibration error.
        ordered: Whether the classes are ordered.

    Raises:
        GlomflowError: Labels or probabilities are unusable.
    """
    counts = confusion(labels, probabilities, weights)
    values = {
        **_overall(counts),
        "macro_auc": macro_auc(labels, probabilities, weights),
        "ece": ece(labels, probabilities, weights, bins=bins),
    }
    values = {name: values[name] for name in METRICS}
    if ordered:
        values |= {"quadratic_kappa": quadratic_kappa(counts), "absolute_error": absolute_error(counts)}
    return values


def _cosines(image_features: ArrayLike, text_features: ArrayLike) -> Floats:
    units = []
    for name, features in (("image", image_features), ("text", text_features)):
        rows = np.asarray(features, dtype=np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
        if len(bad):
            raise GlomflowError(f"metrics: {name} feature of row {bad[0]} is zero, missing or infinite")
        units.append(rows / norms)
    cosines: Floats = units[0] @ units[1].T
    return cosines


def class_cosines(
    image_features: ArrayLike, text_features: ArrayLike, labels: ArrayLike
) -> tuple[Floats, Floats]:
    """Returns each image's cosine to its own class's text, and that less the mean of the others, each (n,).

    Their means are the alignment and the similarity gap (Glo-VLMs, arXiv 2508.15960).

    Args:
        image_features: (n, D), of any length.
        text_features: (K, D), one per class.
        labels: (n,) true classes.

    Raises:
        GlomflowError: A feature is zero or not finite.
    """
    cosines = _cosines(image_features, text_features)
    truth = np.asarray(labels, dtype=np.int64)
    own: Floats = cosines[np.arange(len(truth)), truth]
    others = (cosines.sum(axis=1) - own) / (cosines.shape[1] - 1)
    return own, own - others


def decision_margin(probabilities: ArrayLike) -> Floats:
    """Returns the highest less the second highest probability of each row, (n,)."""
    ordered = np.sort(np.asarray(probabilities, dtype=np.float64), axis=1)
    margin: Floats = ordered[:, -1] - ordered[:, -2]
    return margin
