"""Which glomeruli are labelled and which are tested, run by run: slides never cross."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.config import FewShot
from glomflow.errors import GlomflowError
from glomflow.evaluation.draw_slides import (
    check_sites,
    check_spread,
    connected_groups,
    random_split,
    random_validation,
    site_of_crops,
    site_validation,
)
from glomflow.files import sha256_json
from glomflow.shots import written_shots
from glomflow.tables import Column, Schema

DRAWS: Schema = {
    "run": Column("int64", "run, from 0"),
    "crop": Column("string", "crop identifier"),
    "slide": Column("string", "slide of the crop"),
    "patient": Column("string", "patient of the crop"),
    "group": Column("int64", "slides and patients that belong together, numbered from 0"),
    "site": Column("string", "site of the crop, where sites are held out: the test crops' is; or missing"),
    "label": Column("string", "true class"),
    "split": Column("string", "train, validation or test"),
    "order": Column("int64", "train: place in the shuffled class, from 0. Others: -1"),
    "shots": Column("string", "numbers of shots that the crop is learned from at, joined by ';'"),
}
"""One row per run and crop."""


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


def draw_shots(
    index: pd.DataFrame, settings: FewShot, *, seed: int, sites: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Draws, for every run, training, validation and test slides, and what each number of shots takes.

    ``protocol: slides``: slides are split at random; a split in which a class lacks crops to train on, or any
    to test on, is drawn again. Slides of one patient stay together. Validation slides, if any are wanted, are
    taken off the test slides, of which enough stay that every class is tested.

    ``protocol: leave_one_site_out``: each site is held out in turn, ``runs`` times: run r holds out site
    r modulo the number of sites. All its crops are tested; shots and validation slides are of the others.

    On the training slides the crops of each class are shuffled. With ``nested`` k shots are the first k;
    otherwise each number of shots takes the crops after those of the next smaller one, so that samples of a
    run are disjoint as far as the class goes. Test crops are the same for all shots and methods of a run.

    With ``draws: pool`` all runs (of a site) share one split of the slides and one shuffled pool per class.
    Each run starts at another place of it, so far on that runs do not overlap up to as many shots as the
    pool allows (Glo-VLMs, arXiv 2508.15960, takes such slices up to 4 shots).

    Args:
        index: CROPS of the OM crops.
        settings: Classes, shots, runs and protocol.
        seed: Seed; each run has a stream of its own, so that more runs leave the first as they are.
        sites: Site of each patient, for ``leave_one_site_out``.

    Returns:
        The draws (``DRAWS``), by run and crop.

    Raises:
        GlomflowError: A class has too few crops or slides, or a site is missing; the message says which
            and what to do.
    """
    crops, classes = labelled_crops(index, settings)
    crops["site"] = None
    counts = pd.crosstab(crops["group"], crops["label"]).reindex(columns=classes, fill_value=0)
    table = counts.to_numpy(dtype=np.int64)
    if settings.protocol == "slides":
        check_spread(table, classes, settings)
        splits = _random_splits(table, classes, settings, seed)
    else:
        crops["site"] = site_of_crops(crops, sites or {}, settings)
        places = crops.groupby("group")["site"].first().to_numpy(dtype="str")
        held_out = settings.hold_out_sites or sorted(set(places))
        check_sites(table, classes, places, held_out, settings)
        splits = _site_splits(table, places, held_out, settings, seed)
    runs = [
        _drawn_run(crops, classes, split, settings, turn=turn, rng=rng).assign(run=run)
        for run, (split, turn, rng) in enumerate(splits)
    ]
    draws = pd.concat(runs, ignore_index=True)[list(DRAWS)]
    check_draws(draws)
    return draws


_Split = tuple[NDArray[np.str_], int, np.random.Generator]
"""The split of each group; how many runs drew from the same pool before; the stream of what else is drawn."""


def _random_splits(
    counts: NDArray[np.int64], classes: list[str], settings: FewShot, seed: int
) -> Iterator[_Split]:
    for run in range(settings.runs):
        rng = np.random.default_rng([seed, run if settings.draws == "redrawn" else 0])
        training = random_split(counts, classes, settings, rng)
        split = np.where(training, "train", "test").astype("U10")
        split[random_validation(counts, training, settings, rng)] = "validation"
        yield split, run, rng


def _site_splits(
    counts: NDArray[np.int64],
    places: NDArray[np.str_],
    held_out: Sequence[str],
    settings: FewShot,
    seed: int,
) -> Iterator[_Split]:
    for turn in range(settings.runs):
        for site in held_out:
            # A site's stream is its own, whichever others are held out.
            key = int(sha256_json(site)[:12], 16)
            rng = np.random.default_rng([seed, turn if settings.draws == "redrawn" else 0, key])
            split = np.where(places == site, "test", "train").astype("U10")
            split[site_validation(counts, np.flatnonzero(places != site), site, settings, rng)] = "validation"
            yield split, turn, rng


def _drawn_run(
    crops: pd.DataFrame,
    classes: list[str],
    split: NDArray[np.str_],
    settings: FewShot,
    *,
    turn: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Shuffles the training crops of a run and says which each number of shots takes."""
    own = split[crops["group"].to_numpy()]
    order = np.full(len(crops), -1, dtype=np.int64)
    shots = np.full(len(crops), "", dtype=object)
    for name in classes:
        rows = np.flatnonzero((own == "train") & (crops["label"] == name).to_numpy())
        start = 0 if settings.draws == "redrawn" else turn * _step(len(rows), settings)
        shuffled = np.roll(rng.permutation(rows), -start)
        order[shuffled] = np.arange(len(rows))
        shots[shuffled] = written_shots(len(rows), settings.shots, nested=settings.nested)
    return crops.assign(split=own, order=order, shots=shots)


def _step(pool: int, settings: FewShot) -> int:
    """Returns how far apart in the pool runs start, so that most of them find crops of their own.

    That is all that a run takes, if the pool has as many for every run; else the most shots that it has.
    """
    shots = [count for count in settings.shots if count]
    taken = max(shots) if settings.nested else sum(set(shots))
    return max((count for count in [*shots, taken] if count * settings.runs <= pool), default=1)


def draw_remarks(draws: pd.DataFrame, settings: FewShot) -> list[str]:
    """Says where classes were too small for what was asked: fewer crops than shots, or shared ones.

    Args:
        draws: The draws (``DRAWS``).
        settings: What was asked for.

    Returns:
        A sentence per class and reason, about the run with the fewest crops.
    """
    train = draws[draws["split"] == "train"]
    sizes = train.groupby(["label", "run"]).size()
    shots = sorted({count for count in settings.shots if count})
    remarks = []
    for label, own in sizes.groupby(level="label"):
        fewest = int(own.min())
        short = [str(count) for count in shots if count > fewest]
        if short:
            remarks.append(
                f"class '{label}' has {fewest} training crops in the run with the fewest: {', '.join(short)} "
                "shots take all that there are"
            )
        if not settings.nested and sum(shots) > fewest:
            remarks.append(
                f"class '{label}' has {fewest} training crops in the run with the fewest, and disjoint "
                f"samples of {', '.join(map(str, shots))} shots take {sum(shots)}: they share crops"
            )
        taken = [str(count) for count in shots if settings.draws == "pool" and count * settings.runs > fewest]
        if taken and settings.runs > 1:
            remarks.append(
                f"class '{label}' has a pool of {fewest} crops: {settings.runs} runs of {', '.join(taken)} "
                "shots share crops"
            )
    return remarks


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


def rounds_of(draws: pd.DataFrame) -> pd.DataFrame:
    """Tells which site each run holds out, and for the how-manyth time.

    Args:
        draws: The draws (``DRAWS``).

    Returns:
        By run: ``site``, empty if none is held out, and ``round``, from 0: the runs of a round test each
        site once. Without sites each run is a round.
    """
    test = draws[draws["split"] == "test"].sort_values("run")
    found = test.groupby("run")["site"].first().fillna("").astype("str").to_frame()
    return found.assign(round=found.groupby("site").cumcount())


def draw_digest(draws: pd.DataFrame) -> str:
    """Returns the SHA-256 of the draws: what each crop is for in each run, at which shots."""
    rows = draws.sort_values(["run", "crop"])[["run", "crop", "split", "shots"]]
    rows["shots"] = rows["shots"].fillna("")
    return sha256_json([[int(a), str(b), str(c), str(d)] for a, b, c, d in rows.itertuples(index=False)])
