"""Adapted vision-language models on the draws of the few-shot experiment."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from glomflow.config import FINE_TUNED, TEXT_FREE, AdaptationMethod, Adapted, FewShot
from glomflow.errors import GlomflowError
from glomflow.evaluation.adapted import Grid, predict_features
from glomflow.evaluation.draws import draw_shots
from glomflow.models.vlm.methods.base import ClassText
from glomflow.models.vlm.methods.registry import FEATURE_METHODS, TUNED_METHODS, feature_method
from glomflow.models.vlm.prompts import Prompts
from glomflow.report.words_few_shot import ADAPTATIONS
from glomflow.shots import left_out_shots, shots_of, shown_at
from glomflow.tables import FEW_SHOT, GEOMETRY, probability_columns, write_table

CLASSES = ["normal", "sclerosed"]
SLIDES = [(f"S{number}", f"P{number}", lesion, 4) for number in range(8) for lesion in CLASSES]


@pytest.fixture
def index(make_index) -> pd.DataFrame:
    return make_index(SLIDES)


def space(index: pd.DataFrame) -> tuple[list[str], torch.Tensor, ClassText]:
    """Images near their class's text, with noise; unit length."""
    rng = np.random.default_rng(0)
    texts = np.eye(2, 6)
    number = index["lesion"].map({name: place for place, name in enumerate(CLASSES)}).to_numpy()
    images = texts[number] + rng.normal(0, 0.35, (len(index), 6))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    prompts = Prompts(tuple(CLASSES), tuple(CLASSES), (("a",), ("b",)))
    return (
        index["crop"].tolist(),
        torch.from_numpy(images),
        ClassText(torch.from_numpy(texts), 10.0, None, prompts),
    )


def grid_of(index: pd.DataFrame, shots: list[int], **settings: object) -> Grid:
    few_shot = FewShot(shots=[1, 2, 4], runs=3, **settings)
    return Grid(draw_shots(index, few_shot, seed=1), index["crop"].tolist(), CLASSES, shots, seed=1)


def test_every_test_crop_is_predicted_once_per_run_and_shots(index, tmp_path) -> None:
    crops, table, text = space(index)
    grid = grid_of(index, [1, 4])
    rows, described, remarks = predict_features("tip", Adapted(method="tip_adapter"), grid, table, text)
    write_table(tmp_path / "p.parquet", rows, FEW_SHOT, probability_columns(CLASSES))
    write_table(tmp_path / "g.parquet", described, GEOMETRY)
    assert not rows.duplicated(["run", "shots", "crop"]).any()
    test = grid.draws[grid.draws["split"] == "test"]
    for (run, shots), own in rows.groupby(["run", "shots"]):
        assert set(own["crop"]) == set(test.loc[test["run"] == run, "crop"]), (run, shots)
    assert sorted(rows["shots"].unique()) == [1, 4]
    assert rows[["own_cosine", "cosine_gap", "silhouette"]].notna().all().all()
    assert described[["temperature", "scaled_ece"]].isna().all().all()
    assert remarks == []
    right = (rows["predicted"] == rows["label"]).mean()
    assert right > 0.8
    truth = index.set_index("crop")["lesion"].map({"normal": 0, "sclerosed": 1})
    expected = (table @ text.embeddings.T).numpy()[np.arange(len(crops)), truth.loc[crops]]
    own = rows.drop_duplicates("crop").set_index("crop")["own_cosine"]
    np.testing.assert_allclose(own, pd.Series(expected, index=crops).loc[own.index], atol=1e-6)


def test_only_shots_of_training_slides_are_learned_from(index) -> None:
    """Features of all other training crops, of the test crops' labels and of validation change nothing."""
    _, table, text = space(index)
    grid = grid_of(index, [2])
    first, _, _ = predict_features("probe", Adapted(method="linear_probe"), grid, table, text)
    train = grid.draws[(grid.draws["split"] == "train") & shown_at(grid.draws["shots"], 2)]
    shown = set(train["crop"])
    unseen = [place for place, crop in enumerate(grid.crops) if crop not in shown]
    other = table.clone()
    other[unseen] = other[unseen].flip(1)
    second, _, _ = predict_features("probe", Adapted(method="linear_probe"), grid, other, text)
    third, _, _ = predict_features("probe", Adapted(method="linear_probe"), grid, other, text)
    pd.testing.assert_frame_equal(second, third)
    seen_in_training = first["crop"].isin(shown)
    columns = ["p_normal", "p_sclerosed"]
    np.testing.assert_allclose(
        first.loc[seen_in_training, columns], second.loc[seen_in_training, columns], atol=1e-9
    )
    assert not np.allclose(first.loc[~seen_in_training, columns], second.loc[~seen_in_training, columns])


def test_validation_slides_give_a_temperature_and_never_a_test_crop(index) -> None:
    _, table, text = space(index)
    grid = grid_of(index, [2], train_slide_fraction=0.4, validation_slide_fraction=0.2)
    assert set(grid.draws["split"]) == {"train", "validation", "test"}
    for column in ("slide", "patient"):
        assert (grid.draws.groupby(["run", column])["split"].nunique() == 1).all()
    settings = Adapted(method="tip_adapter", selection="validation")
    rows, described, _ = predict_features("tip", settings, grid, table, text)
    held = grid.draws[grid.draws["split"] == "validation"]
    for run, own in rows.groupby("run"):
        assert not set(own["crop"]) & set(held.loc[held["run"] == run, "crop"])
    assert described[["validation_auc", "temperature", "scaled_ece"]].notna().all().all()


def test_a_method_that_needs_a_text_is_refused_without_one(index) -> None:
    _, table, _ = space(index)
    none = ClassText.none(2, table.shape[1])
    with pytest.raises(GlomflowError, match="clap: it compares images with texts, and the backbone has no"):
        predict_features("own", Adapted(method="clap"), grid_of(index, [1]), table, none)


def test_zero_shot_runs_without_shots_and_learns_nothing(index) -> None:
    assert shots_of("zero_shot", [0, 1, 4]) == [0]
    assert shots_of("clap", [0, 4, 1]) == [1, 4]
    _, table, text = space(index)
    rows, _, _ = predict_features("zero", Adapted(method="zero_shot"), grid_of(index, [0]), table, text)
    assert rows["shots"].unique().tolist() == [0]
    assert rows.groupby("crop")["p_normal"].nunique().max() == 1
    more = FewShot(shots=[0, 2, 4], runs=3)
    grid = Grid(draw_shots(index, more, seed=1), index["crop"].tolist(), CLASSES, [0], seed=1)
    other, _, _ = predict_features("zero", Adapted(method="zero_shot"), grid, table, text)
    pd.testing.assert_frame_equal(rows, other)
    assert left_out_shots("zero_shot", [0, 1]) == left_out_shots("clap", [1]) == []
    assert left_out_shots("clap", [0, 1]) == [
        "clap learns from labelled crops, so 0 shots are left out; zero_shot runs there"
    ]


def test_a_pool_is_shared_by_runs_that_do_not_overlap(index) -> None:
    settings = FewShot(shots=[1, 2, 4], runs=4, draws="pool")
    draws = draw_shots(index, settings, seed=2)
    test = draws[draws["split"] == "test"].groupby("run")["crop"].agg(set)
    assert all(found == test.iloc[0] for found in test)
    shown = draws[(draws["split"] == "train") & (draws["order"] < 4)]
    assert not shown.duplicated("crop").any()
    for _, own in draws[draws["split"] == "train"].groupby(["run", "label"]):
        assert sorted(own["order"]) == list(range(len(own)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"sharpness": 2}}, "'sharpness' is no setting of TipAdapterSettings"),
        ({"method": "clap", "settings": {"recipe": {"lrr": 1}}}, "'lrr' is no setting of Recipe"),
        ({"preset": "other"}, "tip_adapter: preset 'other' is not known; choose among default"),
        ({"method": "vanilla"}, r"few_shot\.adapted\.tip: vanilla does not train on cached features"),
    ],
)
def test_what_cannot_be_run_is_named(index, change, message) -> None:
    _, table, text = space(index)
    settings = Adapted(method="tip_adapter").model_copy(update=change)
    with pytest.raises(GlomflowError, match=message):
        predict_features("tip", settings, grid_of(index, [1]), table, text)


def test_a_crop_without_features_is_named(index) -> None:
    _, table, text = space(index)
    grid = grid_of(index, [1])
    tested = grid.draws.query("run == 0 and split == 'test'")["crop"].iloc[0]
    kept = [crop for crop in grid.crops if crop != tested]
    short = Grid(grid.draws, kept, CLASSES, [1], seed=1)
    with pytest.raises(GlomflowError, match=rf"crop '{tested}' .*has no features \(1 such\)"):
        predict_features("tip", Adapted(method="tip_adapter"), short, table[1:], text)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"adapted": {"a": {"method": "clap", "selection": "validation"}}}, "set validation_slide_fraction"),
        ({"adapted": {"linear_probe": {"method": "linear_probe"}}}, "is one of methods as well"),
        ({"validation_slide_fraction": 0.5}, "leave no slide to test on"),
    ],
)
def test_the_configuration_refuses_what_cannot_be_run(keys, message) -> None:
    with pytest.raises(ValueError, match=message):
        FewShot(**keys)


def test_a_recipe_is_changed_in_part() -> None:
    method = feature_method("clap", "default", recipe={"epochs": 3})
    assert method.settings.recipe.epochs == 3
    assert method.settings.recipe.lr == feature_method("clap").settings.recipe.lr


def test_the_configuration_knows_which_methods_there_are() -> None:
    assert set(FINE_TUNED) == set(TUNED_METHODS)
    free = [name for name in FEATURE_METHODS if not feature_method(name).needs_text]
    assert set(TEXT_FREE) == set(free)
    assert set(get_args(AdaptationMethod)) == {*TUNED_METHODS, *FEATURE_METHODS} == set(ADAPTATIONS)
