import numpy as np
import pandas as pd
import pytest

from glomflow.config import Folds
from glomflow.errors import GlomflowError
from glomflow.evaluation.predictions import check_complete, collect

CLASSES = ["IgAN", "MN", "LN"]


def test_collect_orders_patients_seeds_and_models(make_patients, make_predictions) -> None:
    rows = pd.concat(
        [make_predictions(model="b", seeds=(1, 0)), make_predictions(model="a", seeds=(0, 1))]
    ).sample(frac=1, random_state=0)
    scores = collect(rows, make_patients(), CLASSES, ["a", "b"], Folds())
    assert list(scores.probabilities) == ["a", "b"]
    assert scores.replicates == [(0, 0), (0, 1)]
    assert scores.folds.shape == (2, 30)
    assert scores.probabilities["b"].shape == (2, 30, 3)
    assert scores.patients[:2] == ["P000", "P001"]
    wanted = make_predictions(model="b", seeds=(1,)).iloc[5][["p_IgAN", "p_MN", "p_LN"]]
    assert scores.probabilities["b"][1, 5] == pytest.approx(wanted.to_numpy(dtype=float))
    assert scores.labels[:4].tolist() == [0, 1, 2, 0]


def _missing(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["patient"] != "P004"]


def _doubled(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows[rows["patient"] == "P005"]])


def _stranger(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.replace({"patient": {"P006": "X1"}})


def _moved(rows: pd.DataFrame) -> pd.DataFrame:
    other = rows.assign(model="other")
    other.loc[other["patient"] == "P007", "fold"] = 99
    return pd.concat([rows, other])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing, r"model 'full', seed 0: no prediction for patient P004"),
        (_doubled, r"model 'full', seed 0: more than one prediction for patient P005"),
        (_stranger, r"a prediction for a patient who is not eligible: X1"),
        (_moved, r"tested in different folds by different models or seeds: P007"),
        (lambda rows: rows.iloc[:0], r"there is no prediction at all"),
    ],
)
def test_incomplete_predictions_name_the_patient(spoil, message, make_patients, make_predictions) -> None:
    with pytest.raises(GlomflowError, match=message):
        check_complete(spoil(make_predictions()).assign(repeat=0), make_patients()["patient"].tolist())


def test_many_missing_patients_are_counted(make_patients, make_predictions) -> None:
    with pytest.raises(GlomflowError, match="P015, P016, P017, P018, P019 and 10 more"):
        check_complete(make_predictions(15).assign(repeat=0), make_patients()["patient"].tolist())


def _nan(rows: pd.DataFrame) -> None:
    rows.loc[3, "p_MN"] = np.nan


def _wrong_call(rows: pd.DataFrame) -> None:
    rows.loc[3, ["p_IgAN", "p_MN", "p_LN", "predicted"]] = [0.2, 0.2, 0.6, "MN"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan, r"row 3 \(model 'full', seed 0, patient P003\): a probability is missing"),
        (
            _wrong_call,
            r"patient P003: column 'predicted' says 'MN', but the highest probability is that of 'LN'",
        ),
        (lambda rows: rows.pop("p_LN"), "missing column p_LN"),
    ],
)
def test_unusable_values_name_the_patient(spoil, message, make_patients, make_predictions) -> None:
    rows = make_predictions()
    spoil(rows)
    with pytest.raises(GlomflowError, match=message):
        collect(rows, make_patients(), CLASSES, ["full"], Folds())


def test_unknown_label_names_the_patient(make_patients, make_predictions) -> None:
    patients = make_patients()
    patients.loc[2, "label"] = "FSGS"
    with pytest.raises(GlomflowError, match=r"patient P002: label 'FSGS' is not among the classes"):
        collect(make_predictions(), patients, CLASSES, ["full"], Folds())


def test_a_model_without_predictions_is_named(make_patients, make_predictions) -> None:
    with pytest.raises(GlomflowError, match="model 'other', seed 0: no predictions"):
        collect(make_predictions(), make_patients(), CLASSES, ["full", "other"], Folds())


def test_repeats_are_replicates_of_their_own(make_patients, make_predictions) -> None:
    first, second = make_predictions(seeds=(0, 1)), make_predictions(seeds=(0, 1), draw=5)
    second["fold"] = (second["fold"] + 1) % 5 + 5
    rows = pd.concat([second, first], ignore_index=True)
    scores = collect(rows, make_patients(), CLASSES, ["full"], Folds(repeats=2))
    assert scores.replicates == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert (scores.seeds, scores.repeats) == ([0, 1], [0, 1])
    assert scores.folds[2, :4].tolist() == [6, 6, 6, 7]
    wanted = second[second["seed"] == 1].iloc[4][["p_IgAN", "p_MN", "p_LN"]]
    assert scores.probabilities["full"][3, 4] == pytest.approx(wanted.to_numpy(dtype=float))
    lacking = rows[~((rows["patient"] == "P003") & (rows["fold"] > 4) & (rows["seed"] == 1))]
    with pytest.raises(GlomflowError, match="model 'full', repeat 1, seed 1: no prediction for patient P003"):
        collect(lacking, make_patients(), CLASSES, ["full"], Folds(repeats=2))
