"""Applying a finder to an image of any size.

The image is searched in overlapping tiles. Their predictions are blended into one map before
glomeruli are told apart, so that one that lies across tiles is found once. Only the tiles of one row are
held in full precision; the map of a whole slide is kept in 8 bits at the finder's resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.config_finder import Finder
from glomflow.imaging.readers.base import ImageReader
from glomflow.training.finder_image import ScaledImage
from glomflow.training.finder_instances import instances
from glomflow.training.finder_types import Bytes, Found, GlomerulusModel

_ALIGN = 32
_AT_ONCE = 4
_THUMBNAIL = (64, 2048)
_PX_PER_SAMPLE = 8
_SOME_TISSUE = 0.002
_LEAST_WEIGHT = 1e-3


def find(
    image: ImageReader | Bytes, um_per_px: float, model: GlomerulusModel, settings: Finder
) -> list[Found]:
    """Finds the glomeruli of an image.

    Args:
        image: An open reader, or (H, W, 3) uint8 pixels.
        um_per_px: Its pixel size at full resolution, µm/px.
        model: The finder, of :func:`glomflow.training.finder_models.load_finder`.
        settings: The section ``imaging.finder``.

    Returns:
        The glomeruli, from top to bottom; none where there is no tissue.

    Raises:
        ImageError: The image cannot be decoded.
        GlomflowError: The pixel size cannot be used, or the model fails.
    """
    view = ScaledImage(image, um_per_px, settings.um_per_px)
    maps = predict_maps(view, model, settings)
    return instances(maps, settings, view.step, (view.reader.width, view.reader.height))


def predict_maps(view: ScaledImage, model: GlomerulusModel, settings: Finder) -> Bytes:
    """Predicts the maps of a whole image.

    Args:
        view: The image at the finder's resolution.
        model: The finder.
        settings: Tiles, their overlap, and whether glass is passed over.

    Returns:
        (C, H, W) uint8, 0 to 255: glomerulus and, if the model gives it, distance.

    Raises:
        ImageError: The image cannot be decoded.
        GlomflowError: The model fails.
    """
    edges = [
        min(settings.tile, math.ceil(length / _ALIGN) * _ALIGN) if model.any_size else settings.tile
        for length in (view.height, view.width)
    ]
    rows, columns = (
        tile_starts(length, edge, settings.overlap)
        for length, edge in zip((view.height, view.width), edges, strict=True)
    )
    tissue = _tissue(view) if settings.skip_glass else None
    weight = np.outer(blending_weights(edges[0]), blending_weights(edges[1]))
    maps: Bytes | None = None
    band: npt.NDArray[np.float32] = np.zeros((0, 0, 0), np.float32)
    for number, top in enumerate(rows):
        chosen = [left for left in columns if _shows_tissue(tissue, view, left, top, edges)]
        for left, tile in _predicted(view, model, chosen, top, edges):
            if maps is None:
                maps = np.zeros((len(tile), view.height, view.width), np.uint8)
            if not band.size:
                band = np.zeros((len(tile) + 1, edges[0], columns[-1] + edges[1]), np.float32)
            band[:-1, :, left : left + edges[1]] += tile * weight
            band[-1, :, left : left + edges[1]] += weight
        done = (rows[number + 1] if number + 1 < len(rows) else top + edges[0]) - top
        if maps is not None and band.size:
            _settle(maps, band, top, done)
    return np.zeros((1, view.height, view.width), np.uint8) if maps is None else maps


def _predicted(
    view: ScaledImage, model: GlomerulusModel, lefts: Sequence[int], top: int, edges: list[int]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for start in range(0, len(lefts), _AT_ONCE):
        some = lefts[start : start + _AT_ONCE]
        tiles = np.stack([view.read(left, top, edges[1], edges[0]) for left in some])
        yield from zip(some, model.predict(tiles), strict=True)


def _settle(maps: Bytes, band: npt.NDArray[np.float32], top: int, done: int) -> None:
    """Writes the first rows of a band, which no further tile reaches, and moves the others up."""
    height, width = maps.shape[1:]
    count = min(done, height - top)
    total = band[-1, :count, :width]
    blended = band[:-1, :count, :width] / np.maximum(total, _LEAST_WEIGHT**2)
    maps[:, top : top + count] = np.rint(255.0 * blended)
    band[:, : band.shape[1] - done] = band[:, done:].copy()
    band[:, band.shape[1] - done :] = 0.0


def tile_starts(length: int, edge: int, overlap: float) -> list[int]:
    """Places tiles along an axis, evenly, with at least the overlap wanted.

    Args:
        length: Length of the axis, px.
        edge: Length of a tile.
        overlap: Least overlap, as a share of a tile.

    Returns:
        Where tiles begin; a single 0 if one holds the axis.
    """
    if length <= edge:
        return [0]
    stride = max(1, int(edge * (1.0 - overlap)))
    count = math.ceil((length - edge) / stride) + 1
    return [round(number * (length - edge) / (count - 1)) for number in range(count)]


def blending_weights(edge: int) -> npt.NDArray[np.float32]:
    """Returns a Hann window, (edge,), that nowhere falls to zero: the border of an image counts too."""
    places = (np.arange(edge) + 0.5) / edge
    weights: npt.NDArray[np.float32] = np.maximum(np.sin(np.pi * places) ** 2, _LEAST_WEIGHT).astype(
        np.float32
    )
    return weights


def _tissue(view: ScaledImage) -> npt.NDArray[np.bool_]:
    least, most = _THUMBNAIL
    longest = max(view.width, view.height) // _PX_PER_SAMPLE
    return view.tissue(min(max(longest, least), most))


def _shows_tissue(
    tissue: npt.NDArray[np.bool_] | None, view: ScaledImage, left: int, top: int, edges: list[int]
) -> bool:
    if tissue is None:
        return True
    height, width = tissue.shape
    first_row, last_row = (int(place * height / view.height) for place in (top, top + edges[0]))
    first_column, last_column = (int(place * width / view.width) for place in (left, left + edges[1]))
    part = tissue[first_row : last_row + 1, first_column : last_column + 1]
    return bool(part.mean() > _SOME_TISSUE)
