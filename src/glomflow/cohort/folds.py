"""Cross-validation folds: stratified, grouped by patient, independent of the sheet's order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable

import numpy as np
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.files import sha256_json

PARITY_SEED = 10
"""Seed of the published split."""

_MAX_NAMED = 10


def make_folds(
    patients: pd.DataFrame,
    *,
    n_splits: int,
    validation_fraction: float,
    stratify_by_site: bool,
    protocol: str,
    seed: int,
) -> pd.DataFrame:
    """Assigns every patient to test, validation or train in every outer fold.

    Patients of a label are ordered by site, then by a seeded hash of their identifier, and dealt
    round the folds; each label goes on where the last one stopped. So the patients of a label, of a
    site within a label, and of a fold as a whole differ by at most one between folds. Validation
    patients are drawn at even distances in the same order, so that they keep the proportions of labels
    and sites; a label with at least two patients outside the test fold has one in each of both.

    Args:
        patients: PATIENTS, one row each; with labels unless ``protocol`` is published.
        n_splits: Outer folds; every patient is a test patient in one of them.
        validation_fraction: Share of the patients outside the test fold, 0 to 1.
        stratify_by_site: Whether sites are spread, too.
        protocol: ``nested``, or ``published``: unstratified, shuffled k-fold over patients in sheet order
            with seed 10, and no validation patients.
        seed: Seed of the assignment.

    Returns:
        FOLDS, ordered by fold and patient.

    Raises:
        GlomflowError: A patient is listed twice or lacks a label, or a class has fewer patients than
            folds.
    """
    again = patients.loc[patients["patient"].duplicated(), "patient"]
    if len(again):
        raise GlomflowError(f"folds: patient '{again.iloc[0]}' is listed twice; keep one row")
    if protocol == "published":
        return _published_folds(patients, n_splits)
    strata = _strata(patients, n_splits, stratify_by_site)
    test_fold = _deal(strata, n_splits, seed)
    frames = []
    for fold in range(n_splits):
        rest = strata[strata["patient"].map(test_fold) != fold]
        validation = _draw_validation(rest, validation_fraction, f"{seed}:{fold}")
        split = pd.Series("train", index=strata.index, dtype="str")
        split[strata["patient"].isin(validation)] = "validation"
        split[strata["patient"].map(test_fold) == fold] = "test"
        frames.append(_fold_frame(fold, strata["patient"], split))
    return pd.concat(frames, ignore_index=True)


def eligible_patients(patients: pd.DataFrame, inventory: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Separates patients with a usable image from those without.

    Args:
        patients: PATIENTS.
        inventory: INVENTORY.

    Returns:
        The rows of ``patients`` with at least one image of status 'ok'; and the others, with the
        columns ``patient`` and ``reason``.
    """
    usable = patients["patient"].isin(inventory.loc[inventory["status"] == "ok", "patient"])
    left_out = patients.loc[~usable, "patient"]
    statuses = inventory[inventory["patient"].isin(left_out)].groupby("patient")["status"]
    counts = {patient: group.value_counts(sort=False).sort_index() for patient, group in statuses}
    reasons = [
        "no usable image: " + ", ".join(f"{count} {status}" for status, count in counts[patient].items())
        if patient in counts
        else "no image in the inventory"
        for patient in left_out
    ]
    excluded = pd.DataFrame(
        {"patient": left_out.to_numpy(), "reason": pd.Series(reasons, dtype="str")}
    ).astype("str")
    return patients[usable].reset_index(drop=True), excluded


def check_folds(folds: pd.DataFrame, patients: pd.DataFrame, inventory: pd.DataFrame) -> None:
    """Checks that nothing crosses a split.

    Patients who share a slide or a file would carry what one split has seen into another; since every
    patient is tested once, they are refused wherever they meet.

    Args:
        folds: FOLDS.
        patients: PATIENTS, the eligible ones.
        inventory: INVENTORY; only usable images count.

    Raises:
        GlomflowError: A patient is missing, unknown, in two splits of a fold or not tested exactly
            once, or shares a slide or an identical file with another.
    """
    problems = _patient_problems(folds, patients)
    usable = inventory[(inventory["status"] == "ok") & inventory["patient"].isin(folds["patient"])]
    problems += _sharing(usable, "slide", "slide", "correct column 'slide' of the images' sheet")
    problems += _sharing(
        usable, "sha256", "file with sha256", "put each patient's own file there, or make them one patient"
    )
    if problems:
        more = len(problems) - _MAX_NAMED
        shown = problems[:_MAX_NAMED] + ([f"and {more} more"] if more > 0 else [])
        raise GlomflowError("folds: " + "\n  ".join(["these cross a split:", *shown]))


def fold_digest(folds: pd.DataFrame) -> str:
    """Returns the SHA-256 of an assignment; it does not depend on the order of the rows."""
    rows = zip(folds["fold"].tolist(), folds["patient"].tolist(), folds["split"].tolist(), strict=True)
    return sha256_json(sorted(rows))


def _strata(patients: pd.DataFrame, n_splits: int, by_site: bool) -> pd.DataFrame:
    unlabelled = patients.loc[patients["label"].isna() | (patients["label"] == ""), "patient"]
    if len(unlabelled):
        raise GlomflowError(f"folds: patient '{unlabelled.iloc[0]}' has no label; fill it in")
    counts = patients["label"].value_counts().sort_index()
    short = [f"class '{name}' has {count}" for name, count in counts.items() if count < n_splits]
    if short or counts.empty:
        raise GlomflowError(
            f"folds: {', '.join(short) or 'there are no'} usable patients, fewer than the {n_splits} folds; "
            "set folds.n_splits lower, add patients or mend the excluded ones, or take the class out of "
            "cohort.classes"
        )
    sites = patients["site"].fillna("") if by_site else pd.Series("", index=patients.index)
    return pd.DataFrame(
        {"patient": patients["patient"], "label": patients["label"], "site": sites}
    ).sort_values("patient", ignore_index=True)


def _hashed(key: str, name: Hashable) -> str:
    return hashlib.sha256(f"{key}:{name}".encode()).hexdigest()


def _ordered(strata: pd.DataFrame, key: str) -> pd.DataFrame:
    site_keys = strata["site"].map({site: _hashed(key, site) for site in strata["site"].unique()})
    patient_keys = strata["patient"].map(lambda patient: _hashed(key, patient))
    order = strata.assign(site_key=site_keys, patient_key=patient_keys)
    return order.sort_values(["label", "site_key", "patient_key"], ignore_index=True)


def _deal(strata: pd.DataFrame, n_splits: int, seed: int) -> dict[str, int]:
    order = _ordered(strata, str(seed))
    return dict(zip(order["patient"], (np.arange(len(order)) % n_splits).tolist(), strict=True))


def _draw_validation(rest: pd.DataFrame, fraction: float, key: str) -> list[str]:
    order = _ordered(rest, key)
    sizes = order.groupby("label").size()
    quotas = _quotas(sizes.to_numpy(), fraction)
    drawn: list[str] = []
    for (label, group), quota in zip(order.groupby("label"), quotas, strict=True):
        start = int(_hashed(key, label), 16) % len(group)
        places = (start + np.arange(quota) * len(group) // max(quota, 1)) % len(group)
        drawn += group["patient"].iloc[places].tolist()
    return drawn


def _quotas(sizes: np.ndarray, fraction: float) -> list[int]:
    """Shares out ``fraction`` of all patients by largest remainder, within 1 and size - 1 per class."""
    least, most = np.minimum(1, sizes - 1), sizes - 1
    exact = sizes * fraction
    quotas = np.clip(np.floor(exact).astype(int), least, most)
    wanted = math.floor(sizes.sum() * fraction + 0.5)
    for index in np.argsort(quotas - exact, kind="stable"):
        if quotas.sum() < wanted and quotas[index] < min(most[index], exact[index] + 1):
            quotas[index] += 1
    return [int(quota) for quota in quotas]


def _fold_frame(fold: int, patients: pd.Series, split: pd.Series) -> pd.DataFrame:
    frame = pd.DataFrame({"patient": patients.astype("str"), "split": split.astype("str")})
    frame.insert(0, "fold", fold)
    return frame.sort_values("patient", ignore_index=True)


def _published_folds(patients: pd.DataFrame, n_splits: int) -> pd.DataFrame:
    from sklearn.model_selection import KFold

    if len(patients) < n_splits:
        raise GlomflowError(
            f"folds: {len(patients)} usable patients, fewer than the {n_splits} folds; set folds.n_splits "
            "lower or add patients"
        )
    names = patients["patient"].reset_index(drop=True)
    frames = []
    splitter = KFold(n_splits, shuffle=True, random_state=PARITY_SEED)
    for fold, (_, test) in enumerate(splitter.split(np.zeros(len(names)))):
        split = pd.Series("train", index=names.index, dtype="str")
        split.iloc[test] = "test"
        frames.append(_fold_frame(fold, names, split))
    return pd.concat(frames, ignore_index=True)


def _patient_problems(folds: pd.DataFrame, patients: pd.DataFrame) -> list[str]:
    problems = []
    twice = folds[folds.duplicated(["fold", "patient"])]
    problems += [
        f"patient '{patient}' is in two splits of fold {fold}"
        for fold, patient in zip(twice["fold"], twice["patient"], strict=True)
    ]
    tests = folds[folds["split"] == "test"].groupby("patient").size()
    known, listed = set(patients["patient"]), set(folds["patient"])
    for patient in sorted(known | listed):
        count = int(tests.get(patient, 0))
        if patient not in known:
            problems.append(f"patient '{patient}' of the folds is not an eligible patient")
        elif count != 1:
            problems.append(f"patient '{patient}' is a test patient {count} times instead of once")
    uneven = folds.groupby("patient")["fold"].nunique()
    problems += [
        f"patient '{patient}' is not in every fold"
        for patient in uneven.index[uneven < folds["fold"].nunique()]
    ]
    return problems


def _sharing(images: pd.DataFrame, column: str, noun: str, advice: str) -> list[str]:
    pairs = images.loc[images[column].fillna("") != "", [column, "patient"]].drop_duplicates()
    shared = pairs[pairs[column].duplicated(keep=False)]
    problems = []
    for value, group in shared.groupby(column):
        names = " and ".join(f"'{patient}'" for patient in sorted(group["patient"]))
        problems.append(f"{noun} '{value}' is shared by patients {names}; {advice}")
    return problems
