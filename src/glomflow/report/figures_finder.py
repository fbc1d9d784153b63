"""Figures of the glomerulus finder: outlines on held-out fields, precision over recall, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from glomflow.report import style
from glomflow.report.figures_images import GAP, Pixels
from glomflow.report.figures_metrics import SMALL

Points = NDArray[np.float64]

OUTCOMES: dict[tuple[str, str], tuple[str, str, object]] = {
    ("annotated", "hit"): ("annotated and found", style.colour(0), "-"),
    ("annotated", "missed"): ("annotated, missed", style.colour(3), "-"),
    ("found", "hit"): ("found", style.colour(4), (0, (3, 1.6))),
    ("found", "wrong"): ("found, not annotated", style.INK, (0, (3, 1.6))),
    ("any", "left_out"): ("not counted (cut by the border)", style.MUTED, (0, (1.2, 1.4))),
}
"""Kind and outcome of an outline: its name, colour and line."""


@dataclass(frozen=True)
class DrawnOutline:
    """An outline on a field.

    Attributes:
        points: (K, 2) x and y, px of the picture.
        kind: ``annotated`` or ``found``.
        outcome: ``hit``, ``missed``, ``wrong`` or ``left_out``.
    """

    points: Points
    kind: str
    outcome: str


@dataclass(frozen=True)
class OutlinePanel:
    """A field with its outlines.

    Attributes:
        image: uint8, (H, W, 3).
        outlines: What was annotated and found.
        title: What the field is.
        caption: How the finder did.
    """

    image: Pixels
    outlines: Sequence[DrawnOutline]
    title: str
    caption: str


@style.styled
def outline_panels(panels: Sequence[OutlinePanel], *, columns: int = 3) -> Figure:
    """Draws fields with annotated and found outlines.

    Args:
        panels: The fields.
        columns: Fields in a row.

    Returns:
        The figure, with a legend of the outlines that occur.
    """
    columns = max(1, min(columns, len(panels)))
    width = (style.WIDTH - (columns - 1) * GAP) / columns
    lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [
        max(panel.image.shape[0] / panel.image.shape[1] for panel in line) * width + 0.45 for line in lines
    ]
    legend = 0.34
    total = max(sum(heights) + legend, 1.0)
    figure = Figure(figsize=(style.WIDTH, total))
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    top = 0.0
    for line, height in zip(lines, heights, strict=True):
        for place, panel in enumerate(line):
            edge = panel.image.shape[0] / panel.image.shape[1] * width
            left = place * (width + GAP)
            box = (left / style.WIDTH, 1 - (top + 0.24 + edge) / total, width / style.WIDTH, edge / total)
            _draw_field(figure, panel, box)
            figure.text(box[0], 1 - (top + 0.18) / total, panel.title, fontweight="bold", fontsize=8.5)
            below = 1 - (top + 0.28 + edge) / total
            figure.text(box[0], below, panel.caption, va="top", color=style.INK, fontsize=7.5)
        top += height
    figure.legend(handles=_legend(panels), loc="lower center", ncols=len(OUTCOMES), borderaxespad=0.3)
    return figure


def _draw_field(figure: Figure, panel: OutlinePanel, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.set_axis_off()
    height, width = panel.image.shape[:2]
    axes.imshow(panel.image, extent=(0, width, height, 0), interpolation="antialiased", aspect="auto")
    for outline in panel.outlines:
        _, colour, dashes = OUTCOMES[_key(outline)]
        for under, tone, line in ((2.6, "white", "-"), (1.4, colour, dashes)):
            patch = Polygon(outline.points, closed=True, fill=False, edgecolor=tone, linewidth=under)
            patch.set_linestyle(line)  # type: ignore[arg-type]
            patch.set_alpha(0.75 if tone == "white" else 1.0)
            axes.add_patch(patch)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _key(outline: DrawnOutline) -> tuple[str, str]:
    return ("any" if outline.outcome == "left_out" else outline.kind, outline.outcome)


def _legend(panels: Sequence[OutlinePanel]) -> list[Line2D]:
    present = {_key(outline) for panel in panels for outline in panel.outlines}
    return [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=1.6, label=name)  # type: ignore[arg-type]
        for key, (name, colour, dashes) in OUTCOMES.items()
        if key in present
    ]


@style.styled
def finder_precision_recall(curve: pd.DataFrame, areas: Mapping[float, float] | None = None) -> Figure:
    """Draws precision over recall as less sure finds are let in.

    Args:
        curve: Columns iou, score, precision, recall, scores falling.
        areas: Average precision by overlap, for the legend.

    Returns:
        The figure, a line per overlap.
    """
    figure, (axes,) = style.new_figure(SMALL, SMALL)
    for index, (iou, line) in enumerate(curve.groupby("iou", sort=True)):
        level = float(str(iou))
        area = f"   AP {areas[level]:.2f}" if areas and level in areas else ""
        recall = np.concatenate([[0.0], line["recall"].to_numpy(float)])
        precision = np.concatenate([line["precision"].to_numpy(float)[:1], line["precision"].to_numpy(float)])
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        tone = style.colour(index)
        axes.plot(recall, precision, color=tone, linewidth=0.7, alpha=0.55, clip_on=False)
        axes.plot(
            recall,
            envelope,
            color=tone,
            linestyle=style.dashes(index),
            drawstyle="steps-pre",
            label=f"IoU ≥ {level:g}{area}",
            clip_on=False,
        )
        axes.plot(recall[-1:], precision[-1:], style.marker(index), color=tone, clip_on=False)
    axes.set_xlim(0, 1.0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall (share of annotated glomeruli found)")
    axes.set_ylabel("precision")
    axes.grid()
    if len(curve):
        figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
    return figure


@style.styled
def finder_counts(counts: pd.DataFrame) -> Figure:
    """Draws glomeruli found over glomeruli annotated, a point per slide.

    Args:
        counts: Columns annotated and found.

    Returns:
        The figure, with the line of equal numbers; larger points are several slides.
    """
    figure, (axes,) = style.new_figure(SMALL, SMALL)
    points = counts.groupby(["annotated", "found"]).size().reset_index(name="slides")
    most = float(max(counts[["annotated", "found"]].to_numpy().max(initial=1), 1)) * 1.06
    axes.plot([0, most], [0, most], color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.scatter(
        points["annotated"],
        points["found"],
        s=26 * points["slides"].to_numpy(float),
        color=style.colour(0),
        alpha=0.7,
        linewidth=0,
        zorder=3,
    )
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    axes.set_aspect("equal")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("glomeruli annotated, per slide")
    axes.set_ylabel("glomeruli found, per slide")
    axes.grid()
    return figure
