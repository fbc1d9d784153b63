"""Cross-validation folds: stratified, grouped by patient, independent of the sheet's order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from glomflow.config import Folds
from glomflow.errors import GlomflowError
from glomflow.files import sha256_json

PUBLISHED_SEED = 10
"""Seed of the published split."""

_MAX_NAMED = 10


def make_folds(patients: pd.DataFrame, settings: Folds, *, seed: int) -> pd.DataFrame:
    """Assigns every patient to test, validation or train in every outer fold.

    ``nested``: patients of a label are ordered by stage, within it by site, then by a seeded hash of their
    identifier, and dealt round the folds; each label goes on where the last one stopped. So the patients of
    a label, of a stage within it, and of a fold as a whole differ by at most one between folds; so do those
    of a site within a label without stages. Each repeat deals with a hash of its own.
    ``leave_one_site_out``: fold k holds the patients of the k-th site. ``published``: unstratified, shuffled
    k-fold over patients in sheet order with seed 10, and no validation patients.

    Validation patients are drawn at even distances in the same order, so that they keep the proportions
    of labels and sites; a label with at least two patients outside the test fold has one in each of both.

    Args:
        patients: PATIENTS, one row each; with labels unless the split is the published one.
        settings: The section ``folds``.
        seed: Seed of the assignment.

    Returns:
        FOLDS, ordered by fold and patient.

    Raises:
        GlomflowError: A patient is listed twice or lacks a label, a class has fewer patients than
            folds, or sites and patients do not fit each other.
    """
    again = patients.loc[patients["patient"].duplicated(), "patient"]
    if len(again):
        raise GlomflowError(f"folds: patient '{again.iloc[0]}' is listed twice; keep one row")
    if settings.protocol == "published":
        return _published_folds(patients, settings.n_splits)
    frames = []
    for repeat in range(settings.repeats):
        if settings.protocol == "leave_one_site_out":
            strata = _strata(patients, 1, settings.stratify_by_site)
            tested = site_folds(patients, settings.sites)
        else:
            strata = _strata(patients, settings.n_splits, settings.stratify_by_site)
            tested = _deal(strata, settings.n_splits, f"{seed}:{repeat}" if repeat else str(seed))
        places = strata["patient"].map(tested)
        first = repeat * settings.n_splits
        for fold in range(max(tested.values()) + 1):
            split = pd.Series("train", index=strata.index, dtype="str")
            rest = strata[places != fold]
            drawn = _draw_validation(rest, settings.validation_fraction, f"{seed}:{first + fold}")
            split[strata["patient"].isin(drawn)] = "validation"
            split[places == fold] = "test"
            frames.append(_fold_frame(first + fold, repeat, strata["patient"], split))
    return pd.concat(frames, ignore_index=True)


def site_folds(patients: pd.DataFrame, sites: Sequence[str]) -> dict[str, int]:
    """Returns the fold in which each patient is tested when sites are left out in turn.

    Args:
        patients: PATIENTS, the eligible ones.
        sites: Sites in the order of the folds; empty: those of the patients in alphabetical order.

    Returns:
        Patient to fold, from 0.

    Raises:
        GlomflowError: A patient has no site, a site is not listed or has no patient, there are fewer
            than two sites, or a class occurs at one site alone.
    """
    named = patients["site"].fillna("")
    nowhere = patients.loc[named == "", "patient"]
    if len(nowhere):
        raise GlomflowError(
            f"folds: patient '{nowhere.iloc[0]}' has no site ({len(nowhere)} such); fill column 'site' of "
            "the patients' sheet in, or choose another folds.protocol than leave_one_site_out"
        )
    listed = list(sites) or sorted(named.unique())
    problems = [
        f"site '{site}' has {count} patients but is not in folds.sites; add it there or take them out"
        for site, count in named.value_counts().sort_index().items()
        if site not in listed
    ]
    problems += [
        f"site '{site}' has no usable patient; the cohort's sites are {', '.join(sorted(named.unique()))}: "
        "list those to be left out in folds.sites"
        for site in listed
        if site not in set(named)
    ]
    if len(listed) < 2:
        problems.append("leave_one_site_out needs at least two sites; choose another folds.protocol")
    for label, group in patients.groupby("label"):
        places = set(group["site"])
        if len(places) == 1:
            problems.append(
                f"class '{label}' occurs at site '{places.pop()}' alone, so that there is nothing to learn "
                "it from when the site is left out; choose another folds.protocol or take the class out of "
                "cohort.classes"
            )
    if problems:
        raise GlomflowError("folds: " + "\n  ".join(problems))
    return dict(zip(patients["patient"], named.map(listed.index), strict=True))


def task_patients(patients: pd.DataFrame, task: str) -> pd.DataFrame:
    """Returns the patients who take part in a task, with what is to be told as ``label``.

    Args:
        patients: PATIENTS.
        task: ``disease``: everyone, as they are. ``stage``: those with a stage, which becomes the label.
    """
    if task == "disease":
        return patients
    staged = patients[patients["stage"].fillna("") != ""]
    return staged.assign(label=staged["stage"]).reset_index(drop=True)


def check_task(folds: pd.DataFrame, patients: pd.DataFrame, classes: Sequence[str], task: str) -> None:
    """Checks that every class of a task can be learned in every fold.

    Args:
        folds: FOLDS.
        patients: From :func:`task_patients`.
        classes: Classes of the task.
        task: Name of the task.

    Raises:
        GlomflowError: A fold has no training patient of a class; the message names both.
    """
    rows = folds[folds["split"] == "train"].merge(patients[["patient", "label"]], on="patient")
    for fold in sorted(folds["fold"].unique()):
        found = set(rows.loc[rows["fold"] == fold, "label"])
        for name in classes:
            if name not in found:
                count = int((patients["label"] == name).sum())
                raise GlomflowError(
                    f"folds: task {task}: no training patient of fold {fold} is of class '{name}', of which "
                    f"there are {count} usable patients; add patients, lower folds.n_splits, or leave the "
                    "models of the task out"
                )


def inner_folds(table: pd.DataFrame, n_splits: int, *, key: str) -> list[pd.DataFrame]:
    """Deals the training and validation patients of an outer fold afresh, stratified by label.

    Args:
        table: TRAINING rows of an outer fold.
        n_splits: Inner folds.
        key: Seed of the assignment.

    Returns:
        TRAINING rows per inner fold: its patients are for validation, the others for training.

    Raises:
        GlomflowError: A class has fewer patients than inner folds.
    """
    counts = table["label"].value_counts().sort_index()
    for label, count in counts.items():
        if count < n_splits:
            raise GlomflowError(
                f"diagnosis.search.inner_splits: class '{label}' has {count} patients outside a test fold, "
                f"fewer than the {n_splits} inner folds; set inner_splits lower or add patients"
            )
    places = table["patient"].map(_deal(table.assign(stage="", site=""), n_splits, key))
    return [table.assign(split=np.where(places == fold, "validation", "train")) for fold in range(n_splits)]


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
    patient is tested once per repeat, they are refused wherever they meet.

    Args:
        folds: FOLDS.
        patients: PATIENTS, the eligible ones.
        inventory: INVENTORY; only usable images count.

    Raises:
        GlomflowError: A patient is missing, unknown, in two splits of a fold or not tested exactly
            once per repeat, or shares a slide or an identical file with another.
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
    columns = {
        "patient": patients["patient"],
        "label": patients["label"],
        "stage": patients["stage"].fillna("").astype("str"),
        "site": sites,
    }
    return pd.DataFrame(columns).sort_values("patient", ignore_index=True)


def _hashed(key: str, name: Hashable) -> str:
    return hashlib.sha256(f"{key}:{name}".encode()).hexdigest()


def _ordered(strata: pd.DataFrame, key: str) -> pd.DataFrame:
    site_keys = strata["site"].map({site: _hashed(key, site) for site in strata["site"].unique()})
    patient_keys = strata["patient"].map(lambda patient: _hashed(key, patient))
    order = strata.assign(site_key=site_keys, patient_key=patient_keys)
    return order.sort_values(["label", "stage", "site_key", "patient_key"], ignore_index=True)


def _deal(strata: pd.DataFrame, n_splits: int, key: str) -> dict[str, int]:
    order = _ordered(strata, key)
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


def _fold_frame(fold: int, repeat: int, patients: pd.Series, split: pd.Series) -> pd.DataFrame:
    columns = {
        "fold": fold,
        "repeat": repeat,
        "patient": patients.astype("str"),
        "split": split.astype("str"),
    }
    frame = pd.DataFrame(columns)
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
    splitter = KFold(n_splits, shuffle=True, random_state=PUBLISHED_SEED)
    for fold, (_, test) in enumerate(splitter.split(np.zeros(len(names)))):
        split = pd.Series("train", index=names.index, dtype="str")
        split.iloc[test] = "test"
        frames.append(_fold_frame(fold, 0, names, split))
    return pd.concat(frames, ignore_index=True)


def _patient_problems(folds: pd.DataFrame, patients: pd.DataFrame) -> list[str]:
    problems = []
    twice = folds[folds.duplicated(["fold", "patient"])]
    problems += [
        f"patient '{patient}' is in two splits of fold {fold}"
        for fold, patient in zip(twice["fold"], twice["patient"], strict=True)
    ]
    repeats = folds["repeat"].nunique()
    dealt = folds.groupby("fold")["repeat"].nunique()
    problems += [f"fold {fold} belongs to {count} repeats" for fold, count in dealt[dealt > 1].items()]
    tests = folds[folds["split"] == "test"].groupby(["patient", "repeat"]).size().unstack(fill_value=0)
    known, listed = set(patients["patient"]), set(folds["patient"])
    for patient in sorted(known | listed):
        counts = tests.loc[patient].tolist() if patient in tests.index else [0]
        if patient not in known:
            problems.append(f"patient '{patient}' of the folds is not an eligible patient")
        elif counts != [1] * repeats:
            wrong = next((count for count in counts if count != 1), 0)
            within = " of a repeat" if repeats > 1 else ""
            problems.append(f"patient '{patient}' is a test patient {wrong} times instead of once{within}")
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
