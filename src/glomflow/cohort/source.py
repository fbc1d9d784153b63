"""The cohort's tables, whichever way the configuration says that it comes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from glomflow.cohort.crops_folder import read_crops_folder
from glomflow.cohort.sheets import read_cohort
from glomflow.config import Cohort
from glomflow.errors import CohortError


def read_source(
    cohort: Cohort, folder: Path, *, n_splits: int, shards: int, diagnosis: bool, shard: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads and checks the sheets of a cohort.

    Args:
        cohort: The section of the configuration.
        folder: The cohort folder.
        n_splits: Outer folds, which every class has to fill.
        shards: Number of shards.
        diagnosis: Whether patients need a diagnosis.
        shard: Read this shard's rows, and leave files alone; without it all.

    Returns:
        The tables PATIENTS and IMAGES, those of the shard if one is named.

    Raises:
        CohortError: All problems of the sheets, those of the files included in any case.
    """
    try:
        return _read(cohort, folder, n_splits, shards, diagnosis, shard)
    except CohortError:
        if shard is not None:
            _read(cohort, folder, n_splits, shards, diagnosis, None)
        raise


def _read(
    cohort: Cohort, folder: Path, n_splits: int, shards: int, diagnosis: bool, shard: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if cohort.source == "crops":
        patients, images = read_crops_folder(
            folder, cohort.labels, classes=cohort.classes, shards=shards, check_files=shard is None
        )
        if shard is None:
            return patients, images
        patients, images = (
            table[table["shard"] == shard].reset_index(drop=True) for table in (patients, images)
        )
        return patients, images
    phantom = cohort.source == "phantom"
    return read_cohort(
        folder,
        "patients.csv" if phantom else cohort.patients,
        "images.csv" if phantom else cohort.images,
        classes=cohort.classes,
        n_splits=n_splits,
        shards=shards,
        check_classes=diagnosis,
        shard=shard,
    )
