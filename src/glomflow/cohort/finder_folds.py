"""Folds for the glomerulus finder: neither a slide nor a patient crosses a split."""

from __future__ import annotations

import hashlib

import pandas as pd

from glomflow.errors import GlomflowError

WHOLE = "all"
"""The fold of the finder that is used afterwards: it learns from every field and tests none."""

SPLITS = ("train", "validation", "test")

_MAX_NAMED = 10


def field_groups(fields: pd.DataFrame) -> pd.Series:
    """Joins fields that share a slide or a patient, directly or through others.

    Args:
        fields: Columns image, patient and slide, one row per field; a missing patient or slide joins
            nothing.

    Returns:
        The group of each row: the first image of the group in alphabetical order; named ``group``.
    """
    parent = {image: image for image in fields["image"]}

    def root(image: str) -> str:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for column in ("patient", "slide"):
        known = fields[fields[column].fillna("") != ""]
        for _, images in known.groupby(column)["image"]:
            roots = sorted({root(image) for image in images})
            for other in roots[1:]:
                parent[other] = roots[0]
    found = [root(image) for image in fields["image"]]
    return pd.Series(found, index=fields.index, name="group", dtype="str")


def finder_folds(
    fields: pd.DataFrame, *, n_splits: int, validation_fraction: float, seed: int
) -> pd.DataFrame:
    """Assigns every annotated field to train, validation or test in every fold.

    Groups of fields (:func:`field_groups`) are dealt whole: the largest first, each to the fold that
    has the fewest fields. The fold ``'all'`` tests nothing; it is for the finder that is used
    afterwards. Validation groups are drawn among the groups outside the test fold until they hold
    about the wanted share of its fields; at least one group where two are left, none where a single
    group is left to learn from (training then has nothing to select the epoch with).

    Args:
        fields: Columns image, patient and slide, one row per annotated field.
        n_splits: Folds, at least 2; every field is a test field in one of them.
        validation_fraction: Share of the fields outside the test fold, 0 (none) to 1.
        seed: Seed of the assignment.

    Returns:
        Columns fold (``'0'`` to ``'<n_splits - 1>'``, then ``'all'``), image and split, ordered by fold
        and image.

    Raises:
        GlomflowError: An image is listed twice, or there are fewer groups than folds.
    """
    again = fields.loc[fields["image"].duplicated(), "image"]
    if len(again):
        raise GlomflowError(f"finder folds: image '{again.iloc[0]}' is listed twice; keep one row")
    if n_splits < 2:
        raise GlomflowError(f"finder folds: {n_splits} folds; testing on unseen slides needs at least 2")
    groups = field_groups(fields)
    sizes = groups.value_counts()
    if len(sizes) < n_splits:
        raise GlomflowError(
            f"finder folds: the {len(fields)} annotated fields come from {len(sizes)} independent slides "
            f"(slides of one patient count as one), fewer than the {n_splits} folds; set "
            "imaging.finder.n_splits lower, or annotate fields of more slides and patients"
        )
    order = sorted(sizes.index, key=lambda group: (-sizes[group], _hashed(f"{seed}", group)))
    loads, test_fold = [0] * n_splits, {}
    for group in order:
        fold = loads.index(min(loads))
        test_fold[group] = fold
        loads[fold] += int(sizes[group])
    tested = groups.map(test_fold)
    frames = []
    for name in (*map(str, range(n_splits)), WHOLE):
        test = tested.astype("str") == name
        validation = _draw_validation(groups[~test], validation_fraction, f"{seed}:{name}")
        split = pd.Series("train", index=fields.index, dtype="str")
        split[groups.isin(validation)] = "validation"
        split[test] = "test"
        frame = pd.DataFrame({"fold": name, "image": fields["image"].astype("str"), "split": split})
        frames.append(frame.sort_values("image"))
    return pd.concat(frames, ignore_index=True).astype("str")


def check_finder_folds(folds: pd.DataFrame, fields: pd.DataFrame) -> None:
    """Checks that nothing crosses a split and that every field is tested once.

    Args:
        folds: What :func:`finder_folds` returned.
        fields: Columns image, patient and slide of the annotated fields.

    Raises:
        GlomflowError: A slide or patient is in two splits of a fold, an image is unknown, missing, twice
            in a fold or not tested exactly once, or the fold ``'all'`` tests something; the message names
            them.
    """
    problems = _image_problems(folds, fields)
    rows = folds.merge(fields, on="image", how="inner")
    for column in ("slide", "patient"):
        known = rows[rows[column].fillna("") != ""]
        for (fold, name), group in known.groupby(["fold", column]):
            splits = [split for split in SPLITS if split in set(group["split"])]
            if len(splits) > 1:
                problems.append(f"{column} '{name}' is in {' and '.join(splits)} of fold {fold}")
    if problems:
        more = len(problems) - _MAX_NAMED
        shown = problems[:_MAX_NAMED] + ([f"and {more} more"] if more > 0 else [])
        raise GlomflowError(
            "finder folds: " + "\n  ".join(["these cannot be used; make the folds again:", *shown])
        )


def _image_problems(folds: pd.DataFrame, fields: pd.DataFrame) -> list[str]:
    twice = folds[folds.duplicated(["fold", "image"])]
    problems = [
        f"image '{image}' is twice in fold {fold}"
        for fold, image in zip(twice["fold"], twice["image"], strict=True)
    ]
    problems += [
        f"split '{name}' is none of {', '.join(SPLITS)}" for name in sorted({*folds["split"]} - {*SPLITS})
    ]
    tests = folds[folds["split"] == "test"]
    problems += [
        f"image '{image}' is a test field of fold '{WHOLE}'"
        for image in tests.loc[tests["fold"] == WHOLE, "image"]
    ]
    counts = tests[tests["fold"] != WHOLE].groupby("image").size()
    known = set(fields["image"])
    for image in sorted(known | set(folds["image"])):
        count = int(counts.get(image, 0))
        if image not in known:
            problems.append(f"image '{image}' of the folds is no annotated field")
        elif count != 1:
            problems.append(f"image '{image}' is a test field {count} times instead of once")
    present = folds.groupby("image")["fold"].nunique()
    problems += [
        f"image '{image}' is not in every fold" for image in present.index[present < folds["fold"].nunique()]
    ]
    return problems


def _hashed(key: str, name: str) -> str:
    return hashlib.sha256(f"{key}:{name}".encode()).hexdigest()


def _draw_validation(groups: pd.Series, fraction: float, key: str) -> set[str]:
    """Draws whole groups whose fields come closest to a share of all, one at least and not all."""
    sizes = groups.value_counts()
    if len(sizes) < 2 or fraction <= 0:
        return set()
    wanted = fraction * len(groups)
    order = sorted(sizes.index, key=lambda group: _hashed(key, group))
    drawn: set[str] = set()
    taken = 0
    for group in order:
        size = int(sizes[group])
        if len(drawn) < len(sizes) - 1 and abs(wanted - taken - size) < abs(wanted - taken):
            drawn.add(group)
            taken += size
    return drawn or {min(order, key=lambda group: sizes[group])}
