import numpy as np
import pandas as pd
import pytest

from glomflow.config import Evaluation, FewShot
from glomflow.errors import GlomflowError
from glomflow.evaluation.draws import draw_shots
from glomflow.evaluation.few_shot import few_shot, fit_predict, pool_features
from glomflow.evaluation.few_shot_details import Resamples, calibration_rows, recall_rows, scaled
from glomflow.evaluation.few_shot_schemas import FEW_SHOT_FILES, TABLES
from glomflow.evaluation.few_shot_summary import FewShotSummary, few_shot_summary
from glomflow.evaluation.metrics import ece
from glomflow.evaluation.vlm_metrics import scale_temperature
from glomflow.tables import FEW_SHOT, FEW_SHOT_SPACE, probability_columns, read_table, write_table

SETTINGS = FewShot(shots=[1, 4], runs=6)
EVALUATION = Evaluation(bootstrap=200)
CLASSES = ["normal", "sclerosed"]


@pytest.fixture(scope="module")
def index(make_index) -> pd.DataFrame:
    rows = [(f"S{number}", f"P{number}", lesion, 5) for number in range(8) for lesion in (*CLASSES, None)]
    return make_index(rows)


def _maps(index: pd.DataFrame, signal: float = 4.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(len(index), 2, 2, 6)).astype(np.float16)
    maps[(index["lesion"] == "sclerosed").to_numpy(), ..., 0] += signal
    return maps


def _crops(index: pd.DataFrame, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (len(index), 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def draws(index) -> pd.DataFrame:
    return draw_shots(index, SETTINGS, seed=1)


@pytest.fixture(scope="module")
def predictions(index, draws) -> pd.DataFrame:
    return few_shot([index], [_maps(index)], [_crops(index)], SETTINGS, seed=1, draws=draws)


def test_every_test_crop_is_predicted_once(predictions, draws, tmp_path) -> None:
    test = draws[draws["split"] == "test"]
    expected = set(zip(test["run"], test["crop"], strict=True))
    for _, rows in predictions.groupby(["method", "shots"]):
        assert len(rows) == len(expected)
        assert set(zip(rows["run"], rows["crop"], strict=True)) == expected
    assert predictions[["p_normal", "p_sclerosed"]].sum(axis=1).to_numpy() == pytest.approx(1.0)
    extra = probability_columns(CLASSES)
    write_table(tmp_path / "few_shot.parquet", predictions, FEW_SHOT, extra)
    assert len(read_table(tmp_path / "few_shot.parquet", FEW_SHOT, extra)) == len(predictions)


def test_shards_and_drawing_inside_change_nothing(index, predictions) -> None:
    maps, crops = _maps(index), _crops(index)
    parts = [slice(0, 37), slice(37, 37), slice(37, None)]
    again = few_shot(
        [index[part] for part in parts],
        [maps[part] for part in parts],
        [crops[part] for part in parts],
        SETTINGS,
        seed=1,
    )
    pd.testing.assert_frame_equal(again, predictions)


def test_the_test_slides_do_not_enter_the_training(index, draws) -> None:
    maps = _maps(index)
    changed = maps.copy()
    one = draws[(draws["run"] == 0) & (draws["split"] == "test")]["crop"]
    changed[index["crop"].isin(one.iloc[:1]).to_numpy()] += 5
    settings = SETTINGS.model_copy(update={"methods": ["linear_probe"]})
    first, second = (
        few_shot([index], [values], [], settings, seed=1, draws=draws[draws["run"] == 0])
        for values in (maps, changed)
    )
    others = first["crop"] != one.iloc[0]
    pd.testing.assert_frame_equal(first[others], second[others])
    assert not first[~others].equals(second[~others])


def test_signal_is_found_and_noise_is_not(predictions, draws) -> None:
    summary = few_shot_summary(predictions, draws, EVALUATION, seed=0)
    rows = summary.metrics.set_index(["method", "shots", "metric"])
    assert rows.loc[("linear_probe", 4, "balanced_accuracy"), "lower"] > 0.7
    assert rows.loc[("colour_texture", 4, "balanced_accuracy"), "lower"] < 0.6
    paired = summary.comparisons.set_index(["shots", "metric"])
    row = paired.loc[(4, "balanced_accuracy")]
    assert row["lower"] > 0
    assert row["p_value"] <= row["p_holm"] < 0.05


def test_summary_is_the_mean_over_runs(predictions, draws, tmp_path) -> None:
    from sklearn.metrics import balanced_accuracy_score

    key = ("linear_probe", 1)
    summary = few_shot_summary(predictions, draws, EVALUATION, seed=0)
    rows = predictions[(predictions["method"] == "linear_probe") & (predictions["shots"] == 1)]
    values = [balanced_accuracy_score(run["label"], run["predicted"]) for _, run in rows.groupby("run")]
    row = summary.metrics.set_index(["method", "shots", "metric"]).loc[
        ("linear_probe", 1, "balanced_accuracy")
    ]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values))
    assert (row["runs"], row["slides"], row["crops"]) == (6, 7, 40)
    assert row["lower"] <= row["mean"] <= row["upper"]
    assert summary.confusion.groupby(["method", "shots"])["count"].sum()[key] == pytest.approx(40)
    summary.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FEW_SHOT_FILES)
    again = FewShotSummary.read(tmp_path)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(summary, name), check_dtype=False)


def test_slides_that_differ_widen_the_interval(index, draws) -> None:
    test = draws[draws["split"] == "test"]
    widths = []
    truth = test["label"].map(CLASSES.index).to_numpy()
    by_slide = np.isin(test["slide"], ["S0", "S1"])
    by_crop = test["crop"].isin(np.random.default_rng(0).permutation(test["crop"].unique())[:20]).to_numpy()
    for wrong in (by_slide, by_crop):
        called = np.where(wrong, 1 - truth, truth)
        rows = test[["run", "crop", "slide", "label"]].assign(method="linear_probe", shots=1)
        rows["predicted"] = np.array(CLASSES)[called]
        rows[list(FEW_SHOT_SPACE)] = np.nan
        rows[["p_normal", "p_sclerosed"]] = np.eye(2)[called]
        table = few_shot_summary(rows, draws, EVALUATION, seed=0).metrics.set_index("metric")
        widths.append(table.loc["balanced_accuracy", "upper"] - table.loc["balanced_accuracy", "lower"])
    assert widths[0] > 1.5 * widths[1]


def test_perfect_predictions_get_the_interval_of_their_slides(draws) -> None:
    test = draws[draws["split"] == "test"]
    rows = test[["run", "crop", "slide", "label"]].assign(
        method="linear_probe", shots=1, predicted=test["label"]
    )
    rows[list(FEW_SHOT_SPACE)] = np.nan
    rows[["p_normal", "p_sclerosed"]] = np.eye(2)[test["label"].map(CLASSES.index)]
    summary = few_shot_summary(rows, draws, EVALUATION, seed=0)
    row = summary.metrics.set_index("metric").loc["balanced_accuracy"]
    assert (row["mean"], row["upper"], row["interval"]) == (1.0, 1.0, "wilson")
    assert row["lower"] == pytest.approx(7 / (7 + 1.96**2), abs=1e-3)
    assert summary.comparisons.empty


def test_pooling_averages_cells() -> None:
    maps = np.arange(24, dtype=np.float16).reshape(2, 2, 2, 3)
    assert pool_features(maps).tolist() == [[4.5, 5.5, 6.5], [16.5, 17.5, 18.5]]
    assert pool_features(maps[:, 0, 0], np.array([1])).tolist() == [[12, 13, 14]]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), r"features of row 1 are not finite \(1 such\)"),
        (np.zeros((2, 3, 4)), r"features of shape \(2, 3, 4\); expected"),
    ],
)
def test_unusable_features(maps: np.ndarray, message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        pool_features(maps)


def test_probe_is_balanced_and_ordered_as_the_classes() -> None:
    shots = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
    scores = fit_predict(
        shots, ["b", "b", "b", "a"], np.array([[1.0, 0.0], [0.0, 1.0]]), ["a", "b"], penalty=10
    )
    assert scores.argmax(axis=1).tolist() == [1, 0]
    assert scores.sum(axis=1) == pytest.approx([1, 1])


def test_a_class_without_a_shot_is_named() -> None:
    with pytest.raises(GlomflowError, match="no shot of class 'b'"):
        fit_predict(np.eye(2), ["a", "a"], np.eye(2), ["a", "b"], penalty=1)


def test_stores_of_other_lengths_are_an_error(index, draws) -> None:
    with pytest.raises(
        GlomflowError, match=r"few-shot, linear_probe: stores of \[3\] rows for crop indexes of"
    ):
        few_shot([index], [_maps(index)[:3]], [_crops(index)], SETTINGS, seed=1, draws=draws)


def test_draws_of_other_crops_are_an_error(index, draws) -> None:
    changed = index.replace({"crop": {"S0-normal-0": "new"}})
    with pytest.raises(GlomflowError, match=r"is not both in the draws and in the crop index \(2 such\)"):
        few_shot([changed], [_maps(index)], [_crops(index)], SETTINGS, seed=1, draws=draws)


def _train_crop(rows: pd.DataFrame, draws: pd.DataFrame) -> pd.DataFrame:
    train = draws[(draws["run"] == 0) & (draws["split"] == "train")].iloc[0]
    return pd.concat([rows, rows[rows["run"] == 0].iloc[:1].assign(crop=train["crop"])])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda rows, _: rows.iloc[1:],
            r"linear_probe, 1 shots: crop '.*' is a test crop of the run, but is not",
        ),
        (
            lambda rows, _: pd.concat([rows, rows.iloc[:1]]),
            r"crop '.*' is predicted twice in run 0 \(1 such\)",
        ),
        (_train_crop, r"crop '.*' is predicted, but is no test crop of the run 0"),
        (
            lambda rows, _: rows.assign(label="other"),
            r"crop '.*': label 'other' is not one of normal, sclerosed",
        ),
        (lambda rows, _: rows.assign(p_normal=2.0), r"row 0 \(.*\): a probability is not between 0 and 1"),
        (lambda rows, _: rows.iloc[:0], "there is no prediction to summarise"),
    ],
)
def test_unusable_predictions_name_the_crop(predictions, draws, spoil, message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        few_shot_summary(spoil(predictions, draws), draws, EVALUATION, seed=0)


def test_reading_an_unfinished_summary_names_the_file(tmp_path) -> None:
    with pytest.raises(GlomflowError, match=r"missing metrics\.parquet, per_run\.parquet"):
        FewShotSummary.read(tmp_path)


def _four(probabilities: list[float], predicted: list[str]) -> pd.DataFrame:
    """Two runs that test the same two crops on two slides."""
    return pd.DataFrame(
        {
            "run": [0, 0, 1, 1],
            "round": [0, 0, 1, 1],
            "crop": ["a", "b", "a", "b"],
            "slide": ["S0", "S1", "S0", "S1"],
            "label": ["normal", "normal", "normal", "normal"],
            "predicted": predicted,
            "group": [0, 1, 0, 1],
            "p_normal": probabilities,
            "p_sclerosed": [1 - value for value in probabilities],
            "temperature": np.nan,
        }
    )


def _drawn(slides, runs) -> Resamples:
    return Resamples(np.array(slides, float), np.array(runs, float), 0.95)


def test_recall_of_a_class_is_resampled_by_slide_and_run() -> None:
    rows = _four([0.9, 0.9, 0.9, 0.2], ["normal", "normal", "normal", "sclerosed"])
    drawn = _drawn([[2, 0], [0, 2], [1, 1]], [[1, 1], [0, 2], [2, 0]])
    normal, sclerosed = recall_rows({"method": "m", "shots": 1}, rows, CLASSES, drawn)
    assert (normal["mean"], normal["sd"], normal["crops"], normal["slides"]) == (0.75, 0.25, 2.0, 2)
    # S0 twice, both runs: 1; S1 twice, second run twice: 0; both slides, first run twice: 1.
    assert (normal["lower"], normal["upper"]) == pytest.approx(np.quantile([1.0, 0.0, 1.0], [0.025, 0.975]))
    assert np.isnan(sclerosed["mean"])
    assert (sclerosed["interval"], sclerosed["crops"]) == ("none", 0.0)


def test_reliability_counts_and_weighs_the_crops_of_a_bin() -> None:
    rows = _four([0.9, 0.9, 0.8, 0.2], ["normal", "normal", "normal", "sclerosed"])
    drawn = _drawn([[2, 0], [0, 2], [1, 1]], [[1, 1], [0, 2], [2, 0]])
    found = pd.DataFrame(calibration_rows({"method": "m", "shots": 1}, rows, CLASSES, drawn, 5))
    assert found["probabilities"].unique().tolist() == ["stated"]
    assert found["crops"].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    fourth, last = found.iloc[3], found.iloc[4]
    assert (fourth["confidence"], fourth["accuracy"]) == pytest.approx((0.8, 0.5))
    assert (last["confidence"], last["accuracy"], last["slides"]) == pytest.approx((0.9, 1.0, 2))
    # Only the second run is in the fourth bin: S0 right, S1 wrong, and the third resample leaves it out.
    assert (fourth["lower"], fourth["upper"]) == pytest.approx(np.quantile([1.0, 0.0], [0.025, 0.975]))
    assert (last["interval"], last["upper"]) == ("wilson", 1.0)
    assert last["lower"] == pytest.approx(0.342, abs=1e-3)
    assert found.loc[:2, ["confidence", "accuracy", "lower"]].isna().all().all()


def test_scaled_probabilities_are_those_of_the_logits_divided() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (6, 3))
    stated, wanted = scale_temperature(logits), scale_temperature(logits, 2.5)
    assert scaled(stated, np.full(6, 2.5)) == pytest.approx(wanted, abs=1e-12)
    assert scaled(np.array([[1.0, 0.0]]), np.ones(1)) == pytest.approx(np.array([[1.0, 0.0]]))


def test_temperatures_give_a_second_calibration_error(predictions, draws) -> None:
    shown = predictions[predictions["method"] == "linear_probe"]
    keys = shown[["method", "shots", "run"]].drop_duplicates().reset_index(drop=True)
    geometry = keys[keys["shots"] == 4].assign(temperature=2.0)
    found = few_shot_summary(predictions, draws, EVALUATION, seed=0, geometry=geometry)
    scores = found.metrics[found.metrics["metric"] == "scaled_ece"]
    assert scores[["method", "shots"]].to_numpy().tolist() == [["linear_probe", 4]]
    columns = ["p_normal", "p_sclerosed"]
    expected = []
    for _, run in shown[shown["shots"] == 4].groupby("run"):
        logits = np.log(run[columns].to_numpy())
        labels = run["label"].map(CLASSES.index).to_numpy()
        expected.append(float(ece(labels, scale_temperature(logits, 2.0), bins=15)))
    assert scores["mean"].item() == pytest.approx(np.mean(expected))
    kinds = found.calibration.groupby(["method", "shots"])["probabilities"].nunique()
    assert kinds[("linear_probe", 4)] == 2
    assert kinds.drop(("linear_probe", 4)).eq(1).all()
    plain = few_shot_summary(predictions, draws, EVALUATION, seed=0).metrics
    pd.testing.assert_frame_equal(found.metrics.drop(scores.index).reset_index(drop=True), plain)
    with pytest.raises(GlomflowError, match=r"linear_probe, 4 shots, run 0 is described twice"):
        few_shot_summary(
            predictions, draws, EVALUATION, seed=0, geometry=pd.concat([geometry, geometry.head(1)])
        )


def test_the_calibration_error_has_the_bins_of_the_settings(predictions, draws) -> None:
    key = ("linear_probe", 1, "ece")
    few, many = (
        few_shot_summary(predictions, draws, EVALUATION.model_copy(update={"ece_bins": bins}), seed=0)
        for bins in (2, 15)
    )
    value = few.metrics.set_index(["method", "shots", "metric"]).loc[key, "mean"]
    assert value != many.metrics.set_index(["method", "shots", "metric"]).loc[key, "mean"]
    assert len(few.calibration) * 15 == len(many.calibration) * 2


def test_recalls_average_to_the_balanced_accuracy(predictions, draws) -> None:
    found = few_shot_summary(predictions, draws, EVALUATION, seed=0)
    means = found.recalls.groupby(["method", "shots"])["mean"].mean()
    overall = found.metrics[found.metrics["metric"] == "balanced_accuracy"].set_index(["method", "shots"])
    assert means.to_numpy() == pytest.approx(overall["mean"].reindex(means.index).to_numpy())


def _site_predictions(draws: pd.DataFrame, wrong: frozenset[str]) -> pd.DataFrame:
    """Certain predictions, right but at the sites of ``wrong``."""
    test = draws[draws["split"] == "test"]
    truth = test["label"].map(CLASSES.index).to_numpy()
    called = np.where(test["site"].isin(wrong), 1 - truth, truth)
    rows = test[["run", "crop", "slide", "label"]].assign(method="linear_probe", shots=1)
    rows["predicted"] = np.array(CLASSES)[called]
    rows[list(FEW_SHOT_SPACE)] = np.nan
    rows[["p_normal", "p_sclerosed"]] = np.eye(2)[called]
    return rows.reset_index(drop=True)


def test_held_out_sites_are_summarised_each_and_together(make_index, tmp_path) -> None:
    """A crop counts once a round, so that a site weighs as many crops as it has."""
    slides = [(f"S{n}", f"P{n}", lesion, 2) for n in range(8) for lesion in CLASSES]
    sites = {f"P{n}": "large" if n < 6 else "small" for n in range(8)}
    settings = FewShot(shots=[1], runs=3, protocol="leave_one_site_out")
    draws = draw_shots(make_index(slides), settings, seed=0, sites=sites)
    predictions = _site_predictions(draws, frozenset({"small"}))
    summary = few_shot_summary(predictions, draws, EVALUATION, seed=0)
    row = summary.metrics.set_index("metric").loc["accuracy"]
    assert (row["mean"], row["sd"], row["runs"], row["slides"], row["crops"]) == (0.75, 0.0, 3, 8, 32)
    table = summary.sites.set_index(["site", "metric"])
    large, small = table.loc[("large", "accuracy")], table.loc[("small", "accuracy")]
    assert (large["mean"], large["slides"], large["crops"], large["classes"]) == (1.0, 6, 24, 2)
    assert (small["mean"], small["slides"], small["crops"], small["runs"]) == (0.0, 2, 8, 3)
    assert large["interval"] == "wilson"
    assert large["lower"] == pytest.approx(1 - 0.390334, abs=1e-5)  # Wilson, 6 of 6
    assert small["upper"] == pytest.approx(0.657620, abs=1e-5)  # 0 of 2
    runs = summary.per_run.set_index("run")
    assert runs["site"].tolist() == ["large", "small"] * 3
    assert runs["accuracy"].tolist() == [1.0, 0.0] * 3
    assert runs["crops"].tolist() == [24, 8] * 3
    assert summary.confusion["count"].sum() == 32
    summary.write(tmp_path)
    pd.testing.assert_frame_equal(FewShotSummary.read(tmp_path).sites, summary.sites, check_dtype=False)


def test_without_held_out_sites_there_is_no_row_of_sites(predictions, draws) -> None:
    summary = few_shot_summary(predictions, draws, EVALUATION, seed=0)
    assert summary.sites.empty
    assert summary.per_run["site"].isna().all()


def test_0_shots_are_left_out_by_what_learns(index, draws) -> None:
    settings = SETTINGS.model_copy(update={"shots": [0, 1], "methods": ["linear_probe"]})
    rows = few_shot([index], [_maps(index)], [], settings, seed=1, draws=draws)
    assert rows["shots"].unique().tolist() == [1]
