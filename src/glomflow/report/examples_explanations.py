"""Which explanations a report shows: right and wrong predictions by a hash of the patient, never picked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.evaluation.explanation_truth import deposit_masks, deposit_tiles
from glomflow.evaluation.map_measures import Mask, upsampled
from glomflow.report.examples import Store, join_indexes, pixels, short
from glomflow.report.figures_explanations import ExplanationPanel, MapTile
from glomflow.tables import MODALITIES
from glomflow.tables_explanations import ATTENTION_KIND

TEM_TILES = 4
"""TEM tiles shown of a patient."""


def chosen_patients(predicted: Mapping[str, str], truth: Mapping[str, str], number: int) -> list[str]:
    """Chooses patients: half of them predicted wrongly, if there are as many.

    Args:
        predicted: Predicted class of each patient.
        truth: True class of each patient.
        number: Patients wanted; fewer if there are fewer.

    Returns:
        Right ones, then wrong ones, each in the order of the SHA-256 of the patient's name.
    """
    ordered = sorted(predicted, key=lambda patient: hashlib.sha256(patient.encode()).hexdigest())
    right = [patient for patient in ordered if predicted[patient] == truth[patient]]
    wrong = [patient for patient in ordered if predicted[patient] != truth[patient]]
    few = min(len(wrong), max(number // 2, number - len(right)))
    return right[: number - few] + wrong[:few]


def explanation_examples(
    maps: np.ndarray,
    index: pd.DataFrame,
    contributions: pd.DataFrame,
    stores: Mapping[str, Sequence[Store]],
    truth: Mapping[str, str],
    number: int,
    *,
    deposits: Mapping[str, Mask] | None = None,
) -> list[ExplanationPanel]:
    """Makes a panel for each patient that :func:`chosen_patients` names.

    Args:
        maps: (M, H, W) float32.
        index: MAPS rows of one model; of several folds or seeds of a patient the first is shown.
        contributions: CONTRIBUTIONS rows of the same model.
        stores: Crop stores per modality.
        truth: True class of each patient.
        number: Patients wanted.
        deposits: Where TEM tiles show deposits, for a phantom; a tile that is not named shows none.

    Returns:
        The panels.

    Raises:
        GlomflowError: A map lies over a crop that the stores do not hold.
    """
    first = contributions.sort_values(["patient", "seed", "fold"]).drop_duplicates(["patient"])
    predicted = dict(zip(first["patient"], first["predicted"], strict=True))
    crops = {name: _crops(stores.get(name, ())) for name in MODALITIES}
    panels = []
    for patient in chosen_patients(predicted, truth, number):
        run = first[first["patient"] == patient].iloc[0]
        same = {name: run[name] for name in ("patient", "fold", "seed")}
        own = _matching(index[index["draw"] == 0], same)
        shown = [
            tile
            for name in MODALITIES
            for tile in _tiles(maps, own[own["modality"] == name], name, crops[name], stores, deposits)
        ]
        shares: Any = _matching(contributions, same).to_dict("records")
        ordered = sorted(shares, key=lambda row: MODALITIES.index(row["modality"]))
        panels.append(
            ExplanationPanel(
                title=f"{patient} · {truth[patient]} → {run['predicted']}",
                right=truth[patient] == run["predicted"],
                tiles=shown,
                predicted=str(run["predicted"]),
                prior=float(run["p_empty"]),
                probability=float(run["p_all"]),
                contributions=[(str(row["modality"]), float(row["contribution"])) for row in ordered],
            )
        )
    return panels


def tile_masks(
    index: pd.DataFrame,
    tiles: pd.DataFrame,
    inventory: pd.DataFrame,
    truth: dict[str, Any],
    folder: Path,
    size: int,
) -> dict[str, Mask]:
    """Returns where the TEM tiles of some maps show deposits, crop by crop; tiles without are left out."""
    own = index[(index["modality"] == "TEM") & index["crop"].notna()]
    if own.empty:
        return {}
    return dict(deposit_masks(deposit_tiles(own, tiles, inventory, truth, folder), folder, size))


def _matching(frame: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def _crops(stores: Sequence[Store]) -> dict[str, dict[str, Any]]:
    index = join_indexes(stores)
    records: Any = index.to_dict("records") if len(index) else []
    return {str(row["crop"]): row for row in records}


def _tiles(
    maps: np.ndarray,
    own: pd.DataFrame,
    modality: str,
    crops: Mapping[str, dict[str, Any]],
    stores: Mapping[str, Sequence[Store]],
    deposits: Mapping[str, Mask] | None,
) -> list[MapTile]:
    """Returns the instances of a modality whose maps say most, those of TEM up to ``TEM_TILES``."""
    attributed = own[own["kind"] != ATTENTION_KIND]
    attributed = attributed.sort_values(["value", "weight", "crop"], ascending=[False, False, True])
    attention = own[own["kind"] == ATTENTION_KIND].dropna(subset=["crop"]).set_index("crop")["row"]
    top = max((float(_positive(maps, row).max()) for row in _records(attributed)), default=0.0)
    tiles = []
    for row in _records(attributed.head(TEM_TILES if modality == "TEM" else 1)):
        crop = str(row["crop"])
        if crop not in crops:
            raise GlomflowError(f"maps: crop '{crop}' is not in the {modality} crop store; explain again")
        image = pixels(stores[modality], crops[crop])
        shape = (image.shape[0], image.shape[1])
        looked_at = None
        if crop in attention.index:
            values = _positive(maps, {**row, "row": attention[crop]})
            looked_at = upsampled(values / max(float(values.max()), 1e-12), shape)
        known = deposits is not None and modality == "TEM"
        tiles.append(
            MapTile(
                modality=modality,
                image=image,
                values=upsampled(_positive(maps, row) / top if top > 0 else _positive(maps, row), shape),
                attention=looked_at,
                mask=(deposits or {}).get(crop, np.zeros(shape, dtype=bool)) if known else None,
                note="" if pd.isna(row["weight"]) else f"weight {row['weight']:.2f}",
                name=short(crop, 16),
            )
        )
    return tiles


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records: Any = frame.to_dict("records")
    return list(records)


def _positive(maps: np.ndarray, row: Mapping[str, Any]) -> Any:
    values = maps[row["row"], : row["height"], : row["width"]].astype(np.float64)
    return np.maximum(values, 0.0)
