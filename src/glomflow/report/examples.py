"""Which images a report shows: drawn by a seed, spread over patients and slides, never picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.errors import GlomflowError
from glomflow.evaluation.explanation_truth import tile_deposits
from glomflow.report.figures_images import InstancePanel, Pixels, StainPair, Tile

Mask = NDArray[np.bool_]

Store = tuple[Pixels, pd.DataFrame]
"""A crop store as ``crop_store.read_store`` returns it: the memory map and its index."""


def join_indexes(stores: Sequence[Store]) -> pd.DataFrame:
    """Joins the indexes of a modality's shards.

    Args:
        stores: Memory map and index of each shard.

    Returns:
        CROPS rows with the further column ``store``, the number of the shard.
    """
    frames = [index.assign(store=number) for number, (_, index) in enumerate(stores)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def pixels(stores: Sequence[Store], row: Mapping[str, Any]) -> Pixels:
    """Returns the crop of a row of :func:`join_indexes`, (H, W, C)."""
    crops = stores[int(row["store"])][0]
    return np.asarray(crops[int(row["row"])])


def spread(frame: pd.DataFrame, by: str, number: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draws rows so that each value of a column comes once before any comes again.

    Args:
        frame: Rows to draw from.
        by: Column to spread over.
        number: Rows wanted; fewer if there are fewer.
        rng: Source of the draws.

    Returns:
        The rows drawn, in the order drawn.
    """
    shuffled = frame.iloc[rng.permutation(len(frame))]
    turn = shuffled.groupby(by, sort=False).cumcount()
    return shuffled.iloc[np.argsort(turn.to_numpy(), kind="stable")[:number]]


def class_examples(
    stores: Sequence[Store], patients: pd.DataFrame, classes: Sequence[str], number: int, *, seed: int
) -> dict[str, list[Tile]]:
    """Draws crops that the diagnosis track uses, by diagnosis and spread over patients.

    Args:
        stores: Crop stores of one modality.
        patients: PATIENTS rows.
        classes: Diagnoses, in order.
        number: Crops per diagnosis.
        seed: Seed of the draw.

    Returns:
        Tiles by diagnosis; captions name patient and site.
    """
    index = join_indexes(stores)
    if index.empty:
        return {name: [] for name in classes}
    rows = index[index["selected"]].merge(patients[["patient", "label", "site"]], on="patient")
    rng = np.random.default_rng(seed)
    groups = {}
    for name in classes:
        drawn: list[Any] = spread(rows[rows["label"] == name], "patient", number, rng).to_dict("records")
        groups[name] = [Tile(pixels(stores, row), _two_lines(row["patient"], row["site"])) for row in drawn]
    return groups


def lesion_examples(
    stores: Sequence[Store], classes: Sequence[str], number: int, *, seed: int
) -> dict[str, list[Tile]]:
    """Draws glomeruli by lesion class, spread over slides.

    Args:
        stores: Stores of glomerulus crops.
        classes: Lesion classes, in order.
        number: Crops per class.
        seed: Seed of the draw.

    Returns:
        Tiles by lesion class; captions name the slide.
    """
    index = join_indexes(stores)
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Tile]] = {}
    for name in classes:
        rows = index if index.empty else index[index["lesion"] == name]
        drawn: list[Any] = [] if rows.empty else spread(rows, "slide", number, rng).to_dict("records")
        groups[name.replace("_", " ")] = [Tile(pixels(stores, row), short(row["slide"])) for row in drawn]
    return groups


def _two_lines(first: Any, second: Any) -> str:
    below = "" if pd.isna(second) else f"\n{short(second)}"
    return f"{short(first)}{below}"


def short(name: Any, longest: int = 20) -> str:
    """Returns a name, its middle cut out where it is longer than ``longest``."""
    text = str(name)
    return text if len(text) <= longest else f"{text[: longest - 9]}…{text[-8:]}"


def read_picture(path: Path) -> Pixels:
    """Reads an image file as uint8, (H, W) or (H, W, 3)."""
    from PIL import Image

    if not path.is_file():
        raise GlomflowError(f"report: {path} is missing; run the step that writes it again")
    with Image.open(path) as image:
        return np.asarray(image.convert("L" if image.mode in {"1", "L", "I;16"} else "RGB"))


def stain_examples(
    stores: Sequence[Store],
    inventory: pd.DataFrame,
    sites: Mapping[str, str],
    folder: Path,
    number: int,
    *,
    seed: int,
) -> list[StainPair]:
    """Draws glomeruli before and after stain normalisation, spread over sites.

    Args:
        stores: Stores of glomerulus crops, normalised.
        inventory: INVENTORY rows.
        sites: Site of each patient; crops of other patients are spread over slides.
        folder: The cohort folder.
        number: Pairs wanted.
        seed: Seed of the draw.

    Returns:
        The pairs, by site; the crop before is read from its image again.

    Raises:
        ImageError: An image can no longer be read.
    """
    from glomflow.imaging.pixels import as_rgb_uint8
    from glomflow.imaging.readers import open_image

    index = join_indexes(stores)
    if index.empty:
        return []
    rows = index.assign(place=index["patient"].map(dict(sites)).fillna(index["slide"]))
    rows = rows.merge(inventory[["image", "path"]], on="image")
    drawn = spread(rows, "place", number, np.random.default_rng(seed)).sort_values(["place", "crop"])
    chosen: list[Any] = drawn.to_dict("records")
    pairs = []
    for row in chosen:
        after = pixels(stores, row)
        with open_image(folder / row["path"]) as reader:
            if np.issubdtype(reader.dtype, np.integer):
                reader.fill = float(np.iinfo(reader.dtype).max)
            box = (row["x"], row["y"], row["width"], row["height"])
            before = as_rgb_uint8(reader.read_region(*box, after.shape[1], after.shape[0]))
        pairs.append(StainPair(before, after, short(row["place"], 16)))
    return pairs


def instance_examples(
    stores: Sequence[Store],
    instances: pd.DataFrame,
    patients: pd.DataFrame,
    model: str,
    classes: Sequence[str],
    *,
    per_class: int = 2,
    tiles: int = 6,
    seed: int,
    truth: pd.DataFrame | None = None,
    folder: Path | None = None,
    predictions: pd.DataFrame | None = None,
) -> list[InstancePanel]:
    """Draws patients and takes the tiles that weigh most in a model's decision on them.

    Args:
        stores: Stores of TEM tiles.
        instances: INSTANCES rows; those of TEM, of the first seed and repeat, are shown.
        patients: PATIENTS rows.
        model: The model.
        classes: Diagnoses, in order.
        per_class: Patients per diagnosis.
        tiles: Tiles per patient.
        seed: Seed of the draw.
        truth: TILES rows of the deposit hits, for a phantom; they name masks within ``folder``.
        folder: The cohort folder.
        predictions: PREDICTIONS rows, to say what the model made of the patient.

    Returns:
        A panel per patient, by diagnosis.

    Raises:
        GlomflowError: An instance has no crop, or a mask is missing.
    """
    rows = instances[(instances["model"] == model) & (instances["modality"] == "TEM")]
    rows = rows[rows["seed"] == rows["seed"].min()]
    rows = rows[rows["fold"] == rows.groupby("patient")["fold"].transform("min")]
    index = join_indexes(stores)
    unknown = sorted(set(rows["crop"]) - set(index["crop"] if len(index) else ()))
    if unknown:
        raise GlomflowError(f"instances: tile '{unknown[0]}' is not in the TEM crop store; predict again")
    rows = rows.merge(index.drop(columns=["patient"]), on="crop")
    rng = np.random.default_rng(seed)
    panels = []
    for name in classes:
        here = patients[(patients["label"] == name) & patients["patient"].isin(rows["patient"])]
        for patient in spread(here, "patient", per_class, rng)["patient"]:
            bag = rows[rows["patient"] == patient].sort_values(
                ["kept", "weight", "rank"], ascending=[False, False, True]
            )
            outlook = _outlook(predictions, model, patient)
            panels.append(_panel(f"{patient} · {name}", outlook, bag.head(tiles), stores, truth, folder))
    return panels


def _outlook(predictions: pd.DataFrame | None, model: str, patient: str) -> str:
    if predictions is None:
        return ""
    own = predictions[(predictions["model"] == model) & (predictions["patient"] == patient)]
    keys = ["fold", "seed"]
    return "" if own.empty else f"→ {own.sort_values(keys)['predicted'].iloc[0]}"


def _panel(
    title: str,
    outlook: str,
    bag: pd.DataFrame,
    stores: Sequence[Store],
    truth: pd.DataFrame | None,
    folder: Path | None,
) -> InstancePanel:
    shown: list[Any] = bag.to_dict("records")
    tiles = [pixels(stores, row)[..., 0] for row in shown]
    masks: list[Any] = [None] * len(shown)
    if truth is not None and folder is not None:
        places = truth.drop_duplicates("crop").set_index("crop")
        files = [places.loc[row["crop"], "mask"] for row in shown]
        masks = [
            np.zeros(tile.shape, dtype=bool)
            if pd.isna(file) or not file
            else tile_deposits(row, read_picture(folder / file) > 127, tile.shape)
            for row, file, tile in zip(shown, files, tiles, strict=True)
        ]
    return InstancePanel(
        title=title,
        tiles=tiles,
        weights=[float(row["weight"]) for row in shown],
        kept=[bool(row["kept"]) for row in shown],
        masks=masks,
        outlook=outlook,
    )
