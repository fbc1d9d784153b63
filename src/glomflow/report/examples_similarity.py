"""The glomeruli whose patches are shown beside the texts of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.errors import GlomflowError
from glomflow.imaging.crop_store import open_array
from glomflow.report.examples import Store, join_indexes, pixels, short
from glomflow.report.figures_similarity import SimilarityPanel
from glomflow.report.tables import records
from glomflow.tables import SIMILARITY, read_table

MOST_CLASSES = 6
"""Classes whose maps are shown of a glomerulus; of more, the true one and those of the highest cosine."""


def read_similarity(maps: Path, index: Path) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Reads the maps of a backbone.

    Args:
        maps: float32 (n, K, rows, columns), ``.npy``.
        index: SIMILARITY rows with ``c_<class>``.

    Raises:
        GlomflowError: A file cannot be read, or the two do not fit each other.
    """
    array, rows = open_array(maps, "maps"), read_table(index, SIMILARITY, open_ended=True)
    classes = [name for name in rows.columns if name.startswith("c_")]
    if array.ndim != 4 or array.shape[:2] != (len(rows), len(classes)):
        raise GlomflowError(
            f"maps {maps}: of shape {array.shape}, but {index} has {len(rows)} rows and {len(classes)} "
            "classes; delete both and run again"
        )
    return array, rows


def panels(maps: NDArray[np.float32], index: pd.DataFrame, stores: Sequence[Store]) -> list[SimilarityPanel]:
    """Makes a panel for each glomerulus.

    Args:
        maps: (n, K, rows, columns) cosines.
        index: SIMILARITY rows with ``c_<class>``.
        stores: Stores of glomerulus crops.

    Raises:
        GlomflowError: A crop is not in the stores.
    """
    crops = {str(row["crop"]): row for row in records(join_indexes(stores))}
    classes = [name[2:] for name in index.columns if name.startswith("c_")]
    return [_panel(maps[row["row"]], row, classes, crops, stores) for row in records(index)]


def _panel(
    maps: NDArray[np.float32],
    row: dict[str, Any],
    classes: list[str],
    crops: dict[str, dict[str, Any]],
    stores: Sequence[Store],
) -> SimilarityPanel:
    if row["crop"] not in crops:
        raise GlomflowError(
            f"maps: crop '{row['crop']}' is not in the crop store; delete the maps and run again"
        )
    own = classes.index(row["label"])
    values = maps.astype(np.float64)
    others = np.delete(values, own, axis=0).mean(axis=0)
    cosines = {name: float(row[f"c_{name}"]) for name in classes}
    leading = sorted((name for name in classes if name != row["label"]), key=lambda name: -cosines[name])
    shown = {row["label"], *leading[: MOST_CLASSES - 1]}
    return SimilarityPanel(
        title=f"{spaced(row['label'])} → {spaced(row['predicted'])}",
        note=f"{short(row['crop'], 28)} · slide {short(row['slide'])}",
        right=row["label"] == row["predicted"],
        image=pixels(stores, crops[row["crop"]]),
        box=(row["x"], row["y"], row["width"], row["height"]),
        maps={name: values[place] for place, name in enumerate(classes) if name in shown},
        cosines=cosines,
        label=row["label"],
        predicted=row["predicted"],
        contrast=values[own] - others,
    )


def spaced(name: str) -> str:
    """Returns a class as a reader calls it."""
    return name.replace("_", " ")
