import numpy as np
import pandas as pd
import pytest

from glomflow.config import FewShot
from glomflow.errors import GlomflowError
from glomflow.evaluation.draw_slides import connected_groups
from glomflow.evaluation.draws import (
    DRAWS,
    check_draws,
    draw_digest,
    draw_remarks,
    draw_shots,
    rounds_of,
)
from glomflow.shots import fewest_shots, shown_at, written_shots
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


@pytest.mark.parametrize(
    ("pool", "nested", "expected"),
    [
        (5, True, ["1;2;4", "2;4", "4", "4", ""]),
        (8, False, ["1", "2", "2", "4", "4", "4", "4", ""]),
        (5, False, ["1;4", "2;4", "2", "4", "4"]),
        (3, False, ["1;4", "2;4", "2;4"]),
        (0, True, []),
    ],
)
def test_what_each_number_of_shots_takes(pool: int, nested: bool, expected: list[str]) -> None:
    assert written_shots(pool, [4, 0, 2, 1, 2], nested=nested) == expected


def test_a_number_of_shots_is_no_part_of_another() -> None:
    column = pd.Series(["1;16", "16", None, ""])
    assert shown_at(column, 1).tolist() == [True, False, False, False]
    assert shown_at(column, 16).tolist() == [True, True, False, False]
    assert fewest_shots(column) == 1


@pytest.mark.parametrize("draws", ["redrawn", "pool"])
def test_samples_are_nested_or_disjoint(make_index, draws: str) -> None:
    """A pool of 32 crops per class holds 4 runs of 1 + 2 + 4 shots without one crop twice."""
    index = make_index(_slides(16))
    tables = {}
    for nested in (True, False):
        settings = FewShot(shots=[1, 2, 4], runs=4, draws=draws, nested=nested)
        found = draw_shots(index, settings, seed=5)
        assert draw_remarks(found, settings) == []
        tables[nested] = found
        for _, own in found[found["split"] == "train"].groupby(["run", "label"]):
            taken = {count: set(own.loc[shown_at(own["shots"], count), "crop"]) for count in (1, 2, 4)}
            assert [len(crops) for crops in taken.values()] == [1, 2, 4]
            union = taken[1] | taken[2] | taken[4]
            assert len(union) == (4 if nested else 7)
        shown = found[found["shots"] != ""]
        assert shown.duplicated("crop").any() == (draws == "redrawn")
    assert draw_digest(tables[True]) != draw_digest(tables[False])
    columns = ["run", "crop", "split"]
    pd.testing.assert_frame_equal(tables[True][columns], tables[False][columns])


def test_a_pool_that_is_too_small_for_all_runs_keeps_most_of_them_apart(make_index) -> None:
    """16 crops per class: 4 runs have 4 each of their own, and share where 8 are asked for."""
    settings = FewShot(shots=[1, 2, 4, 8], runs=4, draws="pool")
    draws = draw_shots(make_index(_slides(8)), settings, seed=2)
    shown = {count: draws[shown_at(draws["shots"], count)] for count in settings.shots}
    assert [own.duplicated("crop").any() for own in shown.values()] == [False, False, False, True]
    assert draw_remarks(draws, settings) == [
        f"class '{name}' has a pool of 16 crops: 4 runs of 8 shots share crops"
        for name in ("normal", "sclerosed")
    ]


def test_classes_that_are_too_small_are_told_of(make_index) -> None:
    settings = FewShot(shots=[0, 1, 32], runs=2, allow_fewer=True, nested=False)
    draws = draw_shots(make_index(_slides(each=1)), settings, seed=0)
    most = draws[shown_at(draws["shots"], 32)].groupby(["run", "label"]).size()
    assert most.tolist() == [4, 4, 4, 4]
    assert draw_remarks(draws, settings)[:2] == [
        "class 'normal' has 4 training crops in the run with the fewest: 32 shots take all that there are",
        "class 'normal' has 4 training crops in the run with the fewest, and disjoint samples of 1, 32 shots "
        "take 33: they share crops",
    ]


SITES = {f"P{number}": "east" if number < 3 else "west" if number < 6 else "north" for number in range(9)}
HELD_OUT = FewShot(shots=[1, 4], runs=2, protocol="leave_one_site_out")


def test_each_site_is_held_out_in_turn_and_every_crop_tested_once_a_round(make_index) -> None:
    index = make_index(_slides(9))
    draws = draw_shots(index, HELD_OUT, seed=3, sites=SITES)
    rounds = rounds_of(draws)
    assert rounds["site"].tolist() == ["east", "north", "west"] * 2
    assert rounds["round"].tolist() == [0, 0, 0, 1, 1, 1]
    assert draws["site"].tolist() == draws["patient"].map(SITES).tolist()
    for run, own in draws.groupby("run"):
        tested = own["split"] == "test"
        assert set(own.loc[tested, "site"]) == {rounds.loc[run, "site"]}
        assert rounds.loc[run, "site"] not in set(own.loc[~tested, "site"])
    test = draws[draws["split"] == "test"].join(rounds["round"], on="run")
    for _, own in test.groupby("round"):
        assert sorted(own["crop"]) == sorted(index["crop"])
    shown = draws[shown_at(draws["shots"], 4)].groupby("run")["crop"].agg(frozenset)
    assert shown.nunique() == 6
    more = draw_shots(index, HELD_OUT.model_copy(update={"runs": 3}), seed=3, sites=SITES)
    pd.testing.assert_frame_equal(more[more["run"] < 6], draws)
    alone = HELD_OUT.model_copy(update={"hold_out_sites": ["west"]})
    west = draw_shots(index, alone, seed=3, sites=SITES)
    first = draws[draws["run"] == 2].drop(columns="run").reset_index(drop=True)
    pd.testing.assert_frame_equal(west[west["run"] == 0].drop(columns="run"), first)


def test_validation_slides_are_of_the_other_sites(make_index, tmp_path) -> None:
    settings = HELD_OUT.model_copy(update={"validation_slide_fraction": 0.3})
    draws = draw_shots(make_index(_slides(9)), settings, seed=3, sites=SITES)
    for _, own in draws.groupby("run"):
        slides = own.groupby("split")["slide"].nunique()
        assert slides.to_dict() == {"test": 3, "train": 4, "validation": 2}
        assert not set(own.loc[own["split"] == "validation", "site"]) & set(
            own.loc[own["split"] == "test", "site"]
        )
    write_table(tmp_path / "draws.parquet", draws, DRAWS)
    assert draw_digest(read_table(tmp_path / "draws.parquet", DRAWS)) == draw_digest(draws)


@pytest.mark.parametrize(
    ("rows", "sites", "change", "message"),
    [
        (
            _slides(9),
            {**SITES, "P4": "unknown"},
            {},
            r"crop 'S4-normal-0' of patient 'P4' has no site \(8",
        ),
        (_slides(9), None, {}, r"patient 'P0' has no site \(72 such\).*'site'.* or use protocol: slides"),
        (_slides(3), SITES, {}, r"all labelled crops are of site 'east', so that none can be held out"),
        (
            [*_slides(9), ("S8", "P0", "scarred", 1)],
            SITES,
            {"classes": ["normal", "sclerosed", "scarred"]},
            r"slide 'S0' and what belongs to it have patients of the sites east, north; correct",
        ),
        (
            [*_slides(9), ("S0", "P0", "rare", 9)],
            SITES,
            {},
            r"all crops of class 'rare' are of site 'east', so that there is none to learn from",
        ),
        (
            [*_slides(9), ("S0", "P0", "rare", 9), ("S4", "P4", "rare", 3)],
            SITES,
            {},
            r"class 'rare' has 3 crops outside site 'east', but few_shot\.shots asks for 4",
        ),
        (
            _slides(9),
            SITES,
            {"hold_out_sites": ["south"]},
            r"no labelled crop is of site 'south' of few_shot\.hold_out_sites; the sites are east, north",
        ),
        (
            _slides(9, each=1),
            SITES,
            {"validation_slide_fraction": 0.5},
            r"with site 'east' held out, no draw of 3 validation slide\(s\) of the other sites shows two",
        ),
    ],
)
def test_a_site_that_cannot_be_held_out_is_named(make_index, rows, sites, change, message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        draw_shots(make_index(rows), HELD_OUT.model_copy(update=change), seed=0, sites=sites)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shots": [0]}, "shots: with 0 alone linear_probe, colour_texture can learn nothing; add 1 or more"),
        ({"hold_out_sites": ["a"]}, "protocol slides holds no site out; set protocol: leave_one_site_out"),
        ({"classes": ["a", "b", "a"]}, "classes: a, b, a: one stands there twice"),
    ],
)
def test_settings_of_draws_that_contradict_each_other(keys, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShot(**keys)
