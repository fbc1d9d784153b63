import sys

import numpy as np
import pytest

from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics, vlm_metrics

LABELS = np.array([0, 0, 1, 2])
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])


@pytest.fixture
def clusters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    texts = np.eye(6)[:3]
    labels = np.repeat([0, 1, 2], 30)
    images = texts[labels] + 0.2 * rng.normal(size=(90, 6))
    return images, texts, labels


def test_probabilities_are_those_of_the_published_scale(golden) -> None:
    with np.load(golden / "vlm-metrics.npz", allow_pickle=False) as known:
        logits = known["logit_scale"] * known["image_features"] @ known["text_features"].T
        assert np.abs(vlm_metrics.scale_temperature(logits) - known["probs"]).max() < 1e-6


def test_hand_computed_brier_scores() -> None:
    rows = [0.04 + 0.01 + 0.01, 0.49 + 0.36 + 0.01, 0.04 + 0.09 + 0.01, 0.01 + 0.01 + 0.04]
    assert vlm_metrics.briers(LABELS, PROBABILITIES) == pytest.approx(rows)


def test_bins_are_closed_above() -> None:
    third = 1 / 3  # a bin's upper border: 5/15
    scores = np.array([[third, third, third], [0.6, 0.4, 0.0]])  # 0.6 = 9/15 is in the bin below
    labels = np.array([0, 1])
    below = np.array([[third, third, third], [0.59, 0.41, 0.0]])
    assert metrics.ece(labels, scores) == pytest.approx((2 / 3 + 0.6) / 2)
    assert metrics.ece(labels, below) == pytest.approx((2 / 3 + 0.59) / 2)
    both = np.array([[0.6, 0.4], [0.55, 0.45]])  # one bin: a hit and a miss make up for each other
    assert metrics.ece(np.array([0, 1]), both) == pytest.approx(abs(0.4 - 0.55) / 2)


def test_silhouette(clusters) -> None:
    images, _, labels = clusters
    assert vlm_metrics.silhouettes(images, labels).mean() > 0.6
    assert abs(vlm_metrics.silhouettes(images, np.random.default_rng(1).permutation(labels)).mean()) < 0.1
    assert np.isnan(vlm_metrics.silhouettes(images, np.zeros(90, dtype=int))).all()


def test_umap_distance_is_smaller_for_the_own_text(clusters) -> None:
    images, texts, labels = clusters
    own = vlm_metrics.umap_text_distance(images, texts, labels, seed=3, neighbours=15)
    other = vlm_metrics.umap_text_distance(images, texts[[1, 2, 0]], labels, seed=3, neighbours=15)
    assert own.max() < other.min()
    again = vlm_metrics.umap_text_distance(images, texts, labels, seed=3, neighbours=15)
    assert np.array_equal(own, again)


def test_umap_absent(clusters, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(GlomflowError, match="pip install umap-learn"):
        vlm_metrics.umap_text_distance(*clusters, seed=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature: float) -> None:
    rng = np.random.default_rng(2)
    logits = 2 * rng.normal(size=(20000, 4))
    chances = vlm_metrics.scale_temperature(logits)
    labels = (rng.random(20000)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    assert vlm_metrics.fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_temperature_lowers_the_error_of_an_overconfident_model() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2000, 3))
    labels = (rng.random(2000)[:, None] > vlm_metrics.scale_temperature(logits).cumsum(axis=1)).sum(axis=1)
    sharp = 6 * logits
    found = vlm_metrics.fit_temperature(sharp[:1000], labels[:1000])
    before = metrics.ece(labels[1000:], vlm_metrics.scale_temperature(sharp[1000:]))
    after = metrics.ece(labels[1000:], vlm_metrics.scale_temperature(sharp[1000:], found))
    assert after < before / 4


def test_temperature_refuses_what_it_cannot_use() -> None:
    with pytest.raises(GlomflowError, match="at least one validation row"):
        vlm_metrics.fit_temperature(np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(GlomflowError, match="row 1 are not finite"):
        vlm_metrics.fit_temperature([[0.0, 1.0], [np.nan, 0.0]], [0, 1])
