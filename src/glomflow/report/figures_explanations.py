"""Figures of what predictions rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from glomflow.report import style
from glomflow.report.figures_images import GAP, Pixels, canvas, frame, outline_mask, place
from glomflow.tables_explanations import ATTENTION_KIND

COLUMNS = 6
MAP_COLOURS = "inferno"
MODALITY_COLOURS = {"OM": style.colour(3), "IM": style.colour(2), "TEM": style.colour(0)}
"""The colour of each modality."""

MARGIN = 0.62
HEADING = 0.32
CAPTION = 0.2


@dataclass(frozen=True)
class MapTile:
    """A crop with its maps.

    Attributes:
        modality: OM, IM or TEM.
        image: uint8, (H, W), (H, W, 1) or (H, W, 3).
        values: (H, W), 0 to 1: how much each place speaks for the class.
        attention: (H, W), 0 to 1: how much other modalities look at each place; None without attention.
        mask: Deposits, (H, W) bool; None where the truth is not known.
        note: What stands beneath it.
        name: Name of the crop.
    """

    modality: str
    image: Pixels
    values: NDArray[np.float64]
    attention: NDArray[np.float64] | None
    mask: NDArray[np.bool_] | None
    note: str
    name: str


@dataclass(frozen=True)
class ExplanationPanel:
    """What the prediction of one patient rests on.

    Attributes:
        title: Patient, true and predicted class.
        right: Whether the two are one.
        tiles: OM, IM, then TEM tiles; at most ``COLUMNS`` are drawn.
        predicted: Predicted class.
        prior: Its share of the training patients.
        probability: Its probability.
        contributions: What each modality adds to the first to give the second.
    """

    title: str
    right: bool
    tiles: Sequence[MapTile]
    predicted: str
    prior: float
    probability: float
    contributions: Sequence[tuple[str, float]]


@style.styled
def explanation_panels(panels: Sequence[ExplanationPanel]) -> Figure:
    """Draws crops, maps, attention and contributions of some patients.

    Args:
        panels: One per patient.

    Returns:
        The figure.
    """
    edge = (style.WIDTH - MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    height = HEADING + 3 * (edge + GAP) + CAPTION + 0.16
    total = max(height * len(panels), 0.5)
    figure, axes = canvas(style.WIDTH, total)
    for number, panel in enumerate(panels):
        top = number * height
        mark = "right" if panel.right else "wrong"
        axes.text(0, top + HEADING - 0.1, panel.title, fontweight="bold", fontsize=9, va="baseline")
        axes.text(
            style.WIDTH,
            top + HEADING - 0.1,
            f"predicted {mark}",
            color=style.colour(2) if panel.right else style.colour(1),
            ha="right",
            va="baseline",
            fontsize=8.5,
        )
        _rows(axes, panel, top + HEADING, edge)
        below = top + HEADING + 2 * (edge + GAP) + CAPTION
        _waterfall(figure, panel, MARGIN + 2 * (edge + GAP) + 0.75, below, edge, total)
    frame(axes, style.WIDTH, total)
    return figure


def _rows(axes: Axes, panel: ExplanationPanel, top: float, edge: float) -> None:
    middle, below = top + edge + GAP, top + 2 * (edge + GAP) + CAPTION
    rows = [("crop", top), ("map", middle)]
    rows += [("attention", below)] if any(tile.attention is not None for tile in panel.tiles) else []
    for name, y in rows:
        axes.text(MARGIN - 0.1, y + edge / 2, name, rotation=90, ha="right", va="center", fontsize=8)
    places = {"OM": 0, "IM": 1, "TEM": 2}
    for tile in panel.tiles:
        column = places[tile.modality]
        places[tile.modality] += 1
        if column >= COLUMNS:
            continue
        x = MARGIN + column * (edge + GAP)
        box = place(axes, tile.image, x, top, edge)
        outline_mask(axes, tile.mask, box)
        axes.text(x + 0.05, top + 0.05, tile.modality, **_label())  # type: ignore[arg-type]
        _overlay(axes, tile, tile.values, (x, middle), edge)
        note = tile.note
        if tile.mask is not None:
            note = " · ".join(part for part in (note, "deposit" if tile.mask.any() else "none") if part)
        axes.text(x + edge / 2, middle + edge + 0.03, note, ha="center", va="top", fontsize=6.8)
        if tile.attention is not None:
            _overlay(axes, tile, tile.attention, (x, below), edge)
    for modality, column in (("OM", 0), ("IM", 1), ("TEM", 2)):
        if not any(tile.modality == modality for tile in panel.tiles):
            x = MARGIN + column * (edge + GAP) + edge / 2
            axes.text(x, top + edge / 2, f"no {modality}", color=style.MUTED, ha="center", va="center")


def _label() -> dict[str, object]:
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.2}
    return {"fontsize": 6.5, "ha": "left", "va": "top", "bbox": box}


def _overlay(
    axes: Axes, tile: MapTile, values: NDArray[np.float64], corner: tuple[float, float], edge: float
) -> None:
    """Lays a map over the crop in grey: the higher, the more it covers."""
    grey = tile.image if tile.image.ndim == 2 else tile.image.mean(axis=2)
    left, top, width, height = place(axes, grey.astype(np.uint8), *corner, edge)
    axes.imshow(
        values,
        extent=(left, left + width, top + height, top),
        cmap=MAP_COLOURS,
        norm=Normalize(0, 1),
        alpha=0.1 + 0.6 * np.clip(values, 0, 1),
        interpolation="nearest",
        aspect="auto",
    )
    outline_mask(axes, tile.mask, (left, top, width, height))


def _waterfall(
    figure: Figure, panel: ExplanationPanel, left: float, top: float, edge: float, total: float
) -> None:
    """Draws how each modality moves the probability from the prior to what the model states."""
    height = edge - 0.36
    box = (left / style.WIDTH, 1 - (top + height + 0.04) / total, 0, height / total)
    axes = figure.add_axes((box[0], box[1], (style.WIDTH - left - 0.5) / style.WIDTH, box[3]))
    start, names = panel.prior, ["prior"]
    axes.vlines(panel.prior, -0.4, 0.4, color=style.INK, linewidth=2)
    for row, (modality, share) in enumerate(panel.contributions, 1):
        axes.barh(row, share, left=start, height=0.62, color=MODALITY_COLOURS[modality])
        axes.vlines(start, row - 1 + 0.31, row + 0.31, color=style.MUTED, linewidth=0.7)
        ahead = max(start, start + share) <= 0.86
        edge_at = max(start, start + share) + 0.012 if ahead else min(start, start + share) - 0.012
        text = f"{100 * share:+.0f}".replace("-", "−")
        axes.text(edge_at, row, text, va="center", ha="left" if ahead else "right", fontsize=7.5)
        start += share
        names.append(modality)
    last = len(panel.contributions) + 1
    axes.vlines(start, last - 1 + 0.31, last + 0.4, color=style.INK, linewidth=2)
    axes.set_yticks(range(last + 1), [*names, "stated"])
    axes.set_ylim(last + 0.6, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_title(f"probability of {panel.predicted}", fontweight="normal", fontsize=8, pad=3)


MEASURES = {
    ("TEM", "pointing"): "highest place in deposits",
    ("TEM", "energy"): "share of map in deposits",
    ("OM", "pointing"): "highest place in glomerulus",
    ("OM", "energy"): "share of map in glomerulus",
    ("TEM", "top_by_map"): "first tile by map shows deposit",
    ("TEM", "top_by_weight"): "first tile by weight shows deposit",
}
"""Agreement with what is known, in words."""


@style.styled
def explanation_checks(checks: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draws the checks of one model's explanations.

    Args:
        checks: CHECKS rows of all patients.
        curves: MEAN_CURVES rows.

    Returns:
        The figure: agreement with what is known (where it is), deletion and insertion, and agreement with
        randomised models.
    """
    known = checks[checks["check"].isin(["localisation", "ranking"])]
    fresh = checks[(checks["check"] == "randomised") & (checks["measure"] == "rank_correlation")]
    ratios = [1.0, 1.1, 0.8] if len(known) else [1.1, 0.8]
    figure, grid = style.new_figure(style.WIDTH, 3.3, columns=len(ratios), ratios=ratios)
    if len(known):
        _agreement(grid[0], known)
    _curves(grid[-2], curves)
    _randomised(grid[-1], fresh)
    return figure


def _agreement(axes: Axes, known: pd.DataFrame) -> None:
    names = []
    for row, entry in enumerate(known.to_dict("records")):
        tone = MODALITY_COLOURS[str(entry["modality"])]
        axes.hlines(row, entry["lower"], entry["upper"], color=tone, linewidth=2)
        axes.plot(entry["value"], row, "o", color=tone, markersize=5.5)
        axes.vlines(entry["reference"], row - 0.3, row + 0.3, color=style.INK, linewidth=1.6)
        names.append(known_name(entry).replace(": ", ":\n"))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_title("What is known")


def known_name(entry: Mapping[Any, Any]) -> str:
    """Returns a measure of agreement with what is known in words."""
    modality = str(entry["modality"])
    kind = " attention" if entry["kind"] == ATTENTION_KIND else ""
    return f"{modality}{kind}: {MEASURES[modality, str(entry['measure'])]}"


def _curves(axes: Axes, curves: pd.DataFrame) -> None:
    tones = {"deletion": style.colour(1), "insertion": style.colour(0)}
    for (direction, order), curve in curves.groupby(["direction", "order"], sort=True):
        line = curve.sort_values("share")
        own = order == "map"
        axes.plot(
            line["share"], line["value"], color=tones[str(direction)], linestyle="-" if own else (0, (4, 2))
        )
        if own:
            axes.fill_between(
                line["share"],
                line["lower"],
                line["upper"],
                color=tones[str(direction)],
                alpha=0.15,
                linewidth=0,
            )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("tokens removed or put in")
    axes.set_ylabel("probability of the predicted class")
    axes.grid()
    axes.set_title("Deletion and insertion")
    handles = [Line2D([], [], color=tone, label=name) for name, tone in tones.items()]
    handles.append(Line2D([], [], color=style.MUTED, linestyle=(0, (4, 2)), label="random order"))
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _randomised(axes: Axes, fresh: pd.DataFrame) -> None:
    names = []
    for row, entry in enumerate(fresh.to_dict("records")):
        tone = MODALITY_COLOURS[str(entry["modality"])]
        axes.hlines(row, entry["lower"], entry["upper"], color=tone, linewidth=2)
        axes.plot(entry["value"], row, "o", color=tone, markersize=5.5)
        attention = "\nattention" if entry["kind"] == ATTENTION_KIND else ""
        names.append(f"{entry['modality']}{attention}")
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-1.02, 1.02)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel("rank correlation")
    axes.set_title("Randomised weights")


@style.styled
def explanation_contributions(by_class: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draws the mean contribution of each modality by predicted class.

    Args:
        by_class: BY_CLASS rows of one model.
        classes: The classes, in order.

    Returns:
        The figure.
    """
    figure, (axes,) = style.new_figure(style.WIDTH * 0.62, 2.7)
    groups = [name for name in [*classes, "all"] if name in set(by_class["predicted"])]
    shown = [name for name in MODALITY_COLOURS if name in set(by_class["modality"])]
    width = 0.8 / max(len(shown), 1)
    for place_of, modality in enumerate(shown):
        rows = by_class[by_class["modality"] == modality].set_index("predicted").reindex(groups)
        x = np.arange(len(groups)) + (place_of - (len(shown) - 1) / 2) * width
        axes.bar(x, rows["value"], width * 0.9, color=MODALITY_COLOURS[modality], label=modality)
        axes.vlines(x, rows["lower"], rows["upper"], color=style.INK, linewidth=1.2)
    axes.axhline(0, color=style.MUTED, linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}".replace("-", "−"))
    axes.set_ylabel("contribution, points of probability")
    axes.set_xlabel("predicted class")
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
