"""Folds of the finder: groups stay whole, folds stay even, mistakes are named."""

import pandas as pd
import pytest

from glomflow.cohort.finder_folds import check_finder_folds, field_groups, finder_folds
from glomflow.errors import GlomflowError


def frame(*rows):
    return pd.DataFrame(rows, columns=["image", "patient", "slide"])


def slides(*sizes):
    """One patient and slide per size, with that many fields."""
    return frame(*((f"s{s}f{f}", f"p{s}", f"s{s}") for s, size in enumerate(sizes) for f in range(size)))


def test_groups_join_slides_and_patients_through_others():
    fields = frame(
        ("c", "p1", "s2"), ("a", "p1", "s1"), ("b", "p2", "s2"), ("d", "p3", "s3"), ("e", "p4", "s3")
    )
    assert field_groups(fields).tolist() == ["a", "a", "a", "d", "d"]


def test_a_missing_patient_or_slide_joins_nothing():
    fields = frame(("a", None, "s1"), ("b", None, "s2"), ("c", "", None), ("d", "", None))
    assert field_groups(fields).tolist() == ["a", "b", "c", "d"]


def test_folds_are_even_in_fields():
    folds = finder_folds(slides(6, 4, 3, 3, 2), n_splits=3, validation_fraction=0.2, seed=1)
    tests = folds[folds["split"] == "test"].groupby("fold").size()
    assert tests.to_dict() == {"0": 6, "1": 6, "2": 6}
    assert folds["fold"].unique().tolist() == ["0", "1", "2", "all"]
    assert len(folds) == 4 * 18


def test_no_group_crosses_and_every_field_is_tested_once():
    fields = slides(2, 2, 2, 2, 2, 2, 2)
    fields.loc[fields["slide"] == "s6", "patient"] = "p0"
    folds = finder_folds(fields, n_splits=3, validation_fraction=0.25, seed=3)
    check_finder_folds(folds, fields)
    merged = folds.merge(fields, on="image")
    assert merged.groupby(["fold", "patient"])["split"].nunique().max() == 1
    assert (folds[folds["split"] == "test"].groupby("image").size() == 1).all()


def test_the_fold_of_all_fields_tests_none_and_validates_about_the_share():
    folds = finder_folds(slides(*[2] * 10), n_splits=5, validation_fraction=0.2, seed=1)
    whole = folds[folds["fold"] == "all"]["split"].value_counts().to_dict()
    assert whole == {"train": 16, "validation": 4}
    first = folds[folds["fold"] == "0"]["split"].value_counts().to_dict()
    assert first == {"train": 12, "test": 4, "validation": 4}


def test_one_group_at_least_validates_and_one_at_least_trains():
    folds = finder_folds(slides(9, 8, 7), n_splits=3, validation_fraction=0.01, seed=1)
    for _, split in folds.groupby("fold")["split"]:
        assert {"train", "validation"} <= set(split)


def test_a_single_group_to_learn_from_leaves_no_validation():
    folds = finder_folds(slides(6, 6), n_splits=2, validation_fraction=0.2, seed=1)
    assert set(folds.loc[folds["fold"] == "0", "split"]) == {"train", "test"}
    assert set(folds.loc[folds["fold"] == "all", "split"]) == {"train", "validation"}


def test_the_order_of_the_rows_does_not_matter_but_the_seed_does():
    fields = slides(*[1] * 12)
    settings = {"n_splits": 4, "validation_fraction": 0.2}
    folds = finder_folds(fields, seed=1, **settings)
    shuffled = finder_folds(fields.sample(frac=1, random_state=0), seed=1, **settings)
    pd.testing.assert_frame_equal(folds, shuffled)
    assert not folds.equals(finder_folds(fields, seed=2, **settings))


def test_too_few_slides_are_named_with_what_to_change():
    with pytest.raises(GlomflowError, match=r"7 annotated fields come from 2 independent slides") as caught:
        finder_folds(slides(4, 3), n_splits=5, validation_fraction=0.2, seed=1)
    assert "fewer than the 5 folds; set imaging.finder.n_splits lower, or annotate" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "n_splits", "message"),
    [
        (frame(("a", "p", "s"), ("a", "q", "t")), 2, "image 'a' is listed twice"),
        (slides(1, 1), 1, "1 folds; testing on unseen slides needs at least 2"),
    ],
)
def test_unusable_input_is_refused(fields, n_splits, message):
    with pytest.raises(GlomflowError, match=message):
        finder_folds(fields, n_splits=n_splits, validation_fraction=0.2, seed=1)


def broken(change):
    fields = slides(2, 2, 2)
    folds = finder_folds(fields, n_splits=3, validation_fraction=0.2, seed=1)
    return change(folds, fields)


def swapped(folds, fields):
    at = (folds["fold"] == "0") & (folds["split"] == "test")
    folds.loc[folds.index[at][0], "split"] = "train"
    return folds, fields


def shared_slide(folds, fields):
    fields["slide"] = "s0"
    return folds, fields


def whole_tested(folds, fields):
    folds.loc[folds["fold"] == "all", "split"] = "test"
    return folds, fields


def unknown_image(folds, fields):
    return folds, fields[fields["image"] != "s0f0"]


def incomplete(folds, fields):
    return folds.drop(folds.index[(folds["fold"] == "all") & (folds["image"] == "s0f0")]), fields


def doubled(folds, fields):
    return pd.concat([folds, folds.iloc[:1]]), fields


def renamed(folds, fields):
    folds.loc[0, "split"] = "held out"
    return folds, fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, r"slide 's\d' is in train and test of fold 0"),
        (swapped, r"patient 'p\d' is in train and test of fold 0"),
        (swapped, r"image 's\df\d' is a test field 0 times instead of once"),
        (shared_slide, "slide 's0' is in train and validation and test of fold 0"),
        (whole_tested, "image 's0f0' is a test field of fold 'all'"),
        (unknown_image, "image 's0f0' of the folds is no annotated field"),
        (incomplete, "image 's0f0' is not in every fold"),
        (doubled, "image 's0f0' is twice in fold 0"),
    ],
)
def test_what_crosses_a_split_is_named(change, message):
    with pytest.raises(GlomflowError, match=message):
        check_finder_folds(*broken(change))


def test_an_unknown_split_is_named():
    folds, fields = broken(renamed)
    with pytest.raises(GlomflowError, match="split 'held out' is none of train, validation, test"):
        check_finder_folds(folds, fields)
