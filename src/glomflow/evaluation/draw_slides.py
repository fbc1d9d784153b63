"""Which slides of a run are trained on, validated on and tested: at random, or by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.config import FewShot
from glomflow.errors import GlomflowError

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


def shots_needed(settings: FewShot) -> int:
    """Returns how many training crops each class must have."""
    return 1 if settings.allow_fewer else max(settings.shots)


def check_spread(counts: NDArray[np.int64], classes: Sequence[str], settings: FewShot) -> None:
    """Checks what no random split of slides can mend.

    Args:
        counts: (groups, classes) crops.
        classes: Class names.
        settings: Shots.

    Raises:
        GlomflowError: A class is on one slide only, or has fewer crops than shots and one to test.
    """
    for name, column in zip(classes, counts.T, strict=True):
        if int((column > 0).sum()) < 2:
            raise GlomflowError(
                f"few-shot: all crops of class '{name}' are on one slide (or one patient's slides), so it "
                "cannot be trained and tested on different ones; leave it out of few_shot.classes or add "
                "slides that show it"
            )
    wanted = shots_needed(settings)
    for name, column in zip(classes, counts.T, strict=True):
        best = int(column.sum() - column[column > 0].min())
        if best < wanted:
            raise GlomflowError(
                f"few-shot: class '{name}' has at most {best} crops on the training slides (of "
                f"{column.sum()}, one slide being left to test), but few_shot.shots asks for {wanted}; "
                "lower few_shot.shots, or set allow_fewer: true"
            )


def random_split(
    counts: NDArray[np.int64], classes: Sequence[str], settings: FewShot, rng: np.random.Generator
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
    groups, needed = len(counts), shots_needed(settings)
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


def random_validation(
    counts: NDArray[np.int64], training: NDArray[np.bool_], settings: FewShot, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draws validation groups off the test groups, so that every class is still tested.

    Args:
        counts: (groups, classes) crops.
        training: (groups,) whether each group is for training.
        settings: Share of validation slides.
        rng: Source of the draws.

    Returns:
        Numbers of the groups; none if none are wanted.

    Raises:
        GlomflowError: No draw leaves every class to test and shows two classes.
    """
    size = _validation_size(len(counts), settings)
    found = _validation_groups(counts, np.flatnonzero(~training), size, 1, rng)
    if size and not len(found):
        raise GlomflowError(
            f"few-shot: no draw of {size} validation slide(s) shows two classes and leaves every class to "
            "test; change few_shot.validation_slide_fraction or train_slide_fraction, or use "
            "selection: fixed, which needs no validation slides"
        )
    return found


def _validation_size(groups: int, settings: FewShot) -> int:
    if not settings.validation_slide_fraction:
        return 0
    return max(round(settings.validation_slide_fraction * groups), 1)


def _validation_groups(
    counts: NDArray[np.int64],
    others: NDArray[np.int64],
    size: int,
    needed: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draws ``size`` of ``others`` that show most classes and leave ``needed`` crops of every class."""
    best, shown = np.zeros(0, dtype=np.int64), 1
    for _ in range(_VALIDATION_ATTEMPTS if size else 0):
        order = rng.permutation(others)
        chosen, left = order[:size], order[size:]
        classes = int((counts[chosen].sum(axis=0) > 0).sum())
        if classes > shown and (counts[left].sum(axis=0) >= needed).all():
            best, shown = np.sort(chosen), classes
        if shown == counts.shape[1]:
            break
    return best


def site_of_crops(crops: pd.DataFrame, sites: Mapping[str, str], settings: FewShot) -> pd.Series[str]:
    """Returns the site of each crop, for leaving sites out.

    Args:
        crops: Columns crop, slide, patient and group.
        sites: Site of each patient; an empty one or ``unknown`` is none.
        settings: Sites to hold out.

    Raises:
        GlomflowError: A crop has no site, slides or patients that belong together have two, there are
            fewer than two sites, or a site of ``hold_out_sites`` has no crop.
    """
    found = crops["patient"].map(dict(sites))
    known = found.notna() & ~found.isin(["", "unknown"])
    unplaced = crops[~known]
    if len(unplaced):
        row = unplaced.iloc[0]
        raise GlomflowError(
            f"few-shot: crop '{row['crop']}' of patient '{row['patient']}' has no site ({len(unplaced)} "
            "such), and few_shot.protocol leave_one_site_out needs one of each; fill the column 'site' "
            "of the patients' sheet (of the labels' sheet with cohort.source crops), or use protocol: slides"
        )
    several = found.groupby(crops["group"]).nunique()
    if (several > 1).any():
        own = crops[crops["group"] == several.index[several > 1][0]].assign(site=found)
        raise GlomflowError(
            f"few-shot: slide '{own['slide'].iloc[0]}' and what belongs to it have patients of the sites "
            f"{', '.join(sorted(own['site'].unique()))}; correct the slides or the sites in the sheets"
        )
    names = sorted(found.unique())
    if len(names) < 2:
        raise GlomflowError(
            f"few-shot: all labelled crops are of site '{names[0]}', so that none can be held out; name the "
            "sites in the column 'site', or use few_shot.protocol: slides"
        )
    strange = [name for name in settings.hold_out_sites if name not in names]
    if strange:
        raise GlomflowError(
            f"few-shot: no labelled crop is of site '{strange[0]}' of few_shot.hold_out_sites; the sites are "
            f"{', '.join(names)}"
        )
    return found


def check_sites(
    counts: NDArray[np.int64],
    classes: Sequence[str],
    places: NDArray[np.str_],
    held_out: Sequence[str],
    settings: FewShot,
) -> None:
    """Checks that every class can be learned without each site that is held out.

    Args:
        counts: (groups, classes) crops.
        classes: Class names.
        places: (groups,) site of each group.
        held_out: Sites to be held out.
        settings: Shots.

    Raises:
        GlomflowError: A class has fewer crops outside a site than shots; the message names both.
    """
    wanted = shots_needed(settings)
    for site in held_out:
        rest = counts[places != site].sum(axis=0)
        for name, left in zip(classes, rest.tolist(), strict=True):
            if not left:
                raise GlomflowError(
                    f"few-shot: all crops of class '{name}' are of site '{site}', so that there is none to "
                    "learn from when the site is held out; leave the class out of few_shot.classes, take the "
                    "site out of few_shot.hold_out_sites, or use protocol: slides"
                )
            if left < wanted:
                raise GlomflowError(
                    f"few-shot: class '{name}' has {left} crops outside site '{site}', but few_shot.shots "
                    f"asks for {wanted}; lower few_shot.shots, or set allow_fewer: true"
                )


def site_validation(
    counts: NDArray[np.int64],
    others: NDArray[np.int64],
    site: str,
    settings: FewShot,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draws validation groups off the slides of the other sites, so that every class keeps its shots.

    Args:
        counts: (groups, classes) crops.
        others: Groups of the sites that are not held out.
        site: The site that is.
        settings: Share of these slides that validate.
        rng: Source of the draws.

    Returns:
        Numbers of the groups; none if none are wanted.

    Raises:
        GlomflowError: No draw leaves every class its shots and shows two classes.
    """
    size = _validation_size(len(others), settings)
    found = _validation_groups(counts, others, size, shots_needed(settings), rng)
    if size and not len(found):
        raise GlomflowError(
            f"few-shot: with site '{site}' held out, no draw of {size} validation slide(s) of the other "
            "sites shows two classes and leaves every class its shots; lower few_shot.shots or "
            "validation_slide_fraction, or use selection: fixed, which needs no validation slides"
        )
    return found
