"""Runs from draws."""

from __future__ import annotations

import pandas as pd
import pytest

from glomflow.errors import GlomflowError
from glomflow.training.vlm_shots import shots_of_draws

CROPS = [f"c{number}" for number in range(12)]
CLASSES = ["a", "b"]


def make_draws(validation: bool = True) -> pd.DataFrame:
    rows = []
    for run in range(2):
        for number, crop in enumerate(CROPS):
            label = CLASSES[number % 2]
            group = (number // 2 + run) % 3  # two crops per class and split
            split = ["train", "validation", "test"][group]
            if split == "validation" and not validation:
                split = "test"
            order = (number // 6) if split == "train" else -1
            shots = {0: "1;2", 1: "2"}.get(order, "")
            rows.append((run, crop, label, split, order, shots))
    return pd.DataFrame(rows, columns=["run", "crop", "label", "split", "order", "shots"])


def test_runs_and_shots() -> None:
    shots, keys = shots_of_draws(make_draws(), CROPS, CLASSES, [2, 1], seed=1)
    assert keys.to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert shots.names == ("run 0, 1 shots", "run 0, 2 shots", "run 1, 1 shots", "run 1, 2 shots")
    assert shots.train.rows[shots.train.mask].tolist() == [0, 1, 0, 6, 1, 7, 4, 5, 4, 10, 5, 11]
    assert shots.train.counts(2).tolist() == [[1, 1], [2, 2], [1, 1], [2, 2]]
    assert shots.validation.rows[0].tolist() == [2, 3, 8, 9]
    assert len(set(shots.seeds)) == 4
    other, _ = shots_of_draws(make_draws(), CROPS, CLASSES, [1], seed=1)
    assert other.seeds == shots.seeds[::2]  # a run's seed does not hang on the other numbers of shots


def test_no_test_crop_comes_in() -> None:
    draws = make_draws()
    shots, keys = shots_of_draws(draws, CROPS, CLASSES, [1, 2], seed=0)
    for place, run in enumerate(keys["run"]):
        tested = {
            CROPS.index(c) for c in draws.loc[(draws["run"] == run) & (draws["split"] == "test"), "crop"]
        }
        for rows in (shots.train, shots.validation):
            assert not tested & set(rows.rows[place][rows.mask[place]].tolist())
    only, _ = shots_of_draws(draws[draws["split"] != "test"], CROPS, CLASSES, [1, 2], seed=0)
    assert only.train.rows.tolist() == shots.train.rows.tolist()


def test_without_validation() -> None:
    shots, _ = shots_of_draws(make_draws(validation=False), CROPS, CLASSES, [1], seed=0)
    assert shots.validation is None


def test_too_few_crops() -> None:
    draws = make_draws()
    draws = draws[~((draws["run"] == 1) & (draws["label"] == "b") & (draws["order"] == 1))]
    with pytest.raises(GlomflowError, match=r"run 1: class 'b' has 1 training crops.*allow_fewer: true"):
        shots_of_draws(draws, CROPS, CLASSES, [1, 2], seed=0)
    shots, _ = shots_of_draws(draws, CROPS, CLASSES, [1, 2], seed=0, allow_fewer=True)
    assert shots.train.counts(2).tolist() == [[1, 1], [2, 2], [1, 1], [2, 1]]


def test_draws_that_do_not_fit() -> None:
    with pytest.raises(GlomflowError, match="crop 'c11' of the draws has no features"):
        shots_of_draws(make_draws(), CROPS[:11], CLASSES, [1], seed=0)
    with pytest.raises(GlomflowError, match="the draws name class 'b'; the classes are a, z"):
        shots_of_draws(make_draws(), CROPS, ["a", "z"], [1], seed=0)
    draws = make_draws()
    partly = draws[~((draws["run"] == 1) & (draws["split"] == "validation"))]
    with pytest.raises(GlomflowError, match="run 1 has no validation crop"):
        shots_of_draws(partly, CROPS, CLASSES, [1], seed=0)
