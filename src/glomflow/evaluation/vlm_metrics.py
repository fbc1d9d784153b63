"""Metrics of vision-language classifiers: proper scores, the shared space, temperature scaling.

Classification, calibration and cosines come from :mod:`glomflow.evaluation.metrics`. The geometry is that of
Glo-VLMs (arXiv 2508.15960).
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from glomflow.errors import GlomflowError
from glomflow.evaluation.metrics import Floats, Labels

_UMAP_NEIGHBOURS = 100
_TEMPERATURES = (0.01, 100.0)


def briers(labels: Labels, probabilities: Floats) -> Floats:
    """Returns the squared distance of each row from the truth, (n,) (Brier, Mon Weather Rev 1950).

    Summed over classes, so 0 (certain and right) to 2 (certain and wrong).

    Args:
        labels: (n,) true classes.
        probabilities: (n, K).
    """
    found: Floats = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return found


def silhouettes(image_features: ArrayLike, labels: ArrayLike) -> Floats:
    """Returns the silhouette of each image by cosine distance (Rousseeuw, J Comput Appl Math 1987).

    Args:
        image_features: (n, D).
        labels: (n,) true classes.

    Returns:
        (n,), -1 to 1; NaN with fewer than two classes, or where every row is a class of its own.
    """
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
