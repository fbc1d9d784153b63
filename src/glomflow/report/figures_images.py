"""Figures made of images: contact sheets, stain panels, electron micrographs with their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from glomflow.report import style

Pixels = NDArray[np.uint8]

GAP = 0.06
"""Space between tiles, inches."""

LINE = 0.15
"""Height of a line of caption, inches."""


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet.

    Attributes:
        image: uint8, (H, W), (H, W, 1) or (H, W, 3).
        caption: Text beneath it; lines are separated by a newline.
    """

    image: Pixels
    caption: str = ""


@dataclass(frozen=True)
class StainPair:
    """A crop before and after stain normalisation.

    Attributes:
        before: uint8, (H, W, 3).
        after: uint8, (H, W, 3).
        title: What it is, for example the site.
    """

    before: Pixels
    after: Pixels
    title: str


@dataclass(frozen=True)
class InstancePanel:
    """The electron micrographs of one patient that weigh most.

    Attributes:
        title: Patient and diagnosis.
        tiles: uint8, (H, W) each, by descending weight.
        weights: Weight of each tile in the bag's sum.
        kept: Whether each tile passed the filter.
        masks: Deposits of each tile as bool (H, W); None where the truth is not known.
        outlook: What the model made of the patient, or ''.
    """

    title: str
    tiles: Sequence[Pixels]
    weights: Sequence[float]
    kept: Sequence[bool]
    masks: Sequence[NDArray[np.bool_] | None]
    outlook: str = ""


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Makes a figure whose single axes is measured in inches from the top left corner."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    return figure, axes


def frame(axes: Axes, width: float, height: float) -> None:
    """Lets the axes of :func:`canvas` measure inches from the top left corner."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("auto")


def place(axes: Axes, image: Pixels, x: float, y: float, edge: float) -> tuple[float, float, float, float]:
    """Draws an image centred in a square; returns its left, top, width and height, inches."""
    pixels = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    height, width = pixels.shape[:2]
    scale = edge / max(height, width)
    w, h = width * scale, height * scale
    left, top = x + (edge - w) / 2, y + (edge - h) / 2
    options = {"cmap": "gray", "vmin": 0, "vmax": 255} if pixels.ndim == 2 else {}
    axes.imshow(
        pixels,
        extent=(left, left + w, top + h, top),
        interpolation="antialiased",
        aspect="auto",
        **options,  # type: ignore[arg-type]
    )
    return left, top, w, h


@style.styled
def contact_sheet(groups: Mapping[str, Sequence[Tile]], *, columns: int = 6, beside: bool = False) -> Figure:
    """Draws tiles in rows under the name of their group.

    Args:
        groups: Tiles by group, for example by class, in order.
        columns: Tiles in a row.
        beside: Whether two groups that follow each other stand beside each other, if each needs no
            more than half a row.

    Returns:
        The figure.
    """
    edge = (style.WIDTH - (columns - 1) * GAP) / columns
    heading = 0.26
    lines = max(
        (tile.caption.count("\n") + 1 for tiles in groups.values() for tile in tiles if tile.caption),
        default=0,
    )
    pitch = edge + GAP + lines * LINE
    bands = _bands(groups, columns // 2 if beside else 0)
    heights = [
        heading + pitch * max(-(-len(groups[name]) // columns) or 1 for name in band) for band in bands
    ]
    total = max(sum(heights) + 0.06 * len(bands), 0.5)
    figure, axes = canvas(style.WIDTH, total)
    top = 0.0
    for band, height in zip(bands, heights, strict=True):
        for place, name in enumerate(band):
            left = place * (columns // 2) * (edge + GAP)
            axes.text(left, top + heading - 0.09, name, fontweight="bold", fontsize=9, va="baseline")
            if not groups[name]:
                axes.text(left, top + heading + 0.2, "none", color=style.MUTED)
            _tiles(axes, groups[name], (left, top + heading), (edge + GAP, pitch), columns)
        top += height + 0.06
    frame(axes, style.WIDTH, total)
    return figure


def _bands(groups: Mapping[str, Sequence[Tile]], half: int) -> list[list[str]]:
    """Returns the names of the groups in each band: one, or two that need at most half a row each."""
    bands: list[list[str]] = []
    for name, tiles in groups.items():
        before = bands[-1] if bands else []
        if len(before) == 1 and max(len(tiles), len(groups[before[0]])) <= half:
            before.append(name)
        else:
            bands.append([name])
    return bands


def _tiles(
    axes: Axes, tiles: Sequence[Tile], corner: tuple[float, float], pitch: tuple[float, float], columns: int
) -> None:
    edge = pitch[0] - GAP
    for index, tile in enumerate(tiles):
        x = corner[0] + (index % columns) * pitch[0]
        y = corner[1] + (index // columns) * pitch[1]
        place(axes, tile.image, x, y, edge)
        options: dict[str, str] = {"ha": "center", "va": "top", "color": style.INK}
        axes.text(x + edge / 2, y + edge + 0.03, tile.caption, fontsize=6.5, **options)  # type: ignore[arg-type]


@style.styled
def stain_panels(pairs: Sequence[StainPair], *, columns: int = 6) -> Figure:
    """Draws crops before (above) and after (below) stain normalisation.

    Args:
        pairs: The crops.
        columns: Pairs in a row.

    Returns:
        The figure.
    """
    margin = 0.5
    edge = (style.WIDTH - margin - columns * GAP) / columns
    pitch = 2 * (edge + GAP) + 0.3
    rows = max(1, -(-len(pairs) // columns))
    figure, axes = canvas(style.WIDTH, rows * pitch)
    for row in range(rows):
        for line, name in enumerate(("before", "after")):
            y = row * pitch + 0.2 + line * (edge + GAP) + edge / 2
            axes.text(margin - 0.12, y, name, rotation=90, ha="right", va="center", fontsize=8)
    for index, pair in enumerate(pairs):
        x = margin + (index % columns) * (edge + GAP)
        y = (index // columns) * pitch + 0.2
        axes.text(x + edge / 2, y - 0.05, pair.title, ha="center", va="baseline", fontsize=6.8)
        place(axes, pair.before, x, y, edge)
        place(axes, pair.after, x, y + edge + GAP, edge)
    frame(axes, style.WIDTH, rows * pitch)
    return figure


@style.styled
def instance_panels(panels: Sequence[InstancePanel], *, columns: int = 6) -> Figure:
    """Draws the heaviest electron micrographs of patients above the same with their deposits.

    The second row is drawn for patients whose truth is known.

    Args:
        panels: One per patient.
        columns: Tiles in a row; further tiles are left out.

    Returns:
        The figure.
    """
    margin, heading, caption = 0.5, 0.3, 0.2
    edge = (style.WIDTH - margin - columns * GAP) / columns

    def height(panel: InstancePanel) -> float:
        rows = 2 if any(mask is not None for mask in panel.masks) else 1
        return heading + rows * (edge + GAP) + caption + 0.08

    total = max(sum(height(panel) for panel in panels), 0.5)
    figure, axes = canvas(style.WIDTH, total)
    top = 0.0
    for panel in panels:
        title = f"{panel.title}   {panel.outlook}" if panel.outlook else panel.title
        axes.text(0, top + heading - 0.1, title, fontweight="bold", va="baseline", fontsize=8.5)
        _instance_rows(axes, panel, margin, top + heading, edge, columns)
        top += height(panel)
    frame(axes, style.WIDTH, total)
    return figure


def _instance_rows(
    axes: Axes, panel: InstancePanel, margin: float, top: float, edge: float, columns: int
) -> None:
    truth = any(mask is not None for mask in panel.masks)
    axes.text(margin - 0.12, top + edge / 2, "tile", rotation=90, ha="right", va="center")
    if truth:
        middle = top + edge + GAP + edge / 2
        axes.text(margin - 0.12, middle, "truth", rotation=90, ha="right", va="center")
    bottom = top + (2 if truth else 1) * (edge + GAP)
    entries = zip(panel.tiles, panel.weights, panel.kept, panel.masks, strict=True)
    for index, (tile, weight, kept, mask) in enumerate(entries):
        if index == columns:
            break
        x = margin + index * (edge + GAP)
        place(axes, tile, x, top, edge)
        note = f"weight {weight:.2f}" if kept else "filtered out"
        if truth:
            box = place(axes, tile, x, top + edge + GAP, edge)
            note += _truth(axes, mask, box)
        axes.text(x + edge / 2, bottom + 0.02, note, ha="center", va="top", fontsize=6.8)


def _truth(axes: Axes, mask: NDArray[np.bool_] | None, box: tuple[float, float, float, float]) -> str:
    if mask is None or not mask.any():
        return "" if mask is None else " · none"
    left, top, width, height = box
    outline_mask(axes, mask, box)
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=style.DEPOSIT, linewidth=1.6))
    return " · deposit"


def outline_mask(axes: Axes, mask: NDArray[np.bool_] | None, box: tuple[float, float, float, float]) -> None:
    """Outlines the deposits of a tile, if there are any.

    Args:
        axes: Axes of :func:`canvas`.
        mask: (H, W) bool; None draws nothing.
        box: Left, top, width and height of the tile, inches.
    """
    if mask is None or not mask.any():
        return
    left, top, width, height = box
    rows, columns = mask.shape
    axes.contour(
        left + (np.arange(columns) + 0.5) / columns * width,
        top + (np.arange(rows) + 0.5) / rows * height,
        mask.astype(float),
        levels=[0.5],
        colors=[style.DEPOSIT],
        linewidths=1.1,
    )
