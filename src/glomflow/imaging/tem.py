"""Tiles of electron micrographs: burnt-in graphics left out, the most informative first.

Grey values are mapped to 8 bits per image, from the 0.5th to the 99.5th percentile of what is not
overlay: beam current and detector gain differ from image to image and say nothing of the tissue.

Tiles are cut from the largest rectangle of an image that is free of overlay
(:func:`glomflow.imaging.tem_overlay.free_box`), on an even grid that spans it, so that no tile ever
touches a scale bar, a text or an info strip.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.config import TemTiles
from glomflow.errors import ImageError
from glomflow.imaging.pixels import as_gray, robust_limits, stretch
from glomflow.imaging.tem_overlay import Box, covered, free_box, overlay_boxes
from glomflow.tables import CROPS

if TYPE_CHECKING:
    from glomflow.imaging.readers import ImageReader

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Gray8 = npt.NDArray[np.uint8]

ANALYSIS_PX = 4096
"""Longest edge, px, at which overlay is searched and percentiles are taken."""
LEAST_PX = 8
"""Narrowest usable area, px at the tiles' resolution; less than this gives no tile."""

_SCORE_NM = 40.0
_FINE_NM, _BLOB_NM, _COARSE_NM, _AROUND_NM = 60.0, 120.0, 350.0, 500.0
_FULL_CONTRAST, _TISSUE_CONTRAST = 0.15, 0.02
_FULL_DENSITY, _DENSEST = 0.3, 0.02
_ENOUGH_TISSUE, _DENSITY_WEIGHT = 0.5, 0.75
_SATURATED = (0.02, 0.98)


@dataclass(frozen=True)
class _Tile:
    """One candidate tile: pixels, its box at full resolution, and what is known of it."""

    pixels: Gray8
    x: float
    y: float
    width: float
    height: float
    um_per_px: float
    information: float
    flag: str


def tile_tem_shard(
    inventory: pd.DataFrame, images: pd.DataFrame, folder: Path, settings: TemTiles
) -> tuple[Gray8, pd.DataFrame]:
    """Cuts the TEM tiles of a shard's patients.

    Of every image the ``max_per_image`` most informative tiles are candidates. A patient's
    ``max_instances`` are filled with the best tile of each image first, then with the second best of
    each, the more informative first, so that no image takes the place of another: deposits show in few
    of them. An image that cannot be read any more is left out with a printed warning.

    Args:
        inventory: Rows of :data:`glomflow.tables.INVENTORY`; those that are not TEM or not ``ok``
            are passed over.
        images: Rows of :data:`glomflow.tables.IMAGES` of the same images.
        folder: Folder that the images' paths are relative to.
        settings: Size, resolution and number of the tiles.

    Returns:
        The tiles, uint8 (N, size, size, 1), and their index, rows of :data:`glomflow.tables.CROPS`,
        ordered by patient, then by falling information. All are selected. Boxes lie within the
        image; where one is smaller than a tile the tile is padded by reflection and flagged so.
    """
    usable = inventory[(inventory["modality"] == "TEM") & (inventory["status"] == "ok")]
    lesions = dict(zip(images["image"], images["lesion"], strict=True))
    tiles: list[Gray8] = []
    rows: list[dict[str, Any]] = []
    for _, of_patient in sorted(usable.groupby("patient"), key=lambda pair: str(pair[0])):
        found: list[tuple[int, _Tile, dict[str, Any]]] = []
        for _, row in of_patient.iterrows():
            lesion = lesions.get(row["image"])
            for place, tile in enumerate(_best_tiles(row, folder, settings)):
                found.append((place, tile, _index_row(row, tile, settings, lesion)))
        found.sort(key=lambda one: (one[0], -one[1].information, one[2]["crop"]))
        kept = found[: settings.max_instances]
        kept.sort(key=lambda one: (-one[1].information, one[2]["crop"]))
        for _, tile, entry in kept:
            rows.append({**entry, "row": len(rows)})
            tiles.append(tile.pixels)
    size = settings.size
    stack = np.stack(tiles)[..., None] if tiles else np.zeros((0, size, size, 1), np.uint8)
    return stack, pd.DataFrame(rows, columns=list(CROPS))


def information_score(tile: Gray8, mask: Mask, nm_per_px: float = 20.0) -> float:
    """Scores how much a tile shows of what is looked for in TEM: dense material and membranes.

    The score is ``min(1, share / 0.5) * (0.75 * density + 0.25 * contrast)``:

    - *share* of tissue: pixels that are neither overlay, nor saturated, nor without contrast within
      about 0.5 µm;
    - *density*: how dark and compact the most compact 2 % of the tile are, at the scale of
      electron-dense deposits (200 to 700 nm): the smaller eigenvalue of the Hessian at 120 nm
      (scale-normalised, Lindeberg 1998), which is positive in dark blobs and not along membranes, as
      a share of the local brightness;
    - *contrast*: mean of the band of 60 to 350 nm (difference of Gaussians), where membranes and foot
      processes lie, less what white noise of the tile's own level would give.

    Blank, out-of-section, resin, grid-bar and saturated tiles score near 0. The weights were set on the
    phantom cohort, deposit masks in hand; contrast alone ranks images with deposits below the others
    there (effaced foot processes are smooth). In patients there is no ground truth for them, and dense
    granules, nuclear chromatin and lipid droplets raise the score as deposits do.

    Args:
        tile: (H, W) uint8, stretched to the image's own range.
        mask: (H, W), True on overlay.
        nm_per_px: Pixel size, nm.

    Returns:
        The score, 0 to 1.
    """
    from scipy.ndimage import gaussian_filter

    step = max(1, math.floor(_SCORE_NM / nm_per_px))
    small = _block_mean(tile.astype(np.float32) / 255.0, step)
    pixel = step * nm_per_px
    fine, coarse = (gaussian_filter(small, nm / pixel, truncate=3.0) for nm in (_FINE_NM, _COARSE_NM))
    noise = _noise(tile) * _noise_gain(step, nm_per_px)
    contrast = np.clip(np.abs(fine - coarse) - 2.0 * noise, 0.0, _FULL_CONTRAST) / _FULL_CONTRAST
    around = gaussian_filter(contrast, _AROUND_NM / pixel, truncate=2.0) * _FULL_CONTRAST
    textured = (around > _TISSUE_CONTRAST) & (_block_mean(mask.astype(np.float32), step) == 0)
    tissue = textured & (fine > _SATURATED[0]) & (fine < _SATURATED[1])
    dark_blobs = np.sort((_dark_blobs(small, _BLOB_NM / pixel) * textured).reshape(-1))
    density = float(dark_blobs[-max(1, round(_DENSEST * dark_blobs.size)) :].mean()) / _FULL_DENSITY
    share = min(1.0, float(tissue.mean()) / _ENOUGH_TISSUE)
    both = _DENSITY_WEIGHT * min(1.0, density) + (1.0 - _DENSITY_WEIGHT) * float((contrast * tissue).mean())
    return share * both


def tile_positions(extent: int, size: int, overlap: float) -> list[int]:
    """Places tiles evenly along one axis so that they span it.

    Args:
        extent: Length of the usable area, px.
        size: Edge of a tile, px.
        overlap: Least share of a tile that neighbours have in common.

    Returns:
        First pixels, rising; ``[0]`` if the area is no longer than a tile.
    """
    if extent <= size:
        return [0]
    count = math.ceil((extent - size) / (size * (1.0 - overlap)) - 1e-9) + 1
    return [round(position) for position in np.linspace(0, extent - size, count)]


def _best_tiles(row: pd.Series[Any], folder: Path, settings: TemTiles) -> list[_Tile]:
    """Returns the most informative tiles of one image; none, with a warning, if it fails."""
    from glomflow.imaging.readers import open_image

    try:
        with open_image(folder / row["path"]) as reader:
            tiles = list(_tiles(reader, row, settings))
    except ImageError as error:
        print(f"warning: TEM image {row['path']} is left out: {error.reason}", flush=True)
        return []
    if not tiles:
        print(
            f"warning: TEM image {row['path']} is left out: less than {LEAST_PX} px of it at "
            f"{settings.nm_per_px:g} nm/px are free of scale bar and text",
            flush=True,
        )
    tiles.sort(key=lambda tile: (-tile.information, tile.y, tile.x))
    return tiles[: settings.max_per_image]


def _tiles(
    reader: ImageReader, row: Mapping[Any, Any] | pd.Series[Any], settings: TemTiles
) -> Iterator[_Tile]:
    """Yields all candidate tiles of an image."""
    whole = as_gray(reader.thumbnail(ANALYSIS_PX))
    overlay = overlay_boxes(whole)
    limits = robust_limits(whole[~covered(overlay, whole.shape)])
    scale = reader.width / whole.shape[1], reader.height / whole.shape[0]
    um_per_px = float(row["um_per_px"])
    if settings.instance == "image" or not math.isfinite(um_per_px):
        free = free_box(overlay, whole.shape)
        yield from _whole_image(reader, _full(free, scale), um_per_px, limits, settings)
        return
    edge = settings.size * settings.nm_per_px / 1000.0 / um_per_px
    free = free_box(overlay, whole.shape, (edge / scale[0], edge / scale[1]))
    yield from _grid(reader, _full(free, scale), um_per_px, limits, settings)


def _grid(
    reader: ImageReader,
    area: tuple[float, float, float, float],
    um_per_px: float,
    limits: tuple[float, float],
    settings: TemTiles,
) -> Iterator[_Tile]:
    """Yields the tiles of a grid that spans ``area`` (left, top, width, height, full-resolution px)."""
    left, top, width, height = area
    pixel = settings.nm_per_px / 1000.0 / um_per_px
    size = settings.size
    columns, rows = math.floor(width / pixel + 1e-6), math.floor(height / pixel + 1e-6)
    if min(columns, rows) < LEAST_PX:
        return
    across, down = min(size, columns), min(size, rows)
    padded = across < size or down < size
    none = np.zeros((size, size), np.bool_)
    for row in tile_positions(rows, size, settings.overlap):
        y = top + row * pixel
        band = as_gray(reader.read_region(left, y, columns * pixel, down * pixel, columns, down))
        band = stretch(band, *limits)
        for column in tile_positions(columns, size, settings.overlap):
            tile = np.ascontiguousarray(_reflected(band[:, column : column + across], size))
            yield _Tile(
                pixels=tile,
                x=left + column * pixel,
                y=y,
                width=across * pixel,
                height=down * pixel,
                um_per_px=settings.nm_per_px / 1000.0,
                information=information_score(tile, none, settings.nm_per_px),
                flag="padded" if padded else "",
            )


def _whole_image(
    reader: ImageReader,
    area: tuple[float, float, float, float],
    um_per_px: float,
    limits: tuple[float, float],
    settings: TemTiles,
) -> Iterator[_Tile]:
    """Yields the centred square of ``area``, resized."""
    left, top, width, height = area
    edge = min(width, height)
    if edge < LEAST_PX:
        return
    x, y, size = left + (width - edge) / 2, top + (height - edge) / 2, settings.size
    tile = stretch(as_gray(reader.read_region(x, y, edge, edge, size, size)), *limits)
    resolution = um_per_px * edge / size
    nm_per_px = resolution * 1000.0 if math.isfinite(resolution) else settings.nm_per_px
    score = information_score(tile, np.zeros((size, size), np.bool_), nm_per_px)
    yield _Tile(tile, x, y, edge, edge, resolution, score, "")


def _index_row(row: pd.Series[Any], tile: _Tile, settings: TemTiles, lesion: Any) -> dict[str, Any]:
    name = f"@{tile.x:.0f}_{tile.y:.0f}" if settings.instance == "tile" else "#0"
    return {
        "crop": f"{row['image']}{name}",
        "patient": row["patient"],
        "image": row["image"],
        "slide": row["slide"],
        "modality": "TEM",
        "x": tile.x,
        "y": tile.y,
        "width": tile.width,
        "height": tile.height,
        "um_per_px": tile.um_per_px,
        "lesion": lesion,
        "information": tile.information,
        "selected": True,
        "flag": tile.flag,
    }


def _full(box: Box, scale: tuple[float, float]) -> tuple[float, float, float, float]:
    """Returns (left, top, width, height) at full resolution."""
    return box.left * scale[0], box.top * scale[1], box.width * scale[0], box.height * scale[1]


def _reflected(tile: Gray8, size: int) -> Gray8:
    """Pads a tile to ``size`` by reflection, evenly on both sides."""
    missing = [size - edge for edge in tile.shape]
    return np.pad(tile, [(gap // 2, gap - gap // 2) for gap in missing], mode="symmetric")


def _dark_blobs(image: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """Returns the smaller eigenvalue of the Hessian over the local mean, where positive."""
    from scipy.ndimage import gaussian_filter

    mean, rows, columns, mixed = (
        gaussian_filter(image, sigma, order=order, truncate=3.0) for order in ((0, 0), (2, 0), (0, 2), (1, 1))
    )
    smaller = (rows + columns) / 2.0 - np.hypot((rows - columns) / 2.0, mixed)
    return np.asarray(np.clip(smaller, 0.0, None) * sigma**2 / (mean + 0.1), np.float32)


def _block_mean(image: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    if step == 1:
        return image
    height, width = (edge // step * step for edge in image.shape)
    blocks = image[:height, :width].reshape(height // step, step, width // step, step)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _noise(tile: Gray8) -> float:
    """Standard deviation of white noise, 0 to 1, by Immerkær (1996), with the median against edges."""
    values = tile.astype(np.int16)
    rows = values[:-2:2] - 2 * values[1:-1:2] + values[2::2]
    laplacian = rows[:, :-2:2] - 2 * rows[:, 1:-1:2] + rows[:, 2::2]
    return float(np.median(np.abs(laplacian))) / (0.6745 * 6.0 * 255.0)


@functools.lru_cache(maxsize=64)
def _noise_gain(step: int, nm_per_px: float) -> float:
    """Returns what is left of white noise's standard deviation after block means and the band-pass."""
    from scipy.ndimage import gaussian_filter

    pixel = step * nm_per_px
    reach = math.ceil(3.0 * _COARSE_NM / pixel) + 1
    impulse = np.zeros((2 * reach + 1, 2 * reach + 1), np.float64)
    impulse[reach, reach] = 1.0
    band = gaussian_filter(impulse, _FINE_NM / pixel, truncate=3.0)
    band -= gaussian_filter(impulse, _COARSE_NM / pixel, truncate=3.0)
    return float(np.sqrt(np.square(band).sum())) / step
