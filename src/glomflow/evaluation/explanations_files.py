"""The explanations of a run, read from its files and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from glomflow.config import Config
from glomflow.errors import GlomflowError
from glomflow.evaluation.explanation_truth import deposit_masks, deposit_tiles, glomerulus_masks
from glomflow.evaluation.explanations import Checks, Target, check_explanations
from glomflow.files import read_json
from glomflow.imaging.crop_store import open_array
from glomflow.tables import Schema, read_table
from glomflow.tables_explanations import CONTRIBUTIONS, CURVES, MAPS


def read_maps(maps: Sequence[Path], index: Sequence[Path]) -> tuple[np.ndarray, pd.DataFrame]:
    """Joins memory maps of explanations and their indexes.

    Args:
        maps: (M, H, W) float32 each.
        index: MAPS tables, one per memory map.

    Returns:
        All maps, smaller ones filled up with NaN, and MAPS rows that count them.

    Raises:
        GlomflowError: A file cannot be read, or a memory map and its index do not fit each other.
    """
    arrays = [open_array(path, "maps") for path in maps]
    tables = [read_table(path, MAPS) for path in index]
    start = 0
    for path, array, table in zip(maps, arrays, tables, strict=True):
        if len(array) != len(table):
            raise GlomflowError(
                f"maps {path}: {len(array)} maps, but {len(table)} rows; delete both and run again"
            )
        table["row"] += start
        start += len(array)
    height, width = (max(array.shape[axis] for array in arrays) for axis in (1, 2))
    joined = np.full((start, height, width), np.nan, np.float32)
    start = 0
    for array in arrays:
        joined[start : start + len(array), : array.shape[1], : array.shape[2]] = array
        start += len(array)
    return joined, pd.concat(tables, ignore_index=True)


def check_files(
    maps: Sequence[Path],
    index: Sequence[Path],
    contributions: Sequence[Path],
    curves: Sequence[Path],
    patients: pd.DataFrame,
    settings: Config,
    *,
    crops: Mapping[str, pd.DataFrame | None],
    images: pd.DataFrame,
    inventory: pd.DataFrame,
    truth: Path | None,
    folder: Path,
) -> Checks:
    """Checks what the explain jobs of a run wrote.

    Args:
        maps: Memory maps, one per job.
        index: MAPS tables.
        contributions: CONTRIBUTIONS tables.
        curves: CURVES tables.
        patients: PATIENTS rows.
        settings: The configuration.
        crops: CROPS rows of OM and TEM, None where the cohort has none.
        images: IMAGES rows.
        inventory: INVENTORY rows.
        truth: ``phantom.json``; None for a cohort without truth.
        folder: The cohort folder.

    Returns:
        The checks; without truth those that need none.

    Raises:
        GlomflowError: Files do not fit each other.
    """
    values, rows = read_maps(maps, index)
    shown = _joined(contributions, CONTRIBUTIONS)
    targets, deposits = _targets(rows, settings, crops, images, inventory, truth, folder)
    return check_explanations(
        values,
        rows,
        shown,
        _joined(curves, CURVES),
        _true_classes(shown, patients, settings),
        targets,
        deposits,
        settings.evaluation,
        seed=settings.run.seed,
    )


def _joined(paths: Sequence[Path], schema: Schema) -> pd.DataFrame:
    return pd.concat([read_table(path, schema) for path in paths], ignore_index=True)


def _true_classes(
    contributions: pd.DataFrame, patients: pd.DataFrame, settings: Config
) -> dict[tuple[str, str], str]:
    """Returns the true class of each model's patients."""
    columns = {"disease": "label", "stage": "stage"}
    return {
        (str(model), str(patient)): str(label)
        for model in contributions["model"].unique()
        for patient, label in zip(
            patients["patient"],
            patients[columns[settings.diagnosis.models[str(model)].task]],
            strict=True,
        )
    }


def _targets(
    rows: pd.DataFrame,
    settings: Config,
    crops: Mapping[str, pd.DataFrame | None],
    images: pd.DataFrame,
    inventory: pd.DataFrame,
    truth: Path | None,
    folder: Path,
) -> tuple[list[Target], dict[str, bool] | None]:
    """Returns where maps should point, and which TEM tiles show a deposit where that is known."""
    targets = []
    sizes = {"OM": settings.imaging.om.size, "TEM": settings.imaging.tem.size}
    wanted = {name: set(part["crop"].dropna()) for name, part in rows.groupby("modality")}
    if truth is None:
        return [], None
    glomeruli = crops["OM"]
    if glomeruli is not None and "OM" in wanted:
        masks = glomerulus_masks(wanted["OM"], glomeruli, images, inventory, folder, sizes["OM"])
        targets.append(Target("OM", sizes["OM"], masks))
    tiles = crops["TEM"]
    if tiles is None or "TEM" not in wanted:
        return targets, None
    located = deposit_tiles(
        rows[(rows["modality"] == "TEM") & rows["crop"].notna()], tiles, inventory, read_json(truth), folder
    )
    targets.append(Target("TEM", sizes["TEM"], deposit_masks(located, folder, sizes["TEM"])))
    return targets, dict(zip(located["crop"], located["deposit"].astype(bool), strict=True))
