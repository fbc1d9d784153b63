"""Tiles of electron micrographs: burnt-in graphics left out, the most informative first.

Grey values are mapped to 8 bits per image, from the 0.5th to the 99.5th percentile of what is not
overlay: beam current and detector gain differ from image to image and say nothing of the tissue.

Tiles are cut from the largest rectangle of an image that is free of overlay
(:func:`glomflow.imaging.tem_overlay.free_box`), on an even grid that spans it, so that no tile ever
touches a scale bar, a text or an info strip. They are ranked, and tiles of resin, grid bars, holes
and dirt are rejected, by what :mod:`glomflow.imaging.tem_score` measures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.config import TemTiles
from glomflow.errors import ImageError
from glomflow.imaging.pixels import robust_limits, stretch
from glomflow.imaging.tem_area import Area, held
from glomflow.imaging.tem_overlay import Box, covered, free_box, overlay_boxes
from glomflow.imaging.tem_scale_bar import check_scale_bar, find_scale_bar
from glomflow.imaging.tem_score import TileMeasures, score_maps
from glomflow.tables import CROPS

if TYPE_CHECKING:
    from glomflow.imaging.readers import ImageReader

Array = npt.NDArray[Any]
Gray8 = npt.NDArray[np.uint8]

ANALYSIS_PX = 4096
"""Longest edge, px, at which overlay is searched and percentiles are taken."""
LEAST_PX = 8
"""Narrowest usable area, px at the tiles' resolution; less than this gives no tile."""
REJECTIONS = ("grid_bar", "saturated", "dirt", "empty")
"""Why a tile is rejected, the first that applies; also what a rejected tile is flagged with."""
MISMATCH = "scale_bar_mismatch"
"""Flag of the tiles of an image whose scale bar does not fit its pixel size."""
_LIMIT_SAMPLES = 100_000


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
    rejected: str
    flag: str


@dataclass(frozen=True)
class _Plate:
    """An opened image, ready for cutting.

    Attributes:
        area: What is free of overlay.
        limits: Grey values that are shown black and white.
        um_per_px: Pixel size, NaN if unknown.
        flag: Flags of all its tiles.
    """

    area: Area
    limits: tuple[float, float]
    um_per_px: float
    flag: str


def tile_tem_shard(
    inventory: pd.DataFrame, images: pd.DataFrame, folder: Path, settings: TemTiles
) -> tuple[Gray8, pd.DataFrame]:
    """Cuts the TEM tiles of a shard's patients.

    Of every image the ``max_per_image`` most informative tiles are candidates. A patient's
    ``max_instances`` are filled with the best tile of each image first, then with the second best of
    each, the more informative first, so that no image takes the place of another: deposits show in few
    of them. A rejected tile is kept, and flagged, only where a patient has no other. An image that
    cannot be read any more is left out with a printed warning, and so are counts of rejected tiles.

    Args:
        inventory: Rows of :data:`glomflow.tables.INVENTORY`; those that are not TEM or not ``ok``
            are passed over.
        images: Rows of :data:`glomflow.tables.IMAGES` of the same images.
        folder: Folder that the images' paths are relative to.
        settings: Size, resolution, number and rejection of the tiles.

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
        if settings.instance == "tile" and not all(tile.rejected for _, tile, _ in found):
            found = [one for one in found if not one[1].rejected]
        found.sort(key=lambda one: (one[0], -one[1].information, one[2]["crop"]))
        kept = found[: settings.max_instances]
        kept.sort(key=lambda one: (-one[1].information, one[2]["crop"]))
        for _, tile, entry in kept:
            rows.append({**entry, "row": len(rows)})
            tiles.append(tile.pixels)
    size = settings.size
    stack = np.stack(tiles)[..., None] if tiles else np.zeros((0, size, size, 1), np.uint8)
    return stack, pd.DataFrame(rows, columns=list(CROPS))


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


def rejection(measures: TileMeasures, settings: TemTiles) -> str:
    """Returns why a tile is rejected, one of ``REJECTIONS``; empty if it is not."""
    for reason in REJECTIONS:
        if getattr(measures, reason) > getattr(settings, f"max_{reason}"):
            return reason
    return ""


def _best_tiles(row: pd.Series[Any], folder: Path, settings: TemTiles) -> list[_Tile]:
    """Returns the most informative tiles of one image; none, with a warning, if it fails."""
    from glomflow.imaging.readers import open_image

    try:
        with open_image(folder / row["path"]) as reader:
            plate = _open_plate(held(reader), row, settings)
            if settings.instance == "image" or not math.isfinite(plate.um_per_px):
                tiles = _whole_image(plate, settings)
            else:
                tiles = _grid(plate, settings, str(row["path"]))
    except ImageError as error:
        print(f"warning: TEM image {row['path']} is left out: {error.reason}", flush=True)
        return []
    if not tiles:
        print(
            f"warning: TEM image {row['path']} is left out: less than {LEAST_PX} px of it at "
            f"{settings.nm_per_px:g} nm/px are free of scale bar and text",
            flush=True,
        )
    return tiles


def _open_plate(reader: ImageReader, row: pd.Series[Any], settings: TemTiles) -> _Plate:
    """Finds the overlay, checks the scale bar, and takes the limits of the grey values."""
    whole = reader.thumbnail(ANALYSIS_PX)[:, :, 0]
    overlay = overlay_boxes(whole)
    stride = math.isqrt(whole.size // _LIMIT_SAMPLES) | 1
    clear = ~covered(overlay, whole.shape)[::stride, ::stride]
    limits = robust_limits(whole[::stride, ::stride][clear])
    scale = reader.width / whole.shape[1], reader.height / whole.shape[0]
    um_per_px = float(row["um_per_px"])
    least, pixel, flag = (0.0, 0.0), math.nan, ""
    if math.isfinite(um_per_px):
        flag = _check_bar(whole, overlay, scale[0], row, settings)
        if settings.instance == "tile":
            pixel = settings.nm_per_px / 1000.0 / um_per_px
            least = settings.size * pixel / scale[0], settings.size * pixel / scale[1]
    free = free_box(overlay, whole.shape, least)
    box = free.left * scale[0], free.top * scale[1], free.width * scale[0], free.height * scale[1]
    return _Plate(Area(reader, *box, pixel), limits, um_per_px, flag)


def _check_bar(
    whole: Array, overlay: Sequence[Box], scale: float, row: pd.Series[Any], settings: TemTiles
) -> str:
    """Compares the scale bar with the pixel size; returns the flag and prints a warning if they differ."""
    bar = find_scale_bar(whole, overlay)
    if bar is None:
        return ""
    source = row.get("pixel_size_from")
    warning = check_scale_bar(
        bar.length * scale,
        float(row["um_per_px"]) * 1000.0,
        settings.scale_bar_nm,
        str(row["path"]),
        f"from {source}" if isinstance(source, str) and source else "as given",
    )
    if warning is None:
        return ""
    print(f"warning: {warning}", flush=True)
    return MISMATCH


def _grid(plate: _Plate, settings: TemTiles, name: str) -> list[_Tile]:
    """Cuts the best tiles of a grid that spans the free area; rejected ones only if all are."""
    area, size = plate.area, settings.size
    if min(area.columns, area.rows) < LEAST_PX:
        return []
    maps = area.measure(settings.nm_per_px)
    across, down = min(size, area.columns), min(size, area.rows)
    found = []
    for y in tile_positions(area.rows, size, settings.overlap):
        for x in tile_positions(area.columns, size, settings.overlap):
            measures = maps.measure(x, y, across, down)
            found.append((rejection(measures, settings), measures.information, y, x))
    counts = Counter(reason for reason, *_ in found if reason)
    why = ", ".join(f"{counts[reason]} {reason}" for reason in REJECTIONS if counts[reason])
    print(f"TEM image {name}: {len(found)} tiles, {counts.total()} rejected{f' ({why})' if why else ''}")
    if counts.total() < len(found):
        found = [one for one in found if not one[0]]
    found.sort(key=lambda one: (-one[1], one[2], one[3]))
    shown = _stretching(area.reader.dtype, plate.limits)
    padded = "padded" if across < size or down < size else ""
    return [
        _Tile(
            pixels=_reflected(shown(area.pixels(x, y, across, down)), size),
            x=area.left + x * area.pixel,
            y=area.top + y * area.pixel,
            width=across * area.pixel,
            height=down * area.pixel,
            um_per_px=settings.nm_per_px / 1000.0,
            information=information,
            rejected=reason,
            flag=_flags(padded, plate.flag, reason),
        )
        for reason, information, y, x in found[: settings.max_per_image]
    ]


def _whole_image(plate: _Plate, settings: TemTiles) -> list[_Tile]:
    """Cuts the centred square of the free area, resized."""
    area, size = plate.area, settings.size
    edge = min(area.width, area.height)
    if edge < LEAST_PX:
        return []
    x, y = area.left + (area.width - edge) / 2, area.top + (area.height - edge) / 2
    resolution = plate.um_per_px * edge / size
    pixels = area.reader.read_region(x, y, edge, edge, size, size)[:, :, 0]
    nm_per_px = resolution * 1000.0 if math.isfinite(resolution) else settings.nm_per_px
    measures = score_maps(pixels, nm_per_px).measure(0, 0, size, size)
    reason = rejection(measures, settings)
    return [
        _Tile(
            pixels=_stretching(pixels.dtype, plate.limits)(pixels),
            x=x,
            y=y,
            width=edge,
            height=edge,
            um_per_px=resolution,
            information=measures.information,
            rejected=reason,
            flag=_flags(plate.flag, reason),
        )
    ]


def _flags(*flags: str) -> str:
    return ";".join(flag for flag in flags if flag)


def _stretching(dtype: np.dtype[Any], limits: tuple[float, float]) -> Callable[[Array], Gray8]:
    """Returns :func:`stretch` with these limits, by a table where the type has few values."""
    if dtype.kind != "u" or dtype.itemsize > 2:
        return lambda pixels: stretch(pixels, *limits)
    table = stretch(np.arange(np.iinfo(dtype).max + 1, dtype=dtype), *limits)
    return lambda pixels: table[pixels]


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


def _reflected(tile: Gray8, size: int) -> Gray8:
    """Pads a tile to ``size`` by reflection, evenly on both sides."""
    missing = [size - edge for edge in tile.shape]
    return np.pad(tile, [(gap // 2, gap - gap // 2) for gap in missing], mode="symmetric")
