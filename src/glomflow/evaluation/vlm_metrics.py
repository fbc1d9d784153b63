"""Metrics of vision-language classifiers: what the probabilities and the shared space say.

Classification and calibration come from :mod:`glomflow.evaluation.metrics`; here are those that need image
and text features, proper scores, and temperature scaling. The definitions of alignment, similarity gap,
decision margin and the geometry are those of Glo-VLMs (arXiv 2508.15960).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics
from glomflow.evaluation.metrics import (
    Floats,
    Labels,
    alignment,
    balanced_accuracy,
    check_scores,
    decision_margin,
    ece,
    similarity_gap,
)

__all__ = [
    "alignment",
    "balanced_accuracy",
    "brier",
    "class_recall",
    "decision_margin",
    "ece",
    "evaluate_geometry",
    "evaluate_vlm",
    "fit_temperature",
    "scale_temperature",
    "silhouette",
    "similarity_gap",
    "umap_text_distance",
]

_UMAP_NEIGHBOURS = 100
_TEMPERATURES = (0.01, 100.0)


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Returns the mean squared distance of the probabilities from the truth (Brier, Mon Weather Rev 1950).

    Summed over classes, so 0 (certain and right) to 2 (certain and wrong).

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).

    Raises:
        GlomflowError: Labels or probabilities are unusable.
    """
    truth, scores = check_scores(labels, probabilities)
    return float(briers(truth, scores).mean())


def briers(labels: Labels, probabilities: Floats) -> Floats:
    """Returns the Brier score of each row, (n,), of which :func:`brier` is the mean; nothing is checked."""
    found: Floats = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return found


def class_recall(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Returns each class's recall, (K,); NaN for a class without rows.

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).

    Raises:
        GlomflowError: Labels or probabilities are unusable.
    """
    return metrics.sensitivity(metrics.confusion(labels, probabilities))


def silhouette(image_features: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean silhouette of the classes by cosine distance (Rousseeuw, J Comput Appl Math 1987).

    Args:
        image_features: (n, D).
        labels: (n,) true classes.

    Returns:
        -1 to 1; NaN with fewer than two classes, or where every row is a class of its own.
    """
    return float(silhouettes(image_features, labels).mean())


def silhouettes(image_features: ArrayLike, labels: ArrayLike) -> Floats:
    """Returns the silhouette of each image, (n,), of which :func:`silhouette` is the mean."""
    from sklearn.metrics import silhouette_samples

    truth = np.asarray(labels, dtype=np.int64)
    if not 2 <= len(np.unique(truth)) < len(truth):
        return np.full(len(truth), np.nan)
    found: Floats = silhouette_samples(np.asarray(image_features, np.float64), truth, metric="cosine")
    return found


def _umap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("umap")
    except ImportError as error:
        raise GlomflowError(
            "vlm metrics: the UMAP distance needs the package umap-learn, which is not installed; run "
            "pip install umap-learn, or leave the UMAP distance out"
        ) from error


def umap_text_distance(
    image_features: ArrayLike,
    text_features: ArrayLike,
    labels: ArrayLike,
    *,
    seed: int,
    neighbours: int = _UMAP_NEIGHBOURS,
) -> Floats:
    """Returns how far each class's images lie from its text in a common plane.

    Images and texts are laid out together by UMAP (McInnes et al., 2018) with min_dist 0 and the cosine
    metric; the distance is from the mean of a class's images to its text. The plane has no unit of its own:
    compare distances of one number of images only.

    Args:
        image_features: (n, D).
        text_features: (K, D), one per class.
        labels: (n,) true classes.
        seed: Seed of the layout.
        neighbours: Neighbours per point; all other points if there are fewer.

    Returns:
        (K,); NaN for a class without images.

    Raises:
        GlomflowError: There are fewer than four points, or umap-learn is not installed.
    """
    images, texts = np.asarray(image_features, np.float64), np.asarray(text_features, np.float64)
    truth = np.asarray(labels, dtype=np.int64)
    points = np.concatenate([images, texts])
    if len(points) < 4:
        raise GlomflowError(
            f"vlm metrics: {len(points)} images and texts; the UMAP distance needs at least four"
        )
    near = min(neighbours, len(points) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap warns that a seed makes it run on one thread, as is wanted
        layout = _umap().UMAP(
            n_neighbors=near,
            min_dist=0.0,
            metric="cosine",
            random_state=seed,
            init="random" if len(points) < 12 else "spectral",
        )
        plane = layout.fit_transform(points)
    places, anchors = plane[: len(images)], plane[len(images) :]
    distances = np.full(len(texts), np.nan)
    for number in np.unique(truth):
        distances[number] = np.linalg.norm(places[truth == number].mean(axis=0) - anchors[number])
    return distances


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Fits the temperature that minimises the negative log-likelihood (Guo et al., ICML 2017).

    Fit it on validation logits, never on test ones. The likelihood is concave in 1/T, so that the minimum
    is the only one; it is sought from 0.01 to 100. Logits that put every row right have no minimum (T goes
    to 0): they end at the border.

    Args:
        logits: (n, K) validation logits.
        labels: (n,) their classes.

    Returns:
        The temperature, by which logits are divided.

    Raises:
        GlomflowError: Shapes disagree, there is no row, or a logit is not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores, truth = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if scores.ndim != 2 or truth.shape != (len(scores),) or not len(scores):
        raise GlomflowError(
            f"temperature scaling: logits of shape {scores.shape} and labels of shape {truth.shape}; "
            "expected (n, classes) and (n,) with at least one validation row"
        )
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise GlomflowError(f"temperature scaling: the logits of validation row {row} are not finite")
    own = scores[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(scores * scale, axis=1) - own * scale).mean())

    bounds = tuple(np.log(_TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x))


def scale_temperature(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Returns softmax(logits / temperature), (n, K).

    Args:
        logits: (n, K).
        temperature: From :func:`fit_temperature`.
    """
    from scipy.special import softmax

    result: Floats = softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return result


def evaluate_geometry(
    image_features: ArrayLike,
    text_features: ArrayLike,
    labels: ArrayLike,
    *,
    seed: int | None = None,
) -> dict[str, float]:
    """Returns the metrics of the shared space of one run.

    Args:
        image_features: (n, D) of the test images.
        text_features: (K, D) of the classes.
        labels: (n,) true classes.
        seed: Seed of UMAP; without one its distance (seconds per run) is left out.

    Returns:
        ``alignment``, ``similarity_gap``, ``silhouette`` and perhaps ``umap_text_distance``, the mean over
        the classes that occur.

    Raises:
        GlomflowError: A feature is zero or not finite.
    """
    found = {
        "alignment": alignment(image_features, text_features, labels),
        "similarity_gap": similarity_gap(image_features, text_features, labels),
        "silhouette": silhouette(image_features, labels),
    }
    if seed is not None:
        distances = umap_text_distance(image_features, text_features, labels, seed=seed)
        found["umap_text_distance"] = float(np.nanmean(distances))
    return found


def evaluate_vlm(
    labels: ArrayLike,
    probabilities: ArrayLike,
    names: Sequence[str],
    *,
    image_features: ArrayLike | None = None,
    text_features: ArrayLike | None = None,
    umap_seed: int | None = None,
) -> dict[str, float]:
    """Returns every metric of one backbone, method, number of shots and run.

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).
        names: K classes, for ``recall_<class>``.
        image_features: (n, D) after adaptation; without it (or without texts) no geometry.
        text_features: (K, D) after adaptation.
        umap_seed: See :func:`evaluate_geometry`.

    Raises:
        GlomflowError: Labels, probabilities or features are unusable.
    """
    found = {name: float(value) for name, value in metrics.evaluate(labels, probabilities).items()}
    found["brier"] = brier(labels, probabilities)
    found["decision_margin"] = float(decision_margin(probabilities).mean())
    recalls = class_recall(labels, probabilities)
    if len(names) != len(recalls):
        raise GlomflowError(f"vlm metrics: {len(names)} class names for {len(recalls)} columns")
    found |= {f"recall_{name}": float(value) for name, value in zip(names, recalls, strict=True)}
    if image_features is not None and text_features is not None:
        found |= evaluate_geometry(image_features, text_features, labels, seed=umap_seed)
    return found
