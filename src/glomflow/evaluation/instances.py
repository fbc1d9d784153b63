"""Whether the electron micrographs that a model weights most show deposits (needs phantom truth).

The bag of TEM tiles is sparse: most tiles show no electron-dense deposit. These measures ask
whether the weights of the multi-instance pooling find the tiles that do, and whether a filter that
drops outlying instances drops them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.intervals import collapsed, percentile_interval, resample_weights, wilson
from glomflow.evaluation.metrics import Floats
from glomflow.tables import CROPS, INSTANCES, Column, Schema, read_table, write_table

DEPOSIT_AREA = 0.001
"""Least share of a tile's area that deposits must cover for the tile to show one.

At 224 px and 20 nm/px this is 0.02 µm², a deposit 160 nm across.
"""

HITS: Schema = {
    "model": Column("string", "name of the model"),
    "measure": Column(
        "string",
        "top1: highest-weighted tile; top3: share of the three highest-weighted tiles; weight_share: "
        "share of the bag's weight; kept: share of tiles that pass the filter",
    ),
    "value": Column("float64", "share that shows a deposit (kept: of the deposit tiles)"),
    "lower": Column("float64", "lower end of the interval"),
    "upper": Column("float64", "upper end of the interval"),
    "chance": Column("float64", "share of the bag's tiles that show one (kept: of the other tiles)"),
    "excess": Column("float64", "value less chance"),
    "excess_lower": Column("float64", "lower end of its interval"),
    "excess_upper": Column("float64", "upper end of its interval"),
    "patients": Column("int64", "patients whose bag holds a deposit tile"),
    "tiles": Column("int64", "tiles in their bags, over all seeds and repeats"),
}

TILES: Schema = {
    **INSTANCES,
    "image": Column("string", "image identifier"),
    "path": Column("string", "file, relative to the cohort folder"),
    **{name: CROPS[name] for name in ("x", "y", "width", "height")},
    "deposit": Column("bool", "whether deposits cover enough of the tile"),
    "deposit_share": Column("float64", "share of the tile that deposits cover, 0 to 1"),
    "mask": Column("string", "deposit mask, relative to the cohort folder; missing if no deposit"),
}


@dataclass(frozen=True)
class DepositHits:
    """Deposits among weighted tiles.

    Attributes:
        summary: One row per model and measure (``HITS``).
        tiles: The instances with their truth (``TILES``).
    """

    summary: pd.DataFrame
    tiles: pd.DataFrame

    def write(self, summary: str | os.PathLike[str], tiles: str | os.PathLike[str]) -> None:
        """Writes both tables as Parquet files."""
        write_table(summary, self.summary, HITS)
        write_table(tiles, self.tiles, TILES)

    @classmethod
    def read(cls, summary: str | os.PathLike[str], tiles: str | os.PathLike[str]) -> DepositHits:
        """Reads what :meth:`write` wrote."""
        return cls(read_table(summary, HITS), read_table(tiles, TILES))


def deposit_hits(
    instances: pd.DataFrame,
    crops: pd.DataFrame,
    inventory: pd.DataFrame,
    truth: dict[str, Any],
    folder: Path,
    settings: Evaluation,
    *,
    seed: int,
) -> DepositHits:
    """Compares the weights of TEM instances with the deposits that the phantom drew.

    Patients without a deposit tile in their bag cannot be hit and are left out; how many remain is
    in the table. Tiles of equal weight (all of them, where the bag is summed) are taken in random
    order: the value is what is expected of that, not what one order happens to give. Values are
    means over patients, of the mean over seeds and repeats, but ``kept``, which pools tiles; intervals
    resample patients.

    Args:
        instances: INSTANCES of all models; those of TEM count.
        crops: CROPS of the TEM tiles.
        inventory: INVENTORY rows (columns image, path, width, height are used).
        truth: Contents of ``phantom.json``.
        folder: The cohort folder that ``truth`` names masks in.
        settings: Resamples and level of the intervals.
        seed: Seed of the resamples.

    Returns:
        The measures and the tiles.

    Raises:
        GlomflowError: An instance has no crop, an image no truth, or a mask is missing or of the
            wrong size.
    """
    tiles = locate_deposits(instances, crops, inventory, truth, folder)
    rows: list[dict[str, Any]] = []
    for model, own in tiles.groupby("model", sort=False):
        rows += _measure(str(model), own, settings, seed)
    return DepositHits(pd.DataFrame(rows, columns=list(HITS)), tiles[list(TILES)])


def locate_deposits(
    instances: pd.DataFrame,
    crops: pd.DataFrame,
    inventory: pd.DataFrame,
    truth: dict[str, Any],
    folder: Path,
) -> pd.DataFrame:
    """Adds to each instance where its tile lies and how much of it deposits cover (``TILES``).

    Arguments and errors as of :func:`deposit_hits`.
    """
    instances = instances[instances["modality"] == "TEM"]
    places = crops[["crop", "image", "x", "y", "width", "height"]].drop_duplicates("crop")
    _check_known(instances["crop"], places["crop"], "instances: tile", "the TEM crop index")
    used = places[places["crop"].isin(instances["crop"])]
    files = inventory[["image", "path", "width", "height"]].rename(
        columns={"width": "image_width", "height": "image_height"}
    )
    _check_known(used["image"], files["image"], "TEM crop index: image", "the inventory")
    used = used.merge(files, on="image", validate="many_to_one")
    _check_known(used["path"], pd.Series(list(truth["tem_images"])), "inventory: TEM image", "phantom.json")
    parts = [_covered(rows, truth["tem_images"][path], folder) for path, rows in used.groupby("path")]
    if not parts:
        raise GlomflowError("instances: there is no TEM instance to compare with the truth")
    located = pd.concat(parts).drop(columns=["image_width", "image_height"])
    return instances.merge(located, on="crop", validate="many_to_one")


def _check_known(names: pd.Series[Any], known: pd.Series[Any], what: str, where: str) -> None:
    unknown = names[~names.isin(known)]
    if len(unknown):
        raise GlomflowError(
            f"{what} {unknown.iloc[0]!r} is not in {where} ({unknown.nunique()} such); "
            "they come from different runs, make them again"
        )


def _covered(rows: pd.DataFrame, truth: dict[str, Any], folder: Path) -> pd.DataFrame:
    """Measures the deposits in the tiles of one image."""
    result = rows.copy()
    if not truth["deposits"]:
        return result.assign(deposit=False, deposit_share=0.0, mask=None)
    mask = _read_mask(rows.iloc[0], truth.get("mask"), folder)
    shares = []
    for x, y, width, height in rows[["x", "y", "width", "height"]].to_numpy(dtype=np.float64):
        top, left = max(0, round(y)), max(0, round(x))
        inside = mask[top : max(0, round(y + height)), left : max(0, round(x + width))]
        shares.append(float(inside.sum()) / (width * height))
    result["deposit_share"] = shares
    result["deposit"] = result["deposit_share"] >= DEPOSIT_AREA
    return result.assign(mask=truth["mask"])


def _read_mask(row: pd.Series[Any], name: str | None, folder: Path) -> NDArray[np.bool_]:
    from PIL import Image

    if not name or not (folder / name).is_file():
        raise GlomflowError(
            f"{row['path']}: phantom.json says that it shows deposits, but the mask {name} is not in "
            f"{folder}; draw the phantom again"
        )
    with Image.open(folder / name) as image:
        mask = np.asarray(image.convert("L")) > 127
    expected = (int(row["image_height"]), int(row["image_width"]))
    if mask.shape != expected:
        raise GlomflowError(
            f"{name}: {mask.shape[1]}x{mask.shape[0]} px, but {row['path']} has "
            f"{expected[1]}x{expected[0]} px; draw the phantom again"
        )
    return mask


def expected_top(weights: Floats, deposit: NDArray[np.bool_], count: int) -> float:
    """Returns the expected share of deposits among the highest weights, ties in random order.

    Args:
        weights: (n,) weights of a bag, n at least 1.
        deposit: (n,) whether each instance shows a deposit.
        count: How many of the highest are looked at; all of them in a smaller bag.

    Returns:
        Expected share, 0 to 1.
    """
    places = min(count, len(weights))
    left, hits = places, 0.0
    for weight in np.unique(weights)[::-1]:
        tied = weights == weight
        taken = min(left, int(tied.sum()))
        hits += taken * float(deposit[tied].mean())
        left -= taken
        if not left:
            break
    return hits / places


def _bags(tiles: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for (patient, _, seed), bag in tiles.groupby(["patient", "fold", "seed"], sort=False):
        deposit, weights = bag["deposit"].to_numpy(dtype=bool), bag["weight"].to_numpy(dtype=np.float64)
        if not deposit.any():
            continue
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise GlomflowError(
                f"model '{bag['model'].iloc[0]}', seed {seed}, patient {patient}: an instance weight is "
                "negative or not finite; train the model again"
            )
        kept = bag["kept"].to_numpy(dtype=bool)
        total = float(weights.sum())
        yield {
            "patient": patient,
            "top1": expected_top(weights, deposit, 1),
            "top3": expected_top(weights, deposit, 3),
            "weight_share": float(weights[deposit].sum()) / total if total else float("nan"),
            "base": float(deposit.mean()),
            "deposit_kept": float((deposit & kept).sum()),
            "deposit_tiles": float(deposit.sum()),
            "other_kept": float((~deposit & kept).sum()),
            "other_tiles": float((~deposit).sum()),
            "tiles": len(bag),
        }


def _ratio(weights: Floats, above: Floats, below: Floats) -> Floats:
    numerator, denominator = weights @ above, weights @ below
    blank = np.full(denominator.shape, np.nan)
    ratio: Floats = np.divide(numerator, denominator, out=blank, where=denominator > 0)
    return ratio


def _measure(model: str, tiles: pd.DataFrame, settings: Evaluation, seed: int) -> list[dict[str, Any]]:
    bags = pd.DataFrame(_bags(tiles))
    if bags.empty:
        return []
    size = int(bags["tiles"].sum())
    means = bags.drop(columns="tiles").groupby("patient", sort=False).mean()
    defined = means["weight_share"].notna().to_numpy(dtype=np.float64)
    columns = {name: means[name].fillna(0.0).to_numpy() for name in means.columns}
    one = np.ones(len(means))
    measures = {
        "top1": ((columns["top1"], one), (columns["base"], one)),
        "top3": ((columns["top3"], one), (columns["base"], one)),
        "weight_share": ((columns["weight_share"], defined), (columns["base"] * defined, defined)),
        "kept": (
            (columns["deposit_kept"], columns["deposit_tiles"]),
            (columns["other_kept"], columns["other_tiles"]),
        ),
    }
    rng = np.random.default_rng(seed)
    blocks = list(resample_weights(np.zeros(len(means)), settings.bootstrap, rng))
    rows = []
    for name, (own, chance) in measures.items():
        draws = np.concatenate([np.stack([_ratio(w, *own), _ratio(w, *chance)]) for w in blocks], axis=1)
        estimates = [float(_ratio(one[None], *pair)[0]) for pair in (own, chance)]
        found = _with_intervals(estimates, draws, len(means), settings.confidence)
        rows.append({"model": model, "measure": name, **found, "patients": len(means), "tiles": size})
    return rows


def _with_intervals(
    estimates: list[float], draws: Floats, patients: int, confidence: float
) -> dict[str, float]:
    """Puts intervals to a share and to its excess over chance; a collapsed share gets Wilson's."""
    value, chance = estimates
    lower, upper = percentile_interval(draws[0], confidence)
    excess = percentile_interval(draws[0] - draws[1], confidence)
    if collapsed(draws[0]):
        low, high = wilson(value * patients, patients, confidence)
        lower, upper = float(low), float(high)
        if collapsed(draws[1]) and value != chance:
            excess = (lower - chance, upper - chance)
    return {
        "value": value,
        "lower": lower,
        "upper": upper,
        "chance": chance,
        "excess": value - chance,
        "excess_lower": excess[0],
        "excess_upper": excess[1],
    }
