"""Folds: stratified, grouped, independent of order, and nothing crosses a split."""

import itertools

import pandas as pd
import pytest

from glomflow.cohort import folds as library
from glomflow.cohort.folds import (
    check_folds,
    check_task,
    eligible_patients,
    fold_digest,
    inner_folds,
    task_patients,
)
from glomflow.config import Folds
from glomflow.errors import GlomflowError
from glomflow.tables import FOLDS, INVENTORY, write_table

SETTINGS = {"n_splits": 5, "validation_fraction": 0.2, "stratify_by_site": True}


def cohort(counts: dict[tuple[str, str], int]) -> pd.DataFrame:
    """Patients by label and site."""
    rows = [
        {"patient": f"{label}-{site}-{number}", "label": label, "site": site, "stage": None, "shard": 0}
        for (label, site), count in counts.items()
        for number in range(count)
    ]
    return pd.DataFrame(rows)


def make_folds(patients: pd.DataFrame, *, seed: int = 1, **settings) -> pd.DataFrame:
    return library.make_folds(patients, Folds(**settings), seed=seed)


def inventory_of(patients: pd.DataFrame, **columns) -> pd.DataFrame:
    """One usable image per patient, with values of its own."""
    names = patients["patient"]
    frame = pd.DataFrame(
        {name: ["" if spec.dtype == "string" else 0] * len(names) for name, spec in INVENTORY.items()}
    )
    own = {"patient": names, "image": names, "slide": names + "-s", "sha256": names + "-h", "status": "ok"}
    return frame.assign(**{**own, **columns})


PATIENTS = cohort({("IgAN", "a"): 11, ("IgAN", "b"): 9, ("LN", "a"): 7, ("LN", "c"): 13, ("MN", "b"): 22})


def splits(folds: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    return folds.merge(patients, on="patient")


@pytest.mark.parametrize(("n_splits", "seed"), [(2, 0), (3, 1), (5, 2), (5, 3), (7, 4)])
def test_every_patient_is_tested_once_and_sizes_are_even(n_splits, seed):
    folds = make_folds(PATIENTS, **{**SETTINGS, "n_splits": n_splits, "seed": seed})
    assert len(folds) == n_splits * len(PATIENTS)
    assert not folds.duplicated(["fold", "patient"]).any()
    tests = splits(folds[folds["split"] == "test"], PATIENTS)
    assert sorted(tests["patient"]) == sorted(PATIENTS["patient"])
    for by in ([], ["label"], ["label", "site"]):
        counts = (
            tests.groupby(["fold", *by]).size().unstack(by, fill_value=0)
            if by
            else tests.groupby("fold").size()
        )
        assert (counts.max() - counts.min()).max() <= 1 if by else counts.max() - counts.min() <= 1


def test_validation_keeps_the_proportions_of_labels():
    folds = splits(make_folds(PATIENTS, **SETTINGS), PATIENTS)
    for fold in range(5):
        rest = folds[(folds["fold"] == fold) & (folds["split"] != "test")]
        drawn = rest[rest["split"] == "validation"]
        assert len(drawn) == round(0.2 * len(rest))
        shares = drawn["label"].value_counts() - 0.2 * rest["label"].value_counts()
        assert shares.abs().max() < 1
        sites = drawn.groupby(["label", "site"]).size() - 0.2 * rest.groupby(["label", "site"]).size()
        assert sites.abs().max() <= 1.5


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.49])
@pytest.mark.parametrize("count", [3, 4, 6])
def test_every_class_has_validation_and_training_patients(fraction, count):
    patients = cohort({("A", "x"): count, ("B", "x"): count, ("C", "y"): 40})
    folds = splits(
        make_folds(patients, **{**SETTINGS, "n_splits": 3, "validation_fraction": fraction}), patients
    )
    counts = folds.groupby(["fold", "split", "label"]).size().unstack("label", fill_value=0)
    assert (counts > 0).all(axis=None)


def test_a_single_patient_outside_the_test_fold_trains():
    patients = cohort({("A", "x"): 2, ("B", "x"): 9})
    folds = splits(make_folds(patients, **{**SETTINGS, "n_splits": 2}), patients)
    assert sorted(folds.loc[folds["label"] == "A", "split"]) == ["test", "test", "train", "train"]


def test_folds_depend_on_the_seed_but_not_on_the_order_of_rows():
    first = make_folds(PATIENTS, **SETTINGS)
    shuffled = make_folds(PATIENTS.sample(frac=1, random_state=3), **SETTINGS)
    pd.testing.assert_frame_equal(first, shuffled)
    assert fold_digest(first) == fold_digest(shuffled) == fold_digest(first.sample(frac=1, random_state=4))
    assert fold_digest(first) != fold_digest(make_folds(PATIENTS, **{**SETTINGS, "seed": 2}))


def test_the_assignment_is_the_same_on_every_machine():
    folds = make_folds(cohort({("A", "x"): 3, ("B", "x"): 3}), **{**SETTINGS, "n_splits": 3})
    assert folds.loc[folds["split"] == "test", ["fold", "patient"]].to_numpy().tolist() == [
        [0, "A-x-1"],
        [0, "B-x-0"],
        [1, "A-x-2"],
        [1, "B-x-1"],
        [2, "A-x-0"],
        [2, "B-x-2"],
    ]
    assert fold_digest(folds) == "1d1b04b6b4874a45c84d16deb03a9237f65526370f81fa5e61dd99d9c751e498"


def test_sites_can_be_left_out_and_may_be_unknown():
    patients = PATIENTS.assign(site=PATIENTS["site"].where(PATIENTS["site"] != "c"))
    for by_site in (True, False):
        folds = make_folds(patients, **{**SETTINGS, "stratify_by_site": by_site})
        check_folds(folds, patients, inventory_of(patients))


def test_the_published_split():
    patients = cohort({("A", "x"): 10})
    folds = make_folds(patients, **{**SETTINGS, "protocol": "published"})
    tested = folds[folds["split"] == "test"].groupby("fold")["patient"].agg(list).tolist()
    expected = [[2, 8], [5, 6], [1, 3], [0, 7], [4, 9]]
    assert tested == [[f"A-x-{number}" for number in numbers] for numbers in expected]
    assert set(folds["split"]) == {"train", "test"}
    with pytest.raises(
        GlomflowError, match=r"folds: 3 usable patients, fewer than the 5 folds; set folds\.n_splits"
    ):
        make_folds(patients.head(3), **{**SETTINGS, "protocol": "published"})


def test_the_table_fits_its_schema(tmp_path):
    for protocol in ("published", "nested"):
        write_table(tmp_path / "folds.parquet", make_folds(PATIENTS, protocol=protocol), FOLDS)


def test_too_few_patients_of_a_class():
    patients = cohort({("IgAN", "x"): 9, ("MN", "x"): 4, ("LN", "x"): 1})
    with pytest.raises(
        GlomflowError, match="folds: class 'LN' has 1, class 'MN' has 4 usable patients, fewer than"
    ):
        make_folds(patients, **SETTINGS)
    with pytest.raises(GlomflowError, match="folds: there are no usable patients, fewer than the 5 folds"):
        make_folds(patients.head(0), **SETTINGS)


def test_wrong_patients():
    twice = pd.concat([PATIENTS, PATIENTS.head(1)])
    with pytest.raises(GlomflowError, match="folds: patient 'IgAN-a-0' is listed twice; keep one row"):
        make_folds(twice, **SETTINGS)
    with pytest.raises(GlomflowError, match="folds: patient 'IgAN-a-0' has no label; fill it in"):
        make_folds(PATIENTS.assign(label=None), **SETTINGS)


def test_patients_without_a_usable_image_are_excluded_with_a_reason():
    patients = cohort({("A", "x"): 4})
    inventory = pd.DataFrame(
        {
            "patient": ["A-x-0", "A-x-0", "A-x-1", "A-x-1", "A-x-1", "A-x-2"],
            "status": ["ok", "blank", "unreadable", "blank", "unreadable", "ok"],
        }
    )
    eligible, excluded = eligible_patients(patients, inventory)
    assert eligible["patient"].tolist() == ["A-x-0", "A-x-2"]
    assert list(eligible.columns) == list(patients.columns)
    assert excluded.to_numpy().tolist() == [
        ["A-x-1", "no usable image: 1 blank, 2 unreadable"],
        ["A-x-3", "no image in the inventory"],
    ]
    assert eligible_patients(eligible, inventory)[1].empty


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("slide", "S", "slide 'S' is shared by patients 'IgAN-a-0' and 'IgAN-a-1'; correct column 'slide'"),
        ("sha256", "ff", "file with sha256 'ff' is shared by patients 'IgAN-a-0' and 'IgAN-a-1'; put each"),
    ],
)
def test_sharing_patients_are_refused(column, value, message):
    inventory = inventory_of(PATIENTS)
    folds = make_folds(PATIENTS, **SETTINGS)
    check_folds(folds, PATIENTS, inventory)
    inventory.loc[:1, column] = value
    with pytest.raises(GlomflowError, match=f"folds: these cross a split:\n  {message}"):
        check_folds(folds, PATIENTS, inventory)
    inventory.loc[1, "status"] = "unreadable"
    check_folds(folds, PATIENTS, inventory)


def test_broken_folds_are_refused():
    folds = make_folds(PATIENTS, **SETTINGS)
    inventory = inventory_of(PATIENTS)
    name = "IgAN-a-0"
    moved = folds.copy()
    moved.loc[moved["patient"] == name, "split"] = "train"
    with pytest.raises(GlomflowError, match=f"patient '{name}' is a test patient 0 times instead of once"):
        check_folds(moved, PATIENTS, inventory)
    twice = pd.concat([folds, pd.DataFrame({"fold": [0], "repeat": 0, "patient": [name], "split": ["test"]})])
    with pytest.raises(GlomflowError, match=f"patient '{name}' is in two splits of fold 0"):
        check_folds(twice, PATIENTS, inventory)
    lacking = folds[~((folds["patient"] == name) & (folds["split"] == "train") & (folds["fold"] < 2))]
    with pytest.raises(GlomflowError, match=f"patient '{name}' is not in every fold"):
        check_folds(lacking, PATIENTS, inventory)
    with pytest.raises(GlomflowError, match=f"patient '{name}' of the folds is not an eligible patient"):
        check_folds(folds, PATIENTS.iloc[1:], inventory)
    with pytest.raises(GlomflowError, match=f"patient '{name}' is a test patient 0 times"):
        check_folds(folds[folds["patient"] != name], PATIENTS, inventory)
    with pytest.raises(GlomflowError, match="and 52 more"):
        check_folds(folds.assign(split="train"), PATIENTS, inventory)


def test_no_patient_slide_or_file_crosses_a_split():
    folds = make_folds(PATIENTS, **SETTINGS)
    inventory = pd.concat([inventory_of(PATIENTS), inventory_of(PATIENTS)])
    for _, fold in folds.merge(inventory, on="patient").groupby("fold"):
        parts = [part for _, part in fold.groupby("split")]
        for (one, other), column in itertools.product(
            itertools.combinations(parts, 2), ("patient", "slide", "sha256")
        ):
            assert not set(one[column]) & set(other[column])


def test_repeats_deal_afresh_and_are_checked_each():
    folds = make_folds(PATIENTS, **SETTINGS, repeats=3)
    assert sorted(folds["fold"].unique()) == list(range(15))
    assert (folds["repeat"] == folds["fold"] // 5).all()
    check_folds(folds, PATIENTS, inventory_of(PATIENTS))
    once = make_folds(PATIENTS, **SETTINGS)
    pd.testing.assert_frame_equal(folds[folds["repeat"] == 0].reset_index(drop=True), once)
    tests = folds[folds["split"] == "test"]
    dealt = tests.assign(k=tests["fold"] % 5).pivot(index="patient", columns="repeat", values="k")
    assert (dealt[0] != dealt[1]).mean() > 0.5
    assert (dealt[1] != dealt[2]).mean() > 0.5
    broken = folds.copy()
    broken.loc[(folds["patient"] == "MN-b-0") & (folds["repeat"] == 2), "split"] = "train"
    with pytest.raises(GlomflowError, match="'MN-b-0' is a test patient 0 times instead of once of a repeat"):
        check_folds(broken, PATIENTS, inventory_of(PATIENTS))
    with pytest.raises(GlomflowError, match="fold 0 belongs to 2 repeats"):
        check_folds(folds.assign(repeat=folds.index % 2), PATIENTS, inventory_of(PATIENTS))


def test_stages_spread_evenly():
    patients = PATIENTS.copy()
    staged = patients["label"] == "MN"
    patients.loc[staged, "stage"] = (["I"] * 9 + ["II"] * 7 + ["III"] * 6)[: staged.sum()]
    folds = splits(make_folds(patients, **SETTINGS), patients)
    tests = folds[folds["split"] == "test"]
    for by in (["label"], ["stage"]):
        counts = tests.groupby(["fold", *by]).size().unstack(by, fill_value=0)
        assert (counts.max() - counts.min()).max() <= 1
    trained = folds[folds["split"] == "validation"].groupby("fold")["stage"].nunique()
    assert (trained >= 2).all()


def test_tasks():
    patients = PATIENTS.copy()
    patients.loc[patients["label"] == "MN", "stage"] = ["I", "II"] * 11
    patients.loc[60, "stage"] = None
    assert task_patients(patients, "disease") is patients
    staged = task_patients(patients, "stage")
    assert staged["label"].value_counts().to_dict() == {"I": 10, "II": 11}
    folds = make_folds(patients, **SETTINGS)
    check_task(folds, staged, ["I", "II"], "stage")
    with pytest.raises(
        GlomflowError,
        match="task stage: no training patient of fold 0 is of class 'III', of which there are 0 usable",
    ):
        check_task(folds, staged, ["I", "II", "III"], "stage")


def test_each_site_is_left_out_once():
    patients = cohort({("A", "x"): 6, ("B", "x"): 5, ("A", "y"): 7, ("B", "y"): 1, ("B", "z"): 9})
    folds = splits(make_folds(patients, protocol="leave_one_site_out"), patients)
    tests = folds[folds["split"] == "test"]
    assert tests.groupby("fold")["site"].unique().map(list).tolist() == [["x"], ["y"], ["z"]]
    check_folds(make_folds(patients, protocol="leave_one_site_out"), patients, inventory_of(patients))
    rest = folds[(folds["fold"] == 0) & (folds["split"] != "test")]
    assert set(rest["site"]) == {"y", "z"}
    drawn = rest[rest["split"] == "validation"]
    assert drawn["label"].value_counts().to_dict() == {"A": 1, "B": 2}
    ordered = make_folds(patients, protocol="leave_one_site_out", sites=["z", "x", "y"])
    first = ordered[(ordered["fold"] == 0) & (ordered["split"] == "test")]
    assert first["patient"].str.startswith("B-z").all()


@pytest.mark.parametrize(
    ("spoil", "sites", "message"),
    [
        (lambda rows: rows, ["x"], "site 'y' has 8 patients but is not in folds.sites; add it there or take"),
        (
            lambda rows: rows,
            ["x", "y", "w"],
            "site 'w' has no usable patient; the cohort's sites are x, y: list those",
        ),
        (lambda rows: rows.assign(site="x"), [], "leave_one_site_out needs at least two sites"),
        (lambda rows: rows.assign(site=None), [], r"patient 'A-x-0' has no site \(19 such\); fill column"),
        (
            lambda rows: rows[~((rows["label"] == "A") & (rows["site"] == "y"))],
            [],
            "class 'A' occurs at site 'x' alone, so that there is nothing to learn it from",
        ),
    ],
)
def test_sites_that_cannot_be_left_out(spoil, sites, message):
    patients = cohort({("A", "x"): 6, ("B", "x"): 5, ("A", "y"): 3, ("B", "y"): 5})
    with pytest.raises(GlomflowError, match=f"(?s)folds: .*{message}"):
        make_folds(spoil(patients), protocol="leave_one_site_out", sites=sites)


def test_inner_folds_hold_every_patient_once():
    table = pd.DataFrame({"patient": [f"p{n}" for n in range(12)], "label": ["A", "B"] * 6, "split": "train"})
    tables = inner_folds(table, 3, key="k")
    held_out = [inner[inner["split"] == "validation"] for inner in tables]
    assert sorted(pd.concat(held_out)["patient"]) == sorted(table["patient"])
    assert all(part["label"].value_counts().to_dict() == {"A": 2, "B": 2} for part in held_out)
    with pytest.raises(GlomflowError, match=r"inner_splits: class 'A' has 6 patients outside a test fold"):
        inner_folds(table, 7, key="k")
