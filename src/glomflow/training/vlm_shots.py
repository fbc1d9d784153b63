"""From draws of slides and shots to the runs that a method trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods.base import Rows, Shots
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
        draws: Columns run, crop, label, split (train, validation or test) and order (place in the class of a
            training crop: k shots are the places below k), as ``glomflow.evaluation.draws.DRAWS``.
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
    keys, trained, held = [], [], []
    for run, own in used.groupby("run", sort=True):
        validation = own[own["split"] == "validation"].sort_values("crop")
        for count in sorted(set(shots)):
            chosen = own[(own["split"] == "train") & (own["order"] < count)].sort_values(["label", "order"])
            if not allow_fewer:
                _check_enough(chosen, classes, count, int(str(run)))
            keys.append((int(str(run)), count))
            trained.append(chosen)
            held.append(validation)
    if any(len(rows) for rows in held) and not all(len(rows) for rows in held):
        run = keys[next(i for i, rows in enumerate(held) if not len(rows))][0]
        raise GlomflowError(
            f"few-shot: run {run} has no validation crop and others have; draw the shots again"
        )

    def gathered(frames: list[pd.DataFrame]) -> Rows:
        return Rows.of(
            [[place[crop] for crop in frame["crop"]] for frame in frames],
            [[number[label] for label in frame["label"]] for frame in frames],
        )

    result = Shots(
        tuple(classes),
        gathered(trained),
        gathered(held) if any(len(rows) for rows in held) else None,
        tuple(f"run {run}, {count} shots" for run, count in keys),
        tuple(derive_seed(seed, "vlm", run, count) for run, count in keys),
    )
    return result, pd.DataFrame(np.array(keys, dtype=np.int64).reshape(-1, 2), columns=["run", "shots"])


def _check_enough(chosen: pd.DataFrame, classes: Sequence[str], count: int, run: int) -> None:
    found = chosen["label"].value_counts()
    for name in classes:
        if int(found.get(name, 0)) < count:
            raise GlomflowError(
                f"few-shot, run {run}: class '{name}' has {int(found.get(name, 0))} training crops, and "
                f"few_shot.shots asks for {count}; lower few_shot.shots, or set allow_fewer: true"
            )
