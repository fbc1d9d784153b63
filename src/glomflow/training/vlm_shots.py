"""From draws of slides and shots to the runs that a method trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods.base import Rows, Shots
from glomflow.shots import shown_at
from glomflow.training.seeds import derive_seed


def shots_of_draws(
    draws: pd.DataFrame,
    crops: Sequence[str],
    classes: Sequence[str],
    shots: Sequence[int],
    *,
    seed: int,
    allow_fewer: bool = False,
) -> tuple[Shots, pd.DataFrame]:
    """Gathers the shots of every run and number of shots; test rows are left out.

    Args:
        draws: Columns run, crop, label, split (train, validation or test), order (place of a training crop in
            its class) and shots (which numbers of shots take it), as ``glomflow.evaluation.draws.DRAWS``.
        crops: Identifiers of the rows of the table of features or activations.
        classes: Names of the classes, in the order of the labels.
        shots: Numbers of shots.
        seed: Seed; each run and number of shots gets one of its own from it.
        allow_fewer: Go on with all there are where a class has fewer training crops than shots.

    Returns:
        The shots, run by run and within it by number of shots, with validation rows if any run has some; and
        the columns run and shots, one row for each.

    Raises:
        GlomflowError: A class has fewer training crops than shots, a crop is not in the table, a class is
            not known, or only some runs have validation crops.
    """
    used = _used(draws, crops, classes)
    keys, trained, held = [], [], []
    for number, own in used.groupby("run", sort=True):
        run = int(str(number))
        validation = own[own["split"] == "validation"].sort_values("crop")
        training = own[own["split"] == "train"].sort_values(["label", "order"])
        for count in sorted(set(shots)):
            chosen = training[shown_at(training["shots"], count)]
            if not allow_fewer:
                _check_enough(chosen, classes, count, run)
            keys.append((run, count))
            trained.append(chosen)
            held.append(validation)
    result = Shots(
        tuple(classes),
        _rows(trained),
        _rows(held) if _validated(keys, held) else None,
        tuple(f"run {run}, {count} shots" for run, count in keys),
        tuple(derive_seed(seed, "vlm", run, count) for run, count in keys),
    )
    return result, pd.DataFrame(np.array(keys, dtype=np.int64).reshape(-1, 2), columns=["run", "shots"])


def _used(draws: pd.DataFrame, crops: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Returns what is trained or validated on, with ``place`` in the table and ``number`` of the class."""
    place = {name: row for row, name in enumerate(crops)}
    number = {name: label for label, name in enumerate(classes)}
    used = draws[draws["split"].isin(["train", "validation"])]
    absent = used.loc[~used["crop"].isin(place), "crop"]
    if len(absent):
        raise GlomflowError(
            f"few-shot: crop '{absent.iloc[0]}' of the draws has no features ({len(absent)} such); compute "
            "the features again, or draw the shots again"
        )
    strange = used.loc[~used["label"].isin(number), "label"]
    if len(strange):
        raise GlomflowError(
            f"few-shot: the draws name class '{strange.iloc[0]}'; the classes are {', '.join(classes)}. Draw "
            "the shots again"
        )
    return used.assign(place=used["crop"].map(place), number=used["label"].map(number))


def _validated(keys: Sequence[tuple[int, int]], held: Sequence[pd.DataFrame]) -> bool:
    """Tells whether the runs have validation rows, which all must have or none."""
    some = [len(rows) > 0 for rows in held]
    if any(some) and not all(some):
        raise GlomflowError(
            f"few-shot: run {keys[some.index(False)][0]} has no validation crop and others have; draw the "
            "shots again"
        )
    return any(some)


def _rows(frames: Sequence[pd.DataFrame]) -> Rows:
    return Rows.of(
        [frame["place"].tolist() for frame in frames], [frame["number"].tolist() for frame in frames]
    )


def _check_enough(chosen: pd.DataFrame, classes: Sequence[str], count: int, run: int) -> None:
    found = chosen["label"].value_counts()
    for name in classes:
        if int(found.get(name, 0)) < count:
            raise GlomflowError(
                f"few-shot, run {run}: class '{name}' has {int(found.get(name, 0))} training crops, and "
                f"few_shot.shots asks for {count}; lower few_shot.shots, or set allow_fewer: true"
            )
