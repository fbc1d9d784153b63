import numpy as np
import pandas as pd
import pytest

from glomflow.config import FewShot
from glomflow.errors import GlomflowError
from glomflow.evaluation.draws import DRAWS, check_draws, connected_groups, draw_digest, draw_shots
from glomflow.tables import read_table, write_table

SETTINGS = FewShot(shots=[1, 2, 4], runs=6)


def _slides(count: int = 8, each: int = 4) -> list[tuple[str, str, str, int]]:
    return [
        (f"S{number}", f"P{number}", lesion, each)
        for number in range(count)
        for lesion in ("normal", "sclerosed")
    ]


@pytest.mark.parametrize(
    ("slides", "patients", "groups"),
    [
        (["a", "b", "c"], ["1", "2", "3"], [0, 1, 2]),
        (["a", "b", "c"], ["1", "1", "3"], [0, 0, 1]),
        (["a", "b", "b", "c"], ["1", "1", "2", "2"], [0, 0, 0, 0]),
        (["a", "a", "b"], [None, None, None], [0, 0, 1]),
    ],
)
def test_slides_and_patients_are_joined(slides, patients, groups) -> None:
    found = connected_groups(pd.Series(slides), pd.Series(patients, dtype="str"))
    assert found.tolist() == groups


def test_no_slide_or_patient_crosses_and_shots_are_nested(make_index, tmp_path) -> None:
    rows = [*_slides(), ("S8", "P0", "normal", 3), ("S9", "P1", None, 5)]
    draws = draw_shots(make_index(rows), SETTINGS, seed=3)
    assert list(draws.columns) == list(DRAWS)
    assert len(draws) == 6 * (8 * 8 + 3)
    for column in ("slide", "patient", "group"):
        assert (draws.groupby(["run", column])["split"].nunique() == 1).all()
    assert draws.loc[draws["split"] == "test", "order"].eq(-1).all()
    for _, own in draws[draws["split"] == "train"].groupby(["run", "label"]):
        assert sorted(own["order"]) == list(range(len(own)))
        assert len(own) >= 4
    assert (draws[draws["split"] == "test"].groupby("run")["label"].nunique() == 2).all()
    write_table(tmp_path / "draws.parquet", draws, DRAWS)
    assert draw_digest(read_table(tmp_path / "draws.parquet", DRAWS)) == draw_digest(draws)


def test_draws_are_reproducible_and_more_runs_leave_the_first_alone(make_index) -> None:
    index = make_index(_slides())
    draws = draw_shots(index, SETTINGS, seed=3)
    shuffled = draw_shots(index.sample(frac=1, random_state=0), SETTINGS, seed=3)
    assert draw_digest(draws) == draw_digest(shuffled)
    assert draw_digest(draws) != draw_digest(draw_shots(index, SETTINGS, seed=4))
    more = draw_shots(index, FewShot(shots=[1, 2, 4], runs=9), seed=3)
    pd.testing.assert_frame_equal(more[more["run"] < 6], draws)


def test_allow_fewer_takes_what_there_is(make_index) -> None:
    index = make_index(_slides(each=1))
    draws = draw_shots(index, FewShot(shots=[1, 16], runs=2, allow_fewer=True), seed=0)
    assert draws["order"].max() == 3


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            [*_slides(4), ("S0", "P0", "rare", 3), ("S1", "P1", "rare", 2)],
            FewShot(shots=[4]),
            r"class 'rare' has at most 3 crops on the training slides \(of 5, one slide being left to "
            r"test\), but few_shot\.shots asks for 4; lower few_shot\.shots, or set allow_fewer: true",
        ),
        (
            [("S0", "P0", "a", 4), ("S1", "P1", "a", 4), ("S2", "P2", "b", 4), ("S3", "P3", "b", 4)],
            FewShot(shots=[4], train_slide_fraction=0.25),
            r"class 'a' has 4 crops on the training slides in the best of 2000 draws .* together with "
            r"the other classes; lower few_shot\.shots, change few_shot\.train_slide_fraction, "
            r"or set allow_fewer: true",
        ),
        (
            [*_slides(4), ("S0", "P0", "rare", 9)],
            FewShot(shots=[1]),
            r"all crops of class 'rare' are on one slide .* leave it out of few_shot\.classes",
        ),
        (
            _slides(4),
            FewShot(classes=["normal", "crescentic"]),
            r"no crop of class 'crescentic'; the crops have ",
        ),
        (
            [("S0", "P0", "normal", 4)],
            FewShot(),
            r"the crops name 1 lesion class\(es\) \['normal'\]; at least two",
        ),
        ([*_slides(4), ("", "P9", "normal", 1)], FewShot(), r"crop '-normal-0' has no slide"),
        ([*_slides(4), *_slides(1)], FewShot(), r"crop 'S0-normal-0' occurs twice"),
    ],
)
def test_what_cannot_be_drawn_is_named(make_index, rows, settings, message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        draw_shots(make_index(rows), settings, seed=0)


@pytest.mark.parametrize("column", ["slide", "patient"])
def test_a_crossing_slide_or_patient_is_named(make_index, column: str) -> None:
    draws = draw_shots(make_index(_slides()), SETTINGS, seed=3)
    run = draws["run"] == 2
    train = draws.index[run & (draws["split"] == "train")][0]
    draws.loc[train, column] = draws.loc[run & (draws["split"] == "test"), column].iloc[0]
    with pytest.raises(GlomflowError, match=f"{column} '[SP][0-9]' is both trained on and tested in run 2"):
        check_draws(draws)


def test_the_error_of_allow_fewer_does_not_advise_allow_fewer(make_index) -> None:
    rows = [("S0", "P0", "a", 4), ("S1", "P1", "a", 4), ("S2", "P2", "b", 4), ("S3", "P3", "b", 4)]
    settings = FewShot(shots=[4], train_slide_fraction=0.25, allow_fewer=True)
    with pytest.raises(GlomflowError, match="or leave the class out of few_shot"):
        draw_shots(make_index(rows), settings, seed=0)


def test_group_numbers_do_not_depend_on_the_order_of_rows() -> None:
    slides, patients = pd.Series(["b", "a", "c"]), pd.Series(["1", "2", "1"])
    assert connected_groups(slides, patients).tolist() == [1, 0, 1]
    assert np.array_equal(connected_groups(slides[::-1], patients[::-1]), [1, 0, 1])
