"""The cohort's tables, whichever way the configuration says that it comes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from glomflow.cohort.crops_folder import read_crops_folder
from glomflow.cohort.sheets import read_cohort
from glomflow.config import Cohort
from glomflow.errors import CohortError


def read_source(
    cohort: Cohort, folder: Path, *, n_splits: int, shards: int, diagnosis: bool, check_files: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads and checks the sheets of a cohort.

    Args:
        cohort: The section of the configuration.
        folder: The cohort folder.
        n_splits: Outer folds, which every class has to fill.
        shards: Number of shards.
        diagnosis: Whether patients need a diagnosis.
        check_files: Whether to look at the files that the sheets name, too.

    Returns:
        The tables PATIENTS and IMAGES.

    Raises:
        CohortError: All problems of the sheets, those of the files included in any case.
    """
    try:
        return _read(cohort, folder, n_splits, shards, diagnosis, check_files)
    except CohortError:
        if not check_files:
            _read(cohort, folder, n_splits, shards, diagnosis, True)
        raise


def _read(
    cohort: Cohort, folder: Path, n_splits: int, shards: int, diagnosis: bool, check_files: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if cohort.source == "crops":
        return read_crops_folder(
            folder, cohort.labels, classes=cohort.classes, shards=shards, check_files=check_files
        )
    phantom = cohort.source == "phantom"
    return read_cohort(
        folder,
        "patients.csv" if phantom else cohort.patients,
        "images.csv" if phantom else cohort.images,
        classes=cohort.classes,
        n_splits=n_splits,
        shards=shards,
        check_classes=diagnosis,
        check_files=check_files,
    )
