"""Which glomeruli are labelled and which are tested, run by run: slides never cross."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.config import FewShot
from glomflow.errors import GlomflowError
from glomflow.files import sha256_json
from glomflow.tables import Column, Schema

DRAWS: Schema = {
    "run": Column("int64", "run, from 0"),
    "crop": Column("string", "crop identifier"),
    "slide": Column("string", "slide of the crop"),
    "patient": Column("string", "patient of the crop"),
    "group": Column("int64", "slides and patients that belong together, numbered from 0"),
    "label": Column("string", "true class"),
    "split": Column("string", "train, validation or test"),
    "order": Column("int64", "train: place in the class, from 0; k shots take places below k. Others: -1"),
}
"""One row per run and crop; the shots of a run are nested."""

_ATTEMPTS = 2000
_VALIDATION_ATTEMPTS = 200


def connected_groups(slides: pd.Series[str], patients: pd.Series[str]) -> NDArray[np.int64]:
    """Numbers the groups of rows that share a slide or a patient, directly or through others.

    Args:
        slides: Slide of each row.
        patients: Patient of each row; a missing one joins nothing.

    Returns:
        (n,) group of each row, numbered from 0 in order of the smallest slide identifier.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    slide_codes, slide_names = pd.factorize(slides, sort=True)
    patient_codes, patient_names = pd.factorize(patients)
    known = patient_codes >= 0
    size = len(slide_names) + len(patient_names)
    edges = (slide_codes[known], len(slide_names) + patient_codes[known])
    graph = coo_array((np.ones(int(known.sum())), edges), shape=(size, size))
    component = connected_components(graph, directed=False)[1][slide_codes]
    first = pd.Series(slide_codes).groupby(component).min()
    rank = {int(group): place for place, group in enumerate(first.sort_values().index)}
    return np.array([rank[int(group)] for group in component], dtype=np.int64)


def labelled_crops(index: pd.DataFrame, settings: FewShot) -> tuple[pd.DataFrame, list[str]]:
    """Returns the crops of the classes asked for, and the classes.

    Args:
        index: CROPS of the OM crops; only those with a lesion are used.
        settings: Classes; all lesions that occur, in alphabetical order, if empty.

    Returns:
        Columns crop, slide, patient, label and group, sorted by crop, index as in ``index``; and
        the classes.

    Raises:
        GlomflowError: A slide is missing, a crop occurs twice, a class has no crop, or there are
            fewer than two classes.
    """
    lesions = index["lesion"].replace("", np.nan)
    classes = settings.classes or sorted(lesions.dropna().unique())
    if len(classes) < 2:
        raise GlomflowError(
            f"few-shot: the crops name {len(classes)} lesion class(es) {classes}; at least two are needed. "
            "Fill the lesion classes of the annotations (column 'label' of a crops sheet)"
        )
    rows = index[lesions.isin(classes)]
    absent = sorted(set(classes) - set(rows["lesion"]))
    if absent:
        raise GlomflowError(
            f"few-shot: no crop of class '{absent[0]}'; the crops have "
            f"{', '.join(sorted(lesions.dropna().unique()))}. Correct few_shot.classes"
        )
    doubled = rows["crop"][rows["crop"].duplicated()]
    if len(doubled):
        raise GlomflowError(f"few-shot: crop '{doubled.iloc[0]}' occurs twice in the crop index")
    unplaced = rows["crop"][rows["slide"].isna() | (rows["slide"] == "")]
    if len(unplaced):
        raise GlomflowError(
            f"few-shot: crop '{unplaced.iloc[0]}' has no slide, so training and test cannot be kept apart; "
            "fill the column 'slide'"
        )
    used = rows[["crop", "slide", "patient"]].assign(label=rows["lesion"])
    used["patient"] = used["patient"].replace("", np.nan)
    used = used.sort_values("crop")
    return used.assign(group=connected_groups(used["slide"], used["patient"])), list(classes)


def _check_spread(counts: NDArray[np.int64], classes: list[str]) -> None:
    for number, name in enumerate(classes):
        places = int((counts[:, number] > 0).sum())
        if places < 2:
            raise GlomflowError(
                f"few-shot: all crops of class '{name}' are on one slide (or one patient's slides), so it "
                "cannot be trained and tested on different ones; leave it out of few_shot.classes or add "
                "slides that show it"
            )


def _choose_groups(
    counts: NDArray[np.int64], classes: list[str], settings: FewShot, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draws training groups until every class has its shots there and occurs among the others.

    Args:
        counts: (groups, classes) crops.
        classes: Class names.
        settings: Shots and share of training slides.
        rng: Source of the draws.

    Returns:
        (groups,) whether each group is for training.

    Raises:
        GlomflowError: No draw of many leaves every class enough crops to train and one to test.
    """
    groups, wanted = len(counts), max(settings.shots)
    needed = 1 if settings.allow_fewer else wanted
    size = min(max(round(settings.train_slide_fraction * groups), 1), groups - 1)
    most = np.zeros(len(classes), dtype=np.int64)
    short = np.zeros(len(classes), dtype=np.int64)
    for _ in range(_ATTEMPTS):
        training = np.zeros(groups, dtype=bool)
        training[rng.permutation(groups)[:size]] = True
        trained, tested = counts[training].sum(axis=0), counts[~training].sum(axis=0)
        if (trained >= needed).all() and (tested > 0).all():
            return training
        most = np.maximum(most, np.where(tested > 0, trained, 0))
        short += (trained < needed) | (tested == 0)
    worst = int(np.lexsort((-short, most >= needed))[0])
    raise GlomflowError(
        f"few-shot: class '{classes[worst]}' has {most[worst]} crops on the training slides in the best of "
        f"{_ATTEMPTS} draws that leave one to test, but few_shot.shots asks for {needed}, together with the "
        "other classes; lower few_shot.shots, change few_shot.train_slide_fraction, "
        + (
            "or leave the class out of few_shot.classes"
            if settings.allow_fewer
            else "or set allow_fewer: true"
        )
    )


def draw_shots(index: pd.DataFrame, settings: FewShot, *, seed: int) -> pd.DataFrame:
    """Draws, for every run, training, validation and test slides and the order in which shots are taken.

    Slides are split at random; a split in which a class lacks crops to train on, or any to test on,
    is drawn again. Slides of one patient stay together. Validation slides, if any are wanted, are taken
    off the test slides, of which enough stay that every class is tested. On the training slides the
    crops of each class are shuffled; k shots are the first k, so that shots are nested and the test
    crops are the same for all shots and methods of a run.

    With ``draws: pool`` all runs share one split of the slides and one shuffled pool per class. Each run
    starts at another place of it, so far on that runs do not overlap up to as many shots as the pool
    allows (Glo-VLMs, arXiv 2508.15960, takes such slices up to 4 shots).

    Args:
        index: CROPS of the OM crops.
        settings: Classes, shots, runs and share of training slides.
        seed: Seed; each run has a stream of its own, so that more runs leave the first as they are.

    Returns:
        The draws (``DRAWS``), by run and crop.

    Raises:
        GlomflowError: A class has too few crops or slides; the message says which and what to do.
    """
    crops, classes = labelled_crops(index, settings)
    counts = pd.crosstab(crops["group"], crops["label"]).reindex(columns=classes, fill_value=0)
    table = counts.to_numpy(dtype=np.int64)
    _check_spread(table, classes)
    _check_totals(table, classes, settings)
    runs = []
    for run in range(settings.runs):
        rng = np.random.default_rng([seed, run if settings.draws == "redrawn" else 0])
        training = _choose_groups(table, classes, settings, rng)
        split = np.where(training, "train", "test").astype("U10")
        order = np.full(len(crops), -1, dtype=np.int64)
        trained = training[crops["group"].to_numpy()]
        for name in classes:
            rows = np.flatnonzero(trained & (crops["label"] == name).to_numpy())
            start = 0 if settings.draws == "redrawn" else run * _step(len(rows), settings)
            order[np.roll(rng.permutation(rows), -start)] = np.arange(len(rows))
        split[_choose_validation(table, training, settings, rng)] = "validation"
        runs.append(crops.assign(run=run, split=split[crops["group"].to_numpy()], order=order))
    draws = pd.concat(runs, ignore_index=True)[list(DRAWS)]
    check_draws(draws)
    return draws


def _step(pool: int, settings: FewShot) -> int:
    """Returns how far apart in the pool runs start: by the most shots that all runs find without overlap."""
    return max((shots for shots in settings.shots if shots * settings.runs <= pool), default=1)


def _choose_validation(
    counts: NDArray[np.int64], training: NDArray[np.bool_], settings: FewShot, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draws validation groups off the test groups.

    Args:
        counts: (groups, classes) crops.
        training: (groups,) whether each group is for training.
        settings: Share of validation slides.
        rng: Source of the draws.

    Returns:
        Numbers of the groups; of the draws that leave every class to test, one that shows most classes.

    Raises:
        GlomflowError: No draw leaves every class to test and shows two classes.
    """
    if not settings.validation_slide_fraction:
        return np.zeros(0, dtype=np.int64)
    others = np.flatnonzero(~training)
    size = max(round(settings.validation_slide_fraction * len(counts)), 1)
    best, shown = np.zeros(0, dtype=np.int64), 1
    for _ in range(_VALIDATION_ATTEMPTS):
        order = rng.permutation(others)
        chosen, left = order[:size], order[size:]
        classes = int((counts[chosen].sum(axis=0) > 0).sum())
        if classes > shown and (counts[left].sum(axis=0) > 0).all():
            best, shown = np.sort(chosen), classes
        if shown == counts.shape[1]:
            break
    if not len(best):
        raise GlomflowError(
            f"few-shot: no draw of {size} validation slide(s) shows two classes and leaves every class to "
            "test; change few_shot.validation_slide_fraction or train_slide_fraction, or use "
            "selection: fixed, which needs no validation slides"
        )
    return best


def _check_totals(counts: NDArray[np.int64], classes: list[str], settings: FewShot) -> None:
    """Checks what no draw can mend: a class with fewer crops than shots and one to test."""
    wanted = 1 if settings.allow_fewer else max(settings.shots)
    for name, column in zip(classes, counts.T, strict=True):
        best = int(column.sum() - column[column > 0].min())
        if best < wanted:
            raise GlomflowError(
                f"few-shot: class '{name}' has at most {best} crops on the training slides (of "
                f"{column.sum()}, one slide being left to test), but few_shot.shots asks for {wanted}; "
                "lower few_shot.shots, or set allow_fewer: true"
            )


def check_draws(draws: pd.DataFrame) -> None:
    """Checks that no slide or patient is on both sides of a run.

    Args:
        draws: The draws (``DRAWS``).

    Raises:
        GlomflowError: One is; the message names it.
    """
    for column in ("slide", "patient"):
        sides = draws.groupby(["run", column])["split"].nunique()
        crossing = sides[sides > 1]
        if len(crossing):
            run, name = crossing.index[0]
            raise GlomflowError(
                f"few-shot: {column} '{name}' is both trained on and tested in run {run}; "
                "draw the shots again"
            )


def draw_digest(draws: pd.DataFrame) -> str:
    """Returns the SHA-256 of the draws: which crop is in which split and place of which run."""
    rows = draws.sort_values(["run", "crop"])[["run", "crop", "split", "order"]]
    return sha256_json([[int(a), str(b), str(c), int(d)] for a, b, c, d in rows.itertuples(index=False)])
