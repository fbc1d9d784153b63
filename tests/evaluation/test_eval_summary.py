import json

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Config, Diagnosis, Evaluation, Folds, Model
from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics
from glomflow.evaluation.intervals import bootstrap, metric_intervals
from glomflow.evaluation.summary import SUMMARY_FILES, Summary, ceilings, roc_curve, summarise
from glomflow.evaluation.summary_schemas import TABLES

PHANTOM = {
    "ceilings": {"TEM": 0.85, "OM+IM+TEM": 0.99},
    "realised_ceilings": {"TEM": 0.86, "OM+IM+TEM": 0.985},
}
CONFIG = Config(
    diagnosis=Diagnosis(models={"full": Model(), "tem": Model(modalities=["TEM"])}),
    evaluation=Evaluation(bootstrap=200),
)


@pytest.fixture
def summary(make_patients, make_predictions) -> Summary:
    rows = pd.concat(
        [
            make_predictions(skill=2.5, seeds=(0, 1), draw=1),
            make_predictions(model="tem", skill=0.8, seeds=(0, 1), draw=2),
        ],
        ignore_index=True,
    )
    rows.loc[rows["patient"].isin(["P001", "P002"]), "modalities"] = "OM+IM"
    return summarise(rows, make_patients(), CONFIG, PHANTOM)


def test_tables_are_as_declared_and_come_back(summary, tmp_path) -> None:
    for name, schema in TABLES.items():
        assert list(getattr(summary, name).columns) == list(schema), name
    summary.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SUMMARY_FILES)
    again = Summary.read(tmp_path)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(summary, name), check_dtype=False)
    assert again.settings == json.loads(json.dumps(summary.settings))


def test_pooled_is_the_mean_over_seeds_with_its_ceiling(summary, make_patients, make_predictions) -> None:
    labels = np.arange(30) % 3
    columns = ["p_IgAN", "p_MN", "p_LN"]
    values = [
        float(metrics.macro_auc(labels, make_predictions(skill=2.5, seeds=(seed,), draw=1)[columns]))
        for seed in (0, 1)
    ]
    rows = summary.pooled.set_index(["model", "metric"])
    area = rows.loc[("full", "macro_auc")]
    assert area["value"] == pytest.approx(np.mean(values))
    assert area["sd_replicates"] == pytest.approx(np.std(values))
    assert np.isnan(area["ceiling"])
    assert rows.loc[("full", "accuracy"), "ceiling"] == 0.99
    assert rows.loc[("tem", "accuracy"), "realised_ceiling"] == 0.86
    assert (rows["lower"] <= rows["value"]).all()
    assert (rows["value"] <= rows["upper"]).all()


def test_folds_join_to_the_published_form(summary) -> None:
    folds = summary.per_fold[summary.per_fold["model"] == "full"]
    assert len(folds) == 5 * 2
    assert folds["patients"].sum() == 30 * 2
    row = summary.mean_sd.set_index(["model", "metric"]).loc[("full", "accuracy")]
    by_fold = folds.groupby("fold")["accuracy"].mean()
    assert row["mean"] == pytest.approx(by_fold.mean())
    assert row["sd"] == pytest.approx(np.std(by_fold))
    assert (row["folds"], row["seeds"]) == (5, 2)


def test_confusion_and_classes_agree(summary) -> None:
    counts = summary.confusion[summary.confusion["model"] == "tem"]
    assert counts["count"].sum() == pytest.approx(30)
    diagonal = counts[counts["true"] == counts["predicted"]].set_index("true")["count"]
    rows = summary.per_class[summary.per_class["model"] == "tem"].set_index("class")
    assert rows["support"].tolist() == [10, 10, 10]
    assert rows["sensitivity"].to_dict() == pytest.approx((diagonal / 10).to_dict())
    assert (rows["sensitivity_lower"] < rows["sensitivity"]).all()
    assert (rows["specificity"] <= rows["specificity_upper"]).all()


def test_strata_hold_every_patient_once(summary) -> None:
    rows = summary.strata[summary.strata["model"] == "tem"].set_index(["stratum", "value"])["patients"]
    assert rows.to_dict() == {
        ("site", "north"): 15,
        ("site", "south"): 15,
        ("modalities", "complete"): 28,
        ("modalities", "incomplete"): 2,
        ("missing", "TEM"): 2,
    }


def test_calibration_bins_give_the_error(summary) -> None:
    rows = summary.calibration[summary.calibration["model"] == "full"].fillna(0)
    assert rows["patients"].sum() == pytest.approx(30)
    assert len(rows) == 15
    joint = (rows["patients"] / 30 * (rows["accuracy"] - rows["confidence"]).abs()).sum()
    pooled = summary.pooled.set_index(["model", "metric"]).loc[("full", "ece"), "value"]
    assert joint <= pooled + 1e-9


def test_area_under_the_drawn_curve_is_the_auc(summary) -> None:
    rows = summary.roc[(summary.roc["model"] == "tem") & (summary.roc["class"] == "MN")]
    areas = [np.trapezoid(curve["tpr"], curve["fpr"]) for _, curve in rows.groupby("seed")]
    expected = summary.per_class.set_index(["model", "class"]).loc[("tem", "MN"), "auc"]
    assert np.mean(areas) == pytest.approx(expected)


def test_first_model_is_compared_with_the_other(summary) -> None:
    assert summary.comparisons["metric"].tolist() == ["accuracy", "macro_auc", "macro_f1"]
    assert set(summary.comparisons["other"]) == {"tem"}
    assert (summary.comparisons["difference"] > 0).all()


def test_one_model_and_a_real_cohort(make_patients, make_predictions, tmp_path) -> None:
    config = Config(evaluation=Evaluation(bootstrap=100), diagnosis=Diagnosis(models={"full": Model()}))
    summary = summarise(make_predictions(), make_patients(), config, None)
    assert summary.comparisons.empty
    assert summary.models["ceiling"].isna().all()
    summary.write(tmp_path)
    assert Summary.read(tmp_path).comparisons.empty


def test_same_seed_same_summary(make_patients, make_predictions) -> None:
    config = Config(evaluation=Evaluation(bootstrap=100), diagnosis=Diagnosis(models={"full": Model()}))
    first, second = (summarise(make_predictions(), make_patients(), config, None) for _ in range(2))
    pd.testing.assert_frame_equal(first.pooled, second.pooled)


def test_roc_corners_with_ties() -> None:
    fpr, tpr, thresholds = roc_curve(np.array([True, False, True, False]), np.array([0.9, 0.5, 0.5, 0.1]))
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 1, 1]
    assert thresholds.tolist() == [np.inf, 0.9, 0.5, 0.1]
    assert np.isnan(roc_curve(np.array([True]), np.array([0.9]))[0]).all()


def test_ceiling_keys_are_in_the_field_s_order() -> None:
    assert ceilings(["TEM", "OM", "IM"], PHANTOM) == (0.99, 0.985)
    with pytest.raises(GlomflowError, match=r"phantom\.json: no ceiling of 'OM\+TEM'"):
        ceilings(["TEM", "OM"], PHANTOM)


def test_reading_an_unfinished_summary_names_the_file(summary, tmp_path) -> None:
    summary.write(tmp_path)
    (tmp_path / "roc.parquet").unlink()
    with pytest.raises(GlomflowError, match=r"missing roc\.parquet"):
        Summary.read(tmp_path)


def test_repeats_keep_their_folds_and_are_averaged(make_patients, make_predictions) -> None:
    config = Config(
        folds=Folds(repeats=2),
        evaluation=Evaluation(bootstrap=100),
        diagnosis=Diagnosis(models={"full": Model()}),
    )
    first, second = make_predictions(draw=1), make_predictions(draw=2)
    second["fold"] += 5
    found = summarise(pd.concat([first, second], ignore_index=True), make_patients(), config, None)
    assert found.models[["seeds", "repeats"]].to_numpy().tolist() == [[1, 2]]
    assert found.per_fold["repeat"].tolist() == [0] * 5 + [1] * 5
    assert found.per_fold["fold"].tolist() == list(range(10))
    labels = np.arange(30) % 3
    values = [
        float(metrics.accuracy(labels, rows[["p_IgAN", "p_MN", "p_LN"]].to_numpy()))
        for rows in (first, second)
    ]
    row = found.pooled.set_index("metric").loc["accuracy"]
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["sd_replicates"] == pytest.approx(np.std(values))
    assert found.confusion["count"].sum() == pytest.approx(30)
    assert sorted(found.roc["repeat"].unique()) == [0, 1]
    assert found.settings["repeats"] == 2


def test_stages_are_ordered(make_patients, make_predictions, tmp_path) -> None:
    config = Config(
        evaluation=Evaluation(bootstrap=100),
        diagnosis=Diagnosis(
            models={"mn": Model(task="stage"), "other": Model(task="stage"), "full": Model()}
        ),
    )
    names = {"IgAN": "I", "MN": "II", "LN": "III"}
    rows = pd.concat([make_predictions(model="mn", skill=3.0), make_predictions(model="other", draw=4)])
    rows = rows.rename(columns={f"p_{old}": f"p_{new}" for old, new in names.items()})
    rows["predicted"] = rows["predicted"].map(names)
    patients = make_patients()
    staged = patients.assign(label=patients["label"].map(names))
    found = summarise(rows.reset_index(drop=True), staged, config, PHANTOM, "stage")
    assert found.models["model"].tolist() == ["mn", "other"]
    assert found.models["ceiling"].isna().all()
    cells = found.pooled.set_index(["model", "metric"])
    assert (
        -1 <= cells.loc[("mn", "quadratic_kappa"), "lower"] <= cells.loc[("mn", "quadratic_kappa"), "value"]
    )
    assert cells.loc[("mn", "absolute_error"), "value"] >= 0
    assert found.comparisons["metric"].tolist()[-2:] == ["quadratic_kappa", "absolute_error"]
    assert found.mean_sd["metric"].nunique() == 7
    found.write(tmp_path)
    assert Summary.read(tmp_path).settings["classes"] == ["I", "II", "III"]


def test_a_perfect_stage_model_has_open_intervals(make_patients) -> None:
    labels = np.arange(30) % 3
    scores = np.eye(3)[labels][None]
    settings = Evaluation(bootstrap=100)
    draws = bootstrap(labels, {"m": scores}, settings, seed=0, ordered=True)["m"]
    found = metric_intervals(labels, scores, draws, settings, ordered=True)
    kappa, error = found["quadratic_kappa"], found["absolute_error"]
    assert (kappa.value, kappa.upper, kappa.method) == (1, 1, "score")
    assert 0.6 < kappa.lower < 1
    assert (error.value, error.lower, error.method) == (0, 0, "score")
    assert 0 < error.upper < 0.3
