"""Figures of how close the patches of an image are to the texts of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from glomflow.report import style
from glomflow.report.figures_images import GAP, Pixels, canvas, frame, place
from glomflow.report.numbers import number

MAP_COLOURS = "inferno"
CONTRAST_COLOURS = "RdBu_r"

HEADING = 0.3
BENEATH = 0.29
LARGEST = 1.45
"""Edge of a tile at most, inches."""

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SimilarityPanel:
    """A glomerulus and its maps.

    Attributes:
        title: True and predicted class.
        note: Which glomerulus it is.
        right: Whether the two are one.
        image: uint8 (H, W, 3).
        box: Left, top, width and height of what the model sees of it, px.
        maps: (rows, columns) cosines with the text of each class shown.
        cosines: Of the whole image, by class.
        label: True class.
        predicted: Class of the highest cosine.
        contrast: (rows, columns) cosine with the true class's text less the mean of the others.
    """

    title: str
    note: str
    right: bool
    image: Pixels
    box: Box
    maps: Mapping[str, Floats]
    cosines: Mapping[str, float]
    label: str
    predicted: str
    contrast: Floats


@style.styled
def similarity_panels(panels: Sequence[SimilarityPanel]) -> Figure:
    """Draws crops with the maps of each class, a row per glomerulus.

    Args:
        panels: The glomeruli.

    Returns:
        The figure.
    """
    columns = max((len(panel.maps) for panel in panels), default=1) + 2
    edge = min((style.WIDTH - (columns - 1) * GAP) / columns, LARGEST)
    height = HEADING + edge + BENEATH + 0.14
    total = max(height * len(panels), 0.5)
    figure, axes = canvas(style.WIDTH, total)
    for row, panel in enumerate(panels):
        _row(axes, panel, row * height, edge)
    if not panels:
        axes.text(style.WIDTH / 2, 0.25, "none", color=style.MUTED, ha="center", va="center")
    frame(axes, style.WIDTH, total)
    return figure


def _row(axes: Axes, panel: SimilarityPanel, top: float, edge: float) -> None:
    values = np.stack(list(panel.maps.values()))
    low, high = float(values.min()), float(values.max())
    _heading(axes, panel, top, (low, high))
    below = top + HEADING
    place(axes, panel.image, 0, below, edge)
    x = 0.0
    for name, value in panel.maps.items():
        x += edge + GAP
        scaled = (value - low) / max(high - low, 1e-12)
        overlay(axes, panel, (x, below), edge, scaled, alpha=0.15 + 0.55 * scaled)
        marks = [word for word, of in (("true", panel.label), ("predicted", panel.predicted)) if of == name]
        said = " · ".join([number(panel.cosines[name]), *marks])
        _beneath(axes, x + edge / 2, below + edge, name.replace("_", " "), said, strong=bool(marks))
    x += edge + GAP
    most = max(float(np.abs(panel.contrast).max()), 1e-12)
    overlay(axes, panel, (x, below), edge, (panel.contrast / most + 1) / 2, colours=CONTRAST_COLOURS)
    _beneath(axes, x + edge / 2, below + edge, "true less others", f"± {most:.2f}")


def _heading(axes: Axes, panel: SimilarityPanel, top: float, ends: tuple[float, float]) -> None:
    """Writes the classes, whether they are one, the glomerulus and the scale of the row's colours."""
    line = top + HEADING - 0.09
    tone = style.colour(2) if panel.right else style.colour(1)
    title = axes.text(0, line, panel.title, fontweight="bold", fontsize=9, va="baseline")
    axes.annotate(
        f"  {'right' if panel.right else 'wrong'}",
        (1, 0),
        xycoords=title,
        color=tone,
        fontsize=8.5,
        va="bottom",
        annotation_clip=False,
    )
    scale = f"{panel.note} · colours from {number(ends[0])} to {number(ends[1])}"
    axes.text(style.WIDTH, line, scale, color=style.MUTED, ha="right", va="baseline", fontsize=7.5)


def _beneath(axes: Axes, x: float, y: float, first: str, second: str, *, strong: bool = False) -> None:
    weight = "bold" if strong else "normal"
    lines = {"ha": "center", "va": "baseline", "fontsize": 7}
    axes.text(x, y + 0.12, first, fontweight=weight, **lines)  # type: ignore[arg-type]
    axes.text(x, y + 0.245, second, color=style.MUTED, **lines)  # type: ignore[arg-type]


def overlay(
    axes: Axes,
    panel: SimilarityPanel,
    corner: tuple[float, float],
    edge: float,
    values: Floats,
    *,
    alpha: float | Floats = 0.55,
    colours: str = MAP_COLOURS,
) -> None:
    """Lays a map over the crop in grey, where the model sees it.

    Args:
        axes: Axes of :func:`glomflow.report.figures_images.canvas`.
        panel: The glomerulus.
        corner: Left and upper edge of the tile, inches.
        edge: Of the tile, inches.
        values: (rows, columns), 0 to 1.
        alpha: How much it covers.
        colours: Name of the colour map.
    """
    grey = panel.image if panel.image.ndim == 2 else panel.image.mean(axis=2)
    left, top, width, height = place(axes, grey.astype(np.uint8), *corner, edge)
    across, down = width / grey.shape[1], height / grey.shape[0]
    x, y, wide, tall = panel.box
    shown = axes.imshow(
        values,
        extent=(left + x * across, left + (x + wide) * across, top + (y + tall) * down, top + y * down),
        cmap=colours,
        norm=Normalize(0, 1),
        alpha=alpha,
        interpolation="nearest",
        aspect="auto",
    )
    shown.set_clip_path(Rectangle((left, top), width, height, transform=axes.transData))
