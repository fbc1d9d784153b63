"""What a map should point at, where that is known: deposits in TEM tiles, glomeruli in OM crops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.evaluation.instances import locate_deposits
from glomflow.evaluation.map_measures import Mask
from glomflow.imaging.annotations import polygon_mask, read_outlines


def tile_deposits(row: Mapping[str, Any], mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Cuts a tile's part out of its image's deposit mask, at the tile's resolution.

    Args:
        row: The tile's x, y, width and height, px of the image.
        mask: (H, W) bool of the image.
        shape: Rows and columns of the tile.

    Returns:
        Bool of the tile's shape; False beyond the image.
    """
    rows = np.floor(row["y"] + (np.arange(shape[0]) + 0.5) / shape[0] * row["height"]).astype(int)
    columns = np.floor(row["x"] + (np.arange(shape[1]) + 0.5) / shape[1] * row["width"]).astype(int)
    inside = np.ix_((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    result = np.zeros(shape, dtype=bool)
    nearest = np.ix_(np.clip(rows, 0, mask.shape[0] - 1), np.clip(columns, 0, mask.shape[1] - 1))
    result[inside] = mask[nearest][inside]
    return result


def deposit_tiles(
    tiles: pd.DataFrame, crops: pd.DataFrame, inventory: pd.DataFrame, truth: dict[str, Any], folder: Path
) -> pd.DataFrame:
    """Tells which TEM tiles show a deposit.

    Args:
        tiles: Any rows with the columns ``crop`` and ``modality``; those of TEM count.
        crops: CROPS of the TEM tiles.
        inventory: INVENTORY rows.
        truth: Contents of ``phantom.json``.
        folder: The cohort folder.

    Returns:
        One row per crop: crop, path, x, y, width, height, deposit and mask, see
        :data:`glomflow.evaluation.instances.TILES`.

    Raises:
        GlomflowError: A tile or an image is unknown, or a mask is missing.
    """
    return locate_deposits(tiles[["crop", "modality"]].drop_duplicates(), crops, inventory, truth, folder)


def deposit_masks(located: pd.DataFrame, folder: Path, size: int) -> Iterator[tuple[str, Mask]]:
    """Yields each deposit tile's crop with its mask, (size, size) bool; masks of images are read once.

    Args:
        located: Rows of :func:`deposit_tiles`.
        folder: The cohort folder.
        size: Edge of the stored tiles, px.
    """
    from PIL import Image

    for name, rows in located[located["deposit"]].groupby("mask", sort=True):
        with Image.open(folder / str(name)) as image:
            mask = np.asarray(image.convert("L")) > 127
        records: Any = rows.to_dict("records")
        for row in records:
            yield str(row["crop"]), tile_deposits(row, mask, (size, size))


def glomerulus_masks(
    wanted: set[str],
    crops: pd.DataFrame,
    images: pd.DataFrame,
    inventory: pd.DataFrame,
    folder: Path,
    size: int,
) -> Iterator[tuple[str, Mask]]:
    """Yields OM crops with what of them lies within a glomerulus that somebody outlined.

    Args:
        wanted: Crops to look at; those of images without outlines are left out.
        crops: CROPS of the OM crops.
        images: IMAGES rows; they name the outlines.
        inventory: INVENTORY rows; they hold the size of the images.
        folder: The cohort folder.
        size: Edge of the stored crops, px.

    Raises:
        GlomflowError: An image of a crop is not in the inventory.
        ImageError: Outlines cannot be read.
    """
    outlined = images.dropna(subset=["annotation"])
    outlined = outlined[outlined["annotation"].str.len() > 0].set_index("image")
    sizes = {
        str(image): (int(width), int(height))
        for image, width, height in zip(*(inventory[n] for n in ("image", "width", "height")), strict=True)
    }
    for name, rows in crops[crops["crop"].isin(wanted)].groupby("image", sort=True):
        image = str(name)
        if image not in outlined.index:
            continue
        if image not in sizes:
            raise GlomflowError(f"OM crop index: image {image!r} is not in the inventory; make it again")
        path = str(outlined.loc[image, "path"])
        annotation = folder / str(outlined.loc[image, "annotation"])
        outlines = read_outlines(annotation, image_size=sizes[image], image_name=path)
        records: Any = rows.to_dict("records")
        for row in records:
            corner, scale = np.array([row["x"], row["y"]]), size / row["width"]
            polygons = [(outline.polygon - corner) * scale for outline in outlines]
            yield str(row["crop"]), polygon_mask(polygons, size)
