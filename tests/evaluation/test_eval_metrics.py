import numpy as np
import pytest

from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics

LABELS = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]]
)


def _random(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.dirichlet(np.ones(classes), size=count), 2)
    scores[:, 0] += 1 - scores.sum(axis=1)
    return rng.integers(0, classes, count), np.clip(scores, 0, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 4 / 6),
        ("balanced_accuracy", (0.5 + 1 + 0.5) / 3),
        ("macro_f1", (2 / 3 + 2 / 3 + 2 / 3) / 3),
        ("macro_auc", (1.0 + 1.0 + 1.0) / 3),
    ],
)
def test_hand_computed_values(name: str, expected: float) -> None:
    assert metrics.evaluate(LABELS, PROBABILITIES)[name] == pytest.approx(expected)


def test_confusion_and_rates() -> None:
    counts = metrics.confusion(LABELS, PROBABILITIES)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [0, 1, 1]]
    assert metrics.sensitivity(counts) == pytest.approx([0.5, 1, 0.5])
    assert metrics.specificity(counts) == pytest.approx([1, 0.5, 1])
    assert metrics.precision(counts) == pytest.approx([1, 0.5, 1])


def test_golden_values(golden) -> None:
    with np.load(golden / "vlm-metrics.npz", allow_pickle=False) as known:
        labels, scores = known["labels"], known["probs"]
        images, texts = known["image_features"], known["text_features"]
        ours = {
            "accuracy": metrics.accuracy(labels, scores),
            "macro_auc": metrics.macro_auc(labels, scores),
            "macro_f1": metrics.macro_f1(labels, scores),
            "ece15": metrics.ece(labels, scores, bins=15),
            "alignment": metrics.class_cosines(images, texts, labels)[0].mean(),
            "gap": metrics.class_cosines(images, texts, labels)[1].mean(),
            "mean_margin": metrics.decision_margin(scores).mean(),
        }
        for name, value in ours.items():
            assert value == pytest.approx(float(known[name]), abs=1e-6), name


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_agrees_with_scikit_learn_with_ties(classes: int) -> None:
    from sklearn import metrics as oracle

    labels, scores = _random(80, classes, seed=classes)
    called = scores.argmax(axis=1)
    ours = metrics.evaluate(labels, scores)
    areas = [oracle.roc_auc_score(labels == k, scores[:, k]) for k in range(classes)]
    assert metrics.class_auc(labels, scores) == pytest.approx(areas)
    assert ours["macro_auc"] == pytest.approx(np.mean(areas))
    assert ours["accuracy"] == pytest.approx(oracle.accuracy_score(labels, called))
    assert ours["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(labels, called))
    assert ours["macro_f1"] == pytest.approx(
        oracle.f1_score(labels, called, average="macro", zero_division=0)
    )


def test_weights_are_repetitions() -> None:
    labels, scores = _random(40, 3)
    weights = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=7)
    resampled = metrics.evaluate(labels, scores, weights)
    for number, counts in enumerate(weights):
        rows = np.repeat(np.arange(40), counts)
        repeated = metrics.evaluate(labels[rows], scores[rows])
        for name in metrics.METRICS:
            assert resampled[name].shape == (7,)
            assert resampled[name][number] == pytest.approx(float(repeated[name])), name


@pytest.mark.parametrize(
    ("confidence", "place"), [(0.0, 0), (0.2, 0), (0.2000001, 1), (0.4, 1), (0.6, 2), (1.0, 4)]
)
def test_bins_are_open_below_and_closed_above(confidence: float, place: int) -> None:
    assert metrics.confidence_bins([confidence], 5)[0] == place


def test_ece_by_hand() -> None:
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    value = metrics.ece([0, 1, 1, 1], scores, bins=2)
    assert value == pytest.approx(abs((1 + 0 + 1 + 1) / 4 - 0.75))
    assert metrics.ece([0, 1, 1, 1], scores, bins=10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_absent_classes_leave_the_averages() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]])
    assert np.isnan(metrics.class_auc(labels, scores)[2])
    assert metrics.macro_auc(labels, scores) == pytest.approx(1.0)
    assert metrics.balanced_accuracy(labels, scores) == pytest.approx(0.75)
    assert metrics.macro_f1(labels, scores) == pytest.approx((0.8 + 2 / 3) / 2)


def test_auc_of_one_class_is_undefined() -> None:
    assert np.isnan(metrics.macro_auc([1, 1], [[0.2, 0.8], [0.4, 0.6]]))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], r"row 1 \(P2\): a probability is missing"),
        ([0, 1], [[0.5, 0.5], [0.9, 0.5]], r"row 1 \(P2\): the probabilities do not sum to 1"),
        ([0, 1], [[1.5, -0.5], [0.5, 0.5]], r"row 0 \(P1\): a probability is not between 0 and 1"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], r"row 1 \(P2\): the label is not a class number from 0 to 1"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], r"labels of shape \(1,\)"),
        ([], np.zeros((0, 2)), "no row to evaluate"),
    ],
)
def test_bad_scores_name_the_row(labels, scores, message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        metrics.check_scores(labels, scores, ["P1", "P2"])


def test_weights_of_another_length() -> None:
    with pytest.raises(GlomflowError, match=r"weights of shape \(1, 2\) for 6 rows"):
        metrics.accuracy(LABELS, PROBABILITIES, [1, 2])


def test_zero_feature_is_named() -> None:
    with pytest.raises(GlomflowError, match="text feature of row 1 is zero"):
        metrics.class_cosines([[1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [0])


def test_ordered_metrics_by_hand() -> None:
    counts = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, 2.0]])
    assert metrics.absolute_error(counts) == pytest.approx((1 + 2) / 8)
    # Observed 1 * 1 + 1 * 4; expected from rows 3, 2, 3 and columns 3, 3, 2.
    expected = (3 * 3 + 3 * 2 * 4 + 2 * 3 + 2 * 2 + 3 * 3 * 4 + 3 * 3) / 8
    assert metrics.quadratic_kappa(counts) == pytest.approx(1 - 5 / expected)
    assert metrics.quadratic_kappa(np.stack([counts, np.diag([1.0, 1, 1])])).tolist()[1] == 1
    assert np.isnan(metrics.quadratic_kappa(np.diag([4.0, 0, 0])))


def test_quadratic_kappa_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import cohen_kappa_score

    labels, scores = _random(60, 4, seed=3)
    values = metrics.evaluate(labels, scores, ordered=True)
    expected = cohen_kappa_score(labels, scores.argmax(axis=1), weights="quadratic")
    assert values["quadratic_kappa"] == pytest.approx(expected)
    assert list(values)[-2:] == list(metrics.ORDERED_METRICS)
    assert "quadratic_kappa" not in metrics.evaluate(labels, scores)
