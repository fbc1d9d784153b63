"""How far explanations can be trusted: whether maps point at what is known, and whether the model heeds them.

Values are means over patients of each patient's mean over crops, folds and seeds; intervals resample
patients. What a value is held against, chance or a random order, is taken on the same patients.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.instances import expected_top
from glomflow.evaluation.intervals import collapsed, percentile_interval, resample_weights, wilson
from glomflow.evaluation.map_measures import (
    Mask,
    area_under,
    energy_share,
    pointing,
    rank_correlation,
    similarity,
    upsampled,
    widened,
)
from glomflow.evaluation.metrics import Floats
from glomflow.tables import Column, Schema, read_tables, write_tables
from glomflow.tables_explanations import ATTENTION_KIND

_INTERVAL: Schema = {
    "value": Column("float64", "mean over patients"),
    "lower": Column("float64", "lower end of its interval; missing if there is none"),
    "upper": Column("float64", "upper end of its interval"),
}

CHECKS: Schema = {
    "model": Column("string", "name of the model"),
    "check": Column(
        "string",
        "localisation, ranking, faithfulness, randomised (against models whose weights were drawn afresh), "
        "additivity or completeness",
    ),
    "modality": Column("string", "OM, IM or TEM; 'all' together"),
    "kind": Column("string", "kind of the maps, or 'shapley'"),
    "group": Column("string", "patients: 'all', or 'right' for those predicted correctly"),
    "measure": Column(
        "string",
        "pointing: the map's highest place lies in the target; energy: share of the map in the target; "
        "top_by_map, top_by_weight: the first instance shows a deposit; deletion, insertion: area under the "
        "curve; rank_correlation, similarity: with the randomised model's maps; error: largest deviation",
    ),
    **_INTERVAL,
    "reference": Column("float64", "the same by chance or in random order; missing where there is none"),
    "difference": Column("float64", "value less reference"),
    "difference_lower": Column("float64", "lower end of its interval"),
    "difference_upper": Column("float64", "upper end of its interval"),
    "patients": Column("int64", "patients that the value rests on"),
    "items": Column("int64", "maps or curves that it rests on"),
}

BY_CLASS: Schema = {
    "model": Column("string", "name of the model"),
    "predicted": Column("string", "class that was predicted and is explained; 'all' for all together"),
    "modality": Column("string", "OM, IM or TEM"),
    **_INTERVAL,
    "patients": Column("int64", "patients who have the modality"),
}
"""Mean contribution of each modality, points of probability."""

MEAN_CURVES: Schema = {
    "model": Column("string", "name of the model"),
    "order": Column("string", "map or random"),
    "direction": Column("string", "deletion or insertion"),
    "share": Column("float64", "share of the tokens removed or put in, 0 to 1"),
    **_INTERVAL,
}
"""Mean probability of the class that is explained along deletion and insertion."""

PROPORTIONS = ("pointing", "top_by_map", "top_by_weight")
"""Measures that are shares of hits: Wilson's interval takes over where the bootstrap sees no spread."""


@dataclass(frozen=True)
class Target:
    """Where the maps of a modality should point, crop by crop.

    Attributes:
        modality: OM or TEM.
        size: Edge of the stored crops, px.
        masks: Crops with their target, (size, size) bool.
    """

    modality: str
    size: int
    masks: Iterable[tuple[str, Mask]]


@dataclass(frozen=True)
class Checks:
    """What the checks found.

    Attributes:
        summary: CHECKS rows.
        by_class: BY_CLASS rows.
        curves: MEAN_CURVES rows.
    """

    summary: pd.DataFrame
    by_class: pd.DataFrame
    curves: pd.DataFrame

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``checks.parquet``, ``by_class.parquet`` and ``curves.parquet`` into a folder."""
        frames = (self.summary, self.by_class, self.curves)
        write_tables(folder, dict(zip(TABLES, frames, strict=True)), TABLES)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Checks:
        """Reads what :meth:`write` wrote.

        Raises:
            GlomflowError: A file is missing or does not hold what it should.
        """
        return cls(*read_tables(folder, TABLES).values())


TABLES: Mapping[str, Schema] = {"checks": CHECKS, "by_class": BY_CLASS, "curves": MEAN_CURVES}


class _Bootstrap:
    """Means over patients with intervals; measures on equally many patients share their resamples."""

    def __init__(self, settings: Evaluation, seed: int) -> None:
        self._settings = settings
        self._seed = seed

    def intervals(self, values: Floats) -> tuple[Floats, Floats]:
        """Returns the ends of the intervals of the means of (n, m) values, NaN where resamples are equal."""
        rng = np.random.default_rng(self._seed)
        blocks = resample_weights(np.zeros(len(values)), self._settings.bootstrap, rng)
        draws = np.concatenate([weights @ values / len(values) for weights in blocks])
        ends = np.array([percentile_interval(column, self._settings.confidence) for column in draws.T])
        ends[[collapsed(column) for column in draws.T]] = np.nan
        return ends[:, 0], ends[:, 1]

    def measured(self, values: Floats, reference: Floats | None, measure: str) -> dict[str, float]:
        """Returns the mean of (n,) values with its interval, and the same of what it is held against."""
        columns = [values] if reference is None else [values, values - reference]
        low, high = self.intervals(np.stack(columns, axis=1))
        value = float(values.mean())
        row = {"value": value, "lower": float(low[0]), "upper": float(high[0])}
        if np.isnan(low[0]) and measure in PROPORTIONS:
            ends = wilson(value * len(values), len(values), self._settings.confidence)
            row["lower"], row["upper"] = float(ends[0]), float(ends[1])
        if reference is None:
            blank = ("reference", "difference", "difference_lower", "difference_upper")
            return {**row, **dict.fromkeys(blank, float("nan"))}
        return {
            **row,
            "reference": float(reference.mean()),
            "difference": value - float(reference.mean()),
            "difference_lower": float(low[1]),
            "difference_upper": float(high[1]),
        }


def check_explanations(
    maps: np.ndarray,
    index: pd.DataFrame,
    contributions: pd.DataFrame,
    curves: pd.DataFrame,
    truth: Mapping[tuple[str, str], str],
    targets: Iterable[Target],
    deposits: Mapping[str, bool] | None,
    settings: Evaluation,
    *,
    seed: int,
) -> Checks:
    """Checks the explanations of some models.

    Args:
        maps: (M, H, W) float32.
        index: MAPS rows; ``row`` counts the maps.
        contributions: CONTRIBUTIONS rows.
        curves: CURVES rows.
        truth: True class of each model and patient.
        targets: Where maps should point, where that is known; empty for a cohort without truth.
        deposits: Whether each TEM crop shows a deposit; None for a cohort without truth.
        settings: Resamples and level of the intervals.
        seed: Seed of the resamples.

    Returns:
        The checks.

    Raises:
        GlomflowError: There is nothing to check.
    """
    if contributions.empty:
        raise GlomflowError(
            "explanations: no prediction was explained; look at diagnosis.explanations.models"
        )
    predicted = contributions[["patient", "model", "fold", "seed", "predicted"]].drop_duplicates()
    true = [truth[pair] for pair in zip(predicted["model"], predicted["patient"], strict=True)]
    right = predicted.assign(right=predicted["predicted"] == true)
    index = index.merge(right.drop(columns="predicted"), on=["patient", "model", "fold", "seed"])
    measure = _Bootstrap(settings, seed)
    trained = index[index["draw"] == 0]
    parts = [_localised(maps, trained, target) for target in targets]
    if deposits is not None:
        parts.append(_ranked(trained, deposits))
    parts += [_faithful(curves, right, trained), _randomised(maps, index)]
    items = pd.concat([part for part in parts if len(part)], ignore_index=True)
    summary = [*_summarised(items, measure), *_errors(contributions)]
    order = {name: place for place, name in enumerate(index["model"].drop_duplicates())}
    table = pd.DataFrame(summary, columns=list(CHECKS))
    table = table.sort_values("model", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return Checks(table, _by_class(contributions, measure), _mean_curves(curves, measure))


_ITEM = ("model", "patient", "right", "check", "modality", "kind", "measure", "value", "reference")


def _items(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_ITEM))


def _common(row: Mapping[str, Any], check: str) -> dict[str, Any]:
    own = {name: row[name] for name in ("model", "patient", "right", "modality", "kind")}
    return {**own, "check": check}


def _map(maps: np.ndarray, row: Mapping[str, Any]) -> Floats:
    values: Floats = maps[row["row"], : row["height"], : row["width"]].astype(np.float64)
    return values


def _localised(maps: np.ndarray, index: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Holds maps against masks; instances that the pooling left out have no say and are left out."""
    own = index[(index["modality"] == target.modality) & ~(index["weight"] == 0.0)]
    by_crop = {str(crop): rows for crop, rows in own.groupby("crop", sort=False)}
    found = []
    for crop, mask in target.masks:
        if crop not in by_crop or not mask.any():
            continue
        widths: dict[float, Mask] = {}
        records: Any = by_crop[crop].to_dict("records")
        for row in records:
            values = upsampled(_map(maps, row), mask.shape)
            tolerance = target.size / (2 * row["height"])
            wide = widths.setdefault(tolerance, widened(mask, tolerance))
            common = _common(row, "localisation")
            for measure, value, area in (
                ("pointing", pointing(values, wide), wide),
                ("energy", energy_share(values, mask), mask),
            ):
                found.append({**common, "measure": measure, "value": value, "reference": float(area.mean())})
    return _items(found)


def _ranked(index: pd.DataFrame, deposits: Mapping[str, bool]) -> pd.DataFrame:
    """Asks whether the first instance of a bag shows a deposit, by map and by weight."""
    own = index[(index["modality"] == "TEM") & index["crop"].notna()]
    found = []
    for _, bag in own.groupby(["model", "patient", "fold", "seed"], sort=False):
        shown = bag["crop"].map(dict(deposits)).to_numpy(dtype=bool)
        if not shown.any():
            continue
        row: Any = bag.iloc[0].to_dict()
        for measure, column in (("top_by_map", "value"), ("top_by_weight", "weight")):
            scores = bag[column].to_numpy(dtype=np.float64)
            if np.isnan(scores).any():
                continue
            hit = expected_top(scores, shown, 1)
            common = {**_common(row, "ranking"), "measure": measure}
            found.append({**common, "value": hit, "reference": float(shown.mean())})
    return _items(found)


def _faithful(curves: pd.DataFrame, right: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Areas under deletion and insertion, by the map and in random order."""
    kinds = index[index["kind"] != ATTENTION_KIND].drop_duplicates("model").set_index("model")["kind"]
    keys = ["model", "patient", "fold", "seed"]
    judged = right.set_index(keys)["right"].to_dict()
    areas: dict[tuple[Any, ...], float] = {}
    for key, curve in curves.groupby([*keys, "direction", "order"], sort=False):
        ordered = curve.sort_values("share")
        areas[key] = area_under(ordered["share"].to_numpy(), ordered["probability"].to_numpy())
    rows = [
        {
            "model": key[0],
            "patient": key[1],
            "right": judged[key[:4]],
            "check": "faithfulness",
            "modality": "all",
            "kind": kinds[key[0]],
            "measure": key[4],
            "value": area,
            "reference": areas[*key[:5], "random"],
        }
        for key, area in areas.items()
        if key[5] == "map"
    ]
    return _items(rows)


def _randomised(maps: np.ndarray, index: pd.DataFrame) -> pd.DataFrame:
    """Compares the maps of each patient and modality with those of randomised models (Adebayo 2018)."""
    found = []
    keys = ["model", "patient", "fold", "seed", "modality", "kind"]
    for _, rows in index.groupby(keys, sort=False):
        draws = {draw: part.sort_values("row") for draw, part in rows.groupby("draw")}
        own: Any = draws[0].to_dict("records")
        trained = [_map(maps, row) for row in own]
        for draw, part in draws.items():
            if draw == 0:
                continue
            others: Any = part.to_dict("records")
            fresh = [_map(maps, row) for row in others]
            pairs = list(zip(trained, fresh, strict=True))
            alike = [similarity(a, b) for a, b in pairs]
            alike = [value for value in alike if not np.isnan(value)]
            flat = [np.concatenate([values.ravel() for values in side]) for side in (trained, fresh)]
            common = _common(own[0], "randomised")
            for measure, value in (
                ("rank_correlation", rank_correlation(*flat)),
                ("similarity", float(np.mean(alike)) if alike else np.nan),
            ):
                found.append({**common, "measure": measure, "value": value, "reference": np.nan})
    return _items(found).dropna(subset=["value"])


def _summarised(items: pd.DataFrame, bootstrap: _Bootstrap) -> list[dict[str, Any]]:
    """Averages items within patients, then patients, of all and of those predicted correctly."""
    keys = ["model", "check", "modality", "kind", "measure"]
    rows = []
    for key, part in items.groupby(keys, sort=False):
        for group, chosen in (("all", part), ("right", part[part["right"].astype(bool)])):
            if chosen.empty:
                continue
            means = chosen.groupby("patient", sort=True)[["value", "reference"]].mean()
            reference = None if means["reference"].isna().all() else means["reference"].to_numpy()
            found = bootstrap.measured(means["value"].to_numpy(), reference, str(key[4]))
            size = {"patients": len(means), "items": len(chosen)}
            rows.append({**dict(zip(keys, key, strict=True)), "group": group, **found, **size})
    return rows


def _errors(contributions: pd.DataFrame) -> list[dict[str, Any]]:
    """How far contributions and integrated gradients miss what they must sum to, at most."""
    rows = []
    keys = ["model", "patient", "fold", "seed"]
    for model, part in contributions.groupby("model", sort=False):
        each = part.groupby(keys, sort=False)
        first = each[["p_all", "p_empty", "completeness"]].first()
        missed = (each["contribution"].sum() - (first["p_all"] - first["p_empty"])).abs()
        errors = {
            ("additivity", "shapley"): missed,
            ("completeness", "integrated_gradients"): first["completeness"].abs().dropna(),
        }
        for (check, kind), values in errors.items():
            if len(values):
                names = {"model": model, "check": check, "kind": kind, "modality": "all", "group": "all"}
                size = {"patients": part["patient"].nunique(), "items": len(values)}
                rows.append({**names, "measure": "error", "value": float(values.max()), **size})
    return rows


def _by_class(contributions: pd.DataFrame, bootstrap: _Bootstrap) -> pd.DataFrame:
    rows = []
    for model, own in contributions.groupby("model", sort=False):
        groups = [("all", own), *own.groupby("predicted", sort=False)]
        for predicted, part in groups:
            for modality, shares in part.groupby("modality", sort=False):
                values = shares.groupby("patient")["contribution"].mean().to_numpy()
                found = bootstrap.measured(values, None, "contribution")
                row = {"model": model, "predicted": predicted, "modality": modality, "patients": len(values)}
                rows.append({**row, **{name: found[name] for name in _INTERVAL}})
    return pd.DataFrame(rows, columns=list(BY_CLASS))


def _mean_curves(curves: pd.DataFrame, bootstrap: _Bootstrap) -> pd.DataFrame:
    parts = []
    keys = ["model", "order", "direction"]
    for key, part in curves.groupby(keys, sort=False):
        values = part.pivot_table(index="patient", columns="share", values="probability")
        low, high = bootstrap.intervals(values.to_numpy())
        columns = {"share": values.columns, "value": values.mean().to_numpy(), "lower": low, "upper": high}
        parts.append(pd.DataFrame({**dict(zip(keys, key, strict=True)), **columns}))
    return pd.concat(parts, ignore_index=True)[list(MEAN_CURVES)]
