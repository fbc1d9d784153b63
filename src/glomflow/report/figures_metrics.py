"""Figures made of numbers: the cohort, training, and what the models achieve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from glomflow.report import style
from glomflow.tables import MODALITIES

SMALL = 2.95
"""Edge of figures that stand three beside each other, inches."""

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_auc": "macro AUC",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "ece": "calibration error (ECE)",
}
"""Metrics as a reader calls them."""

_TOGETHER = 6
"""Most curves that are told apart in one panel."""


def shares(axes: Axes, *, y: bool = True, x: bool = False) -> None:
    """Writes the ticks of an axis as percentages."""
    if y:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if x:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


@style.styled
def cohort_overview(patients: pd.DataFrame, inventory: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draws patients per class and site, and usable images per patient and modality.

    Args:
        patients: PATIENTS rows.
        inventory: INVENTORY rows.
        classes: The labels, in order.

    Returns:
        The figure: stacked bars on the left, box plots of images per patient on the right.
    """
    figure, (left, right) = style.new_figure(style.WIDTH, 2.8, columns=2, ratios=(1.15, 1.0))
    sites = sorted(patients["site"].dropna().unique())
    counts = pd.crosstab(patients["label"], patients["site"].fillna("not given"))
    columns = [*sites, *(name for name in counts.columns if name not in sites)]
    counts = counts.reindex(index=list(classes), columns=columns, fill_value=0)
    base = np.zeros(len(classes))
    for index, site in enumerate(columns):
        values = counts[site].to_numpy(dtype=float)
        left.barh(
            range(len(classes)),
            values,
            left=base,
            label=site,
            color=style.colour(index),
            edgecolor="white",
            hatch=style.HATCHES[index % len(style.HATCHES)],
            height=0.62,
        )
        base += values
    left.set_yticks(range(len(classes)), list(classes))
    left.invert_yaxis()
    left.set_title("Patients by class and site")
    left.set_xlabel("patients")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=max(1, min(len(columns), 4)))
    _images_per_patient(right, patients, inventory)
    return figure


def _images_per_patient(axes: Axes, patients: pd.DataFrame, inventory: pd.DataFrame) -> None:
    usable = inventory[inventory["status"] == "ok"]
    counts = pd.crosstab(usable["patient"], usable["modality"])
    counts = counts.reindex(index=patients["patient"], columns=list(MODALITIES), fill_value=0)
    rng = np.random.default_rng(0)
    for index, modality in enumerate(MODALITIES):
        values = counts[modality].to_numpy(dtype=float)
        jitter = rng.uniform(-0.26, 0.26, len(values))
        axes.plot(index + jitter, values, "o", color=style.colour(index), alpha=0.45, markersize=3.2, mew=0)
        if len(values):
            axes.hlines(np.median(values), index - 0.34, index + 0.34, color=style.INK, linewidth=1.8)
    axes.set_xticks(range(len(MODALITIES)), list(MODALITIES))
    axes.set_title("Usable images per patient")
    axes.set_ylabel("images (bar: median)")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.set_ylim(bottom=-0.4)


def panel_grid(count: int) -> tuple[Figure, list[Axes]]:
    """Makes a figure of up to four panels a row with common axes; the lowest of each column is labelled."""
    rows = -(-count // 4)
    columns = -(-count // rows)
    figure = Figure(figsize=(style.WIDTH, 0.5 + 1.95 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    for axes in grid[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    return figure, grid[:count]


@style.styled
def training_curves(histories: pd.DataFrame, models: Sequence[str], labels: Mapping[str, str]) -> Figure:
    """Draws the loss over the epochs: one thin line per fold and seed, the median thick.

    Args:
        histories: Columns model, fold, seed, epoch, train_loss, validation_loss; see
            :func:`glomflow.report.examples.read_histories`.
        models: Models to draw, one panel each, in order.
        labels: What to call a model.

    Returns:
        The figure.
    """
    figure, panels = panel_grid(len(models))
    series = [("train_loss", "training", 0), ("validation_loss", "validation", 1)]
    for axes, model in zip(panels, models, strict=True):
        part = histories[histories["model"] == model]
        for column, _, index in series:
            if column not in part or part[column].isna().all():
                continue
            for _, run in part.groupby(["fold", "seed"], sort=True):
                axes.plot(run["epoch"], run[column], color=style.colour(index), alpha=0.28, linewidth=0.8)
            median = part.groupby("epoch")[column].median()
            axes.plot(median.index, median, color=style.colour(index), linestyle=style.dashes(index))
        axes.set_title(labels.get(model, model))
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("epoch", fontsize=8.5)
    figure.supylabel("weighted loss", fontsize=8.5)
    handles = [
        Line2D([], [], color=style.colour(index), linestyle=style.dashes(index), label=name)
        for _, name, index in series
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@style.styled
def confusion_matrix(confusion: pd.DataFrame, classes: Sequence[str], *, truth: str = "diagnosis") -> Figure:
    """Draws the confusion matrix of one model, true classes in rows.

    Args:
        confusion: Columns true, predicted, count of one model.
        classes: The labels, in order; underscores are shown as spaces.
        truth: What the rows are.

    Returns:
        The figure; colours are shares of the row, the numbers counts and shares.
    """
    table = confusion.pivot_table(index="true", columns="predicted", values="count", aggfunc="sum")
    counts = table.reindex(index=list(classes), columns=list(classes)).fillna(0).to_numpy(dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    names = [name.replace("_", " ") for name in classes]
    letters = max(len(name) for name in names)
    edge = max(0.9 + 0.55 * len(classes), SMALL) + 0.06 * max(letters - 6, 0)
    figure, (axes,) = style.new_figure(edge, edge)
    colours = LinearSegmentedColormap.from_list("counts", ["#ffffff", style.colour(0)])
    axes.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for row in range(len(classes)):
        for column in range(len(classes)):
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{_count(counts[row, column])}\n{100 * shares[row, column]:.0f} %",
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.55 else style.INK,
            )
    ticks = np.arange(len(classes)) + 0.5
    axes.set_xticks(ticks, names)
    if letters > 8:
        axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_xlabel("predicted")
    axes.set_ylabel(truth)
    return figure


def _count(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


@style.styled
def roc_curves(roc: pd.DataFrame, classes: Sequence[str], areas: Mapping[str, float] | None = None) -> Figure:
    """Draws one-against-the-rest ROC curves of one model.

    Args:
        roc: Columns class, repeat, seed, fpr, tpr of one model, in the order of the curve.
        classes: The labels, in order.
        areas: Area under the curve per class, for the legend.

    Returns:
        The figure.
    """
    figure, (axes,) = style.new_figure(SMALL, SMALL)
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    for index, name in enumerate(classes):
        curve = roc[roc["class"] == name]
        if curve.empty:
            continue
        area = f"  AUC {areas[name]:.2f}" if areas and name in areas else ""
        for run, (_, line) in enumerate(curve.groupby(["repeat", "seed"], sort=True)):
            axes.plot(
                line["fpr"],
                line["tpr"],
                color=style.colour(index),
                linestyle=style.dashes(index),
                linewidth=1.6 if run == 0 else 0.8,
                label=f"{name}{area}" if run == 0 else None,
            )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")
    axes.grid()
    axes.legend(loc="lower right")
    return figure


@style.styled
def reliability(calibration: pd.DataFrame, ece: float | None = None) -> Figure:
    """Draws the reliability diagram of one model: stated against true certainty.

    Args:
        calibration: Columns low, high, patients, confidence, accuracy of one model: one row per bin
            of the probability of the predicted class.
        ece: Expected calibration error, for the title.

    Returns:
        The figure: the diagram above a histogram of the probabilities.
    """
    figure = Figure(figsize=(SMALL, SMALL), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1.0))
    bins = calibration[calibration["patients"] > 0]
    upper.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    upper.vlines(bins["confidence"], bins["confidence"], bins["accuracy"], color=style.colour(1), linewidth=1)
    upper.scatter(
        bins["confidence"],
        bins["accuracy"],
        s=10 + 90 * bins["patients"] / max(float(bins["patients"].max()) if len(bins) else 1.0, 1.0),
        color=style.colour(0),
        zorder=3,
        linewidth=0,
        clip_on=False,
    )
    upper.set_xlim(0, 1.02)
    upper.set_ylim(-0.02, 1.02)
    upper.set_ylabel("share correct")
    upper.grid()
    if ece is not None:
        upper.set_title(f"ECE {ece:.2f}")
    width = calibration["high"] - calibration["low"]
    lower.bar(
        calibration["low"],
        calibration["patients"],
        width=width,
        align="edge",
        color=style.colour(5),
        edgecolor="w",
    )
    lower.set_ylabel("cases")
    lower.set_xlabel("probability given to the predicted class")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    return figure


@style.styled
def ablation(
    pooled: pd.DataFrame,
    models: Sequence[str],
    labels: Mapping[str, str],
    *,
    metric: str = "accuracy",
    ceilings: Mapping[str, float] | None = None,
    chance: float | None = None,
) -> Figure:
    """Draws a metric of every model with its interval, and the ceiling that it cannot pass.

    Args:
        pooled: Columns model, metric, value, lower, upper.
        models: Models from top to bottom.
        labels: What to call a model.
        metric: The metric to draw.
        ceilings: Highest value that can be expected, by model, where the cohort's rules tell it.
        chance: Value of guessing.

    Returns:
        The figure.
    """
    rows = pooled[pooled["metric"] == metric].set_index("model")
    figure, (axes,) = style.new_figure(style.WIDTH * 0.84, 0.95 + 0.36 * len(models))
    for index, model in enumerate(models):
        value, low, high = rows.loc[model, ["value", "lower", "upper"]].to_numpy(dtype=float)
        tone = style.colour(0) if index == 0 else style.MUTED
        axes.hlines(index, low, high, color=tone, linewidth=2.2)
        axes.plot(value, index, "o", color=tone, markersize=6.5)
        ceiling = (ceilings or {}).get(model)
        if ceiling is not None:
            axes.vlines(ceiling, index - 0.3, index + 0.3, color=style.colour(1), linewidth=2.0)
    if chance is not None:
        axes.axvline(chance, color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(
            "guessing",
            (chance, -0.62),
            textcoords="offset points",
            xytext=(3, 0),
            color=style.MUTED,
            fontsize=7.5,
            va="center",
        )
    axes.set_yticks(range(len(models)), [labels.get(model, model) for model in models])
    axes.set_ylim(len(models) - 0.45, -0.85)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    lowest = rows.loc[list(models), ["value", "lower"]].min().min()
    axes.set_xlim(max(-0.015, min(0.3, lowest - 0.03, 0.0 if chance is None else chance - 0.05)), 1.015)
    shares(axes, y=False, x=True)
    axes.set_xlabel(METRIC_NAMES.get(metric, metric))
    axes.grid(axis="x")
    handles = [Line2D([], [], color=style.INK, marker="o", label="value and interval")]
    if ceilings:
        handles.append(
            Line2D([], [], color=style.colour(1), linestyle="", marker="|", ms=11, mew=2, label="ceiling")
        )
    figure.legend(handles=handles, loc="outside lower right", ncols=2)
    return figure


@style.styled
def missing_curve(missing: pd.DataFrame, labels: Mapping[str, str], *, chance: float | None = None) -> Figure:
    """Draws the accuracy of models over the rate of missing modalities, with interval bands.

    Where they are too many for one panel each has its own, with the first for comparison.

    Args:
        missing: Columns model, rate, metric, value, lower, upper.
        labels: What to call a model; its order is the order of drawing.
        chance: Accuracy of guessing.

    Returns:
        The figure.
    """
    part = missing[missing["metric"] == "accuracy"].sort_values("rate")
    curves = {name: part[part["model"] == name] for name in labels if name in set(part["model"])}
    words = "rate at which each modality is missing", "accuracy"
    figure, panels = curve_panels(curves, labels, ("rate", "value"), words)
    for axes in panels:
        if chance is not None:
            axes.axhline(chance, color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        shares(axes, x=True)
    return figure


def curve_panels(
    curves: Mapping[str, pd.DataFrame],
    labels: Mapping[str, str],
    columns: tuple[str, str],
    words: tuple[str, str],
) -> tuple[Figure, list[Axes]]:
    """Draws curves with interval bands in one panel, or where they are too many each in its own.

    Args:
        curves: By name, the rows of a curve in order, with ``lower`` and ``upper``.
        labels: What to call each.
        columns: Columns of the abscissa and of the ordinate.
        words: What to call these.

    Returns:
        The figure and its panels; in each of many, the first curve is dashed for comparison.
    """
    together = len(curves) <= _TOGETHER
    if together:
        figure, (only,) = style.new_figure(style.WIDTH * 0.68, 3.3)
        panels = [only] * len(curves)
    else:
        figure, panels = panel_grid(len(curves))
    figure.supxlabel(words[0] + ("" if together else "; dashes: the first"), fontsize=8.5)
    figure.supylabel(words[1], fontsize=8.5)
    across, up = columns
    for index, (axes, (name, rows)) in enumerate(zip(panels, curves.items(), strict=True)):
        place = index if together else 0
        tone = style.colour(place)
        axes.fill_between(rows[across], rows["lower"], rows["upper"], color=tone, alpha=0.12, linewidth=0)
        line = {"color": tone, "linestyle": style.dashes(place), "label": labels[name]}
        axes.plot(rows[across], rows[up], marker=style.marker(place), **line)
        axes.grid(axis="y")
        if not together:
            first = next(iter(curves.values()))
            axes.plot(first[across], first[up], color=style.MUTED, linewidth=1, linestyle=(0, (4, 2)))
            axes.set_title(labels[name].replace(" (", "\n("))
    if together:
        figure.legend(loc="outside upper left", ncols=min(max(len(curves), 1), 3))
    return figure, list(dict.fromkeys(panels))
