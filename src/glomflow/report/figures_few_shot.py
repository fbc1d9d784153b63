"""Figures of the glomerulus track: learning curves and reliability of its methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from glomflow.report import style
from glomflow.report.figures_metrics import METRIC_NAMES, curve_panels, shares
from glomflow.report.numbers import interval, number
from glomflow.report.tables import ends, keyed

COLUMNS = 4
"""Reliability diagrams in a row."""

KINDS = {"stated": ("as stated", 0), "scaled": ("after temperature scaling", 1)}
"""Probabilities of a reliability diagram: what they are called, and their colour."""

_LABEL = 7.5
"""Type of labels, points."""


@style.styled
def few_shot_curves(
    summary: pd.DataFrame,
    labels: Mapping[str, str],
    *,
    metric: str = "balanced_accuracy",
    chance: float | None = None,
) -> Figure:
    """Draws a metric over the number of labelled crops per class, with interval bands.

    What needs no labelled crop is a level line, named beside the panel. Where methods are too many for one
    panel each has its own, with the first for comparison; levels are named beside the last of each row.

    Args:
        summary: Columns method, shots, metric, mean, lower, upper.
        labels: What to call a method; its order is the order of drawing.
        metric: The metric to draw.
        chance: Value of guessing.

    Returns:
        The figure; shots are on a logarithmic axis to base 2.
    """
    part = summary[summary["metric"] == metric].sort_values("shots")
    learning = part[part["shots"] > 0]
    unlearned = part[part["shots"] == 0].set_index("method")["mean"]
    levels = {labels.get(str(name), str(name)): float(value) for name, value in unlearned.items()}
    levels |= {} if chance is None else {"guessing": chance}
    curves = {
        name: learning[learning["method"] == name] for name in labels if name in set(learning["method"])
    }
    words = "labelled glomeruli per class", METRIC_NAMES.get(metric, metric)
    figure, panels = curve_panels(curves, labels, ("shots", "mean"), words)
    shots = sorted(learning["shots"].unique())
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(shots, [str(value) for value in shots])
        axes.xaxis.set_minor_locator(NullLocator())
        for height in levels.values():
            axes.axhline(height, color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        shares(axes)
    for axes in last_of_rows(panels):
        name_levels(axes, levels, height=2.3 if len(panels) == 1 else 1.3)
    return figure


def last_of_rows(panels: Sequence[Axes]) -> list[Axes]:
    """Returns the last panel of each row of a grid."""
    rows: dict[int, Axes] = {}
    for axes in panels:
        place = axes.get_subplotspec()
        rows[0 if place is None else place.rowspan.start] = axes
    return list(rows.values())


def name_levels(axes: Axes, levels: Mapping[str, float], *, height: float) -> None:
    """Names level lines to the right of a panel, where no line runs; names keep apart.

    Args:
        axes: The panel.
        levels: Height of each line by its name, in data.
        height: About how high the panel is, inches.
    """
    if not levels:
        return
    low, high = axes.get_ylim()
    names = {name: name.replace(" (", "\n(") for name in levels}
    ordered = sorted(levels, key=lambda name: levels[name])
    line = _LABEL * 1.25 / (72 * height)
    sizes = [line * (names[name].count("\n") + 1) for name in ordered]
    wanted = [(levels[name] - low) / (high - low) for name in ordered]
    for name, was, place in zip(ordered, wanted, apart(wanted, sizes), strict=True):
        axes.annotate(
            names[name],
            (1.0, was),
            xycoords="axes fraction",
            xytext=(1.04, place),
            textcoords="axes fraction",
            ha="left",
            va="center",
            color=style.MUTED,
            fontsize=_LABEL,
            linespacing=1.05,
            arrowprops={
                "arrowstyle": "-",
                "color": style.MUTED,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def apart(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Moves labels upwards and downwards until none overlaps the next.

    Args:
        wanted: Middles, ascending.
        sizes: Heights, in the same unit.

    Returns:
        Middles at least half the two heights apart; groups of labels stay around where they were wanted.
    """
    groups: list[tuple[list[int], float]] = []
    for member, middle in enumerate(wanted):
        group, centre = [member], middle
        while groups and _lower(groups[-1], sizes) > centre - _total(group, sizes) / 2:
            group = groups.pop()[0] + group
            centre = sum(wanted[each] for each in group) / len(group)
        groups.append((group, centre))
    found = [0.0] * len(wanted)
    for group, centre in groups:
        edge = centre - _total(group, sizes) / 2
        for member in group:
            found[member] = edge + sizes[member] / 2
            edge += sizes[member]
    return found


def _total(group: Sequence[int], sizes: Sequence[float]) -> float:
    return sum(sizes[member] for member in group)


def _lower(group: tuple[list[int], float], sizes: Sequence[float]) -> float:
    """Returns the upper end of a group of labels, below which the next must not begin."""
    return group[1] + _total(group[0], sizes) / 2


@style.styled
def few_shot_reliability(
    calibration: pd.DataFrame, scores: pd.DataFrame, labels: Mapping[str, str]
) -> Figure:
    """Draws a reliability diagram per method, at its largest number of shots.

    Args:
        calibration: CALIBRATION rows.
        scores: SCORES rows, of which ``ece`` and ``scaled_ece`` are shown.
        labels: What to call a method; its order is the order of the panels.

    Returns:
        The figure: a point per bin at its mean probability and share of right predictions, with its
        interval; its area grows with the glomeruli in the bin.
    """
    methods = [name for name in labels if name in set(calibration["method"])]
    rows = -(-len(methods) // COLUMNS)
    columns = min(len(methods), COLUMNS)
    figure = Figure(
        figsize=(style.WIDTH * max(columns, 2) / COLUMNS, 0.75 + 2.6 * rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    cells = keyed(scores, "method", "shots", "metric")
    for axes in grid[len(methods) :]:
        axes.set_visible(False)
    for axes, method in zip(grid, methods, strict=False):
        own = calibration[calibration["method"] == method]
        shots = int(own["shots"].max())
        _diagram(axes, own[own["shots"] == shots])
        errors = [cells.get((method, shots, name)) for name in ("ece", "scaled_ece")]
        told = ["" if row is None else interval(*ends(row, "mean")) for row in errors]
        said = f"{_shots(shots)} · ECE {told[0]}" + (f"\nscaled {told[1]}" if told[1] else "\n")
        axes.set_title(labels[method].replace(" (", "\n("), pad=23)
        axes.text(0, 1.015, said, transform=axes.transAxes, fontsize=_LABEL, va="bottom", linespacing=1.15)
    for axes in grid[max(0, len(methods) - columns) : len(methods)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("probability given to the predicted class", fontsize=8.5)
    figure.supylabel("share correct", fontsize=8.5)
    figure.legend(handles=_handles(calibration), loc="outside upper left", ncols=3)
    return figure


def _shots(shots: int) -> str:
    return "no shots" if shots == 0 else f"{number(shots, 0)} shot{'s' if shots > 1 else ''}"


def _handles(calibration: pd.DataFrame) -> list[Line2D]:
    shown = set(calibration["probabilities"])
    return [
        Line2D([], [], color=style.colour(tone), marker=style.marker(tone), linewidth=1, label=words)
        for kind, (words, tone) in KINDS.items()
        if kind in shown
    ]


def _diagram(axes: Axes, rows: pd.DataFrame) -> None:
    """Draws the points of one method."""
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    most = max(float(rows["crops"].max()), 1e-9)
    for kind, (_, tone) in KINDS.items():
        bins = rows[(rows["probabilities"] == kind) & (rows["crops"] > 0)]
        colour = style.colour(tone)
        axes.vlines(bins["confidence"], bins["lower"], bins["upper"], color=colour, linewidth=0.8, alpha=0.55)
        axes.plot(bins["confidence"], bins["accuracy"], color=colour, linewidth=0.9, alpha=0.7)
        axes.scatter(
            bins["confidence"],
            bins["accuracy"],
            s=8 + 62 * bins["crops"] / most,
            color=colour,
            marker=style.marker(tone),
            alpha=0.85,
            linewidth=0,
            zorder=3,
        )
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.04, 1.04)
    axes.set_box_aspect(1)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    shares(axes, x=True)
    axes.grid()
