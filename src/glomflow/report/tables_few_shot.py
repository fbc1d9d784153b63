"""Tables of the report on the glomerulus track."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from glomflow.report.blocks import Table
from glomflow.report.numbers import NOTHING, interval, number, p_value, signed_interval, spread
from glomflow.report.tables import ends, keyed, records, text
from glomflow.report.tables_results import grouped

Labels = Mapping[str, str]
"""What to call each method."""


def few_shot_table(metrics: pd.DataFrame, methods: Labels) -> Table:
    """Lists balanced accuracy, macro AUC and macro F1 by method and number of shots."""
    cells = keyed(metrics, "method", "shots", "metric")
    rows = []
    for method, place, shots in _places(metrics):
        balanced = cells[method, shots, "balanced_accuracy"]
        others = (cells[method, shots, metric] for metric in ("macro_auc", "macro_f1"))
        rows.append(
            (
                _once(methods, method, place),
                str(shots),
                interval(*ends(balanced, "mean")),
                number(balanced["sd"]),
                *(interval(*ends(row, "mean")) for row in others),
            )
        )
    return Table(
        caption="Mean over runs, with intervals.",
        headers=("method", "shots", "balanced accuracy", "SD over runs", "macro AUC", "macro F1"),
        rows=rows,
    )


def few_shot_recall_table(recalls: pd.DataFrame, methods: Labels) -> Table:
    """Lists the recall of each class by method and number of shots."""
    cells = keyed(recalls, "method", "shots", "class")
    classes = [str(name) for name in recalls["class"].unique()]
    rows = [
        (
            _once(methods, method, place),
            str(shots),
            *(interval(*ends(cells[method, shots, name], "mean")) for name in classes),
        )
        for method, place, shots in _places(recalls)
    ]
    first = recalls.drop_duplicates("class")
    sizes = ", ".join(
        f"{_spaced(row['class'])} {round(row['crops'], 1):g} (of {row['slides']} slides)"
        for row in records(first)
    )
    return Table(
        caption="Recall of each class: share of its test glomeruli that are recognised, mean over runs, with "
        "intervals.",
        headers=("method", "shots", *map(_spaced, classes)),
        rows=rows,
        note=f"Test glomeruli in a run: {sizes}. Slides of one patient count as one.",
    )


def few_shot_calibration_table(metrics: pd.DataFrame, methods: Labels) -> Table:
    """Lists how far the probabilities can be believed, by method and number of shots."""
    cells = keyed(metrics, "method", "shots", "metric")
    has_scaled = bool((metrics["metric"] == "scaled_ece").any())
    shown = ["ece", *(["scaled_ece"] if has_scaled else []), "brier", "decision_margin"]
    rows = []
    for method, place, shots in _places(metrics):
        found = [cells.get((method, shots, name)) for name in shown]
        told = [NOTHING if row is None else interval(*ends(row, "mean")) for row in found]
        rows.append((_once(methods, method, place), str(shots), *told))
    scaled = (
        " Scaled: after dividing logits by the temperature fitted on the run's validation glomeruli; only "
        "models that select on validation slides have one."
    )
    return Table(
        caption="Calibration: mean over runs, with intervals.",
        headers=("method", "shots", "ECE", *(["ECE, scaled"] if has_scaled else []), "Brier", "margin"),
        rows=rows,
        note="ECE: expected calibration error of the highest probability. Brier: squared distance from the "
        f"truth, 0 to 2. Margin: highest less second probability.{scaled if has_scaled else ''}",
    )


def few_shot_training_table(geometry: pd.DataFrame, methods: Labels) -> Table | None:
    """Lists what selection chose: epochs, validation AUC and temperature.

    Args:
        geometry: GEOMETRY rows.
        methods: What to call each method.

    Returns:
        The table, or None if nothing is trained by epochs and nothing is selected.
    """
    told = geometry[(geometry["epochs"] > 0) | geometry["validation_auc"].notna()]
    told = told[told["method"].isin(list(methods))]
    if told.empty:
        return None
    order = {name: place for place, name in enumerate(methods)}
    told = told.assign(place=told["method"].map(order)).sort_values(["place", "shots"])
    rows = []
    for method, place, shots in _places(told):
        own = told[(told["method"] == method) & (told["shots"] == shots)]
        rows.append(
            (
                _once(methods, method, place),
                str(shots),
                _range(own["epochs"], 0) if (own["epochs"] > 0).any() else NOTHING,
                _spread(own["validation_auc"]),
                _range(own["temperature"], 2),
            )
        )
    return Table(
        caption="What was selected.",
        headers=("method", "shots", "epochs", "validation AUC, mean ± SD", "temperature"),
        rows=rows,
        note="Epochs and temperature: median over runs; in brackets the least and the most, if they differ. "
        "A temperature above 1 makes probabilities less certain. Models without "
        "validation slides keep their recipe.",
    )


def few_shot_space_table(
    metrics: pd.DataFrame, geometry: pd.DataFrame | None, methods: Labels
) -> Table | None:
    """Lists what the shared space of images and texts looks like, at most shots.

    Args:
        metrics: SCORES rows.
        geometry: GEOMETRY rows, whose distances in UMAP's plane are shown where there are any.
        methods: What to call each method.

    Returns:
        The table, or None if no method has such a space.
    """
    cells = keyed(metrics, "method", "shots", "metric")
    planes = _planes(geometry)
    names = ("alignment", "similarity_gap", "silhouette")
    rows = []
    for method in metrics["method"].unique():
        shots = int(metrics.loc[metrics["method"] == method, "shots"].max())
        if (method, shots, "silhouette") not in cells:
            continue
        found = [cells.get((method, shots, name)) for name in names]
        told = [NOTHING if row is None else interval(*ends(row, "mean")) for row in found]
        told += [number(planes.get((method, shots)))] if planes else []
        rows.append((methods.get(method, text(method)), str(shots), *told))
    if not rows:
        return None
    return Table(
        caption="The space that images and texts share, at the largest number of shots.",
        headers=(
            "method",
            "shots",
            "alignment",
            "similarity gap",
            "silhouette",
            *(["distance by UMAP"] if planes else []),
        ),
        rows=rows,
        note="Alignment: cosine between a glomerulus and the text of its class; gap: that less the mean "
        "cosine to the other classes. Silhouette: of adapted features."
        + (" Distance of classes from their texts in UMAP's plane, which has no unit." if planes else ""),
    )


def few_shot_comparison_table(comparisons: pd.DataFrame, methods: Labels) -> Table:
    """Lists the difference between methods in balanced accuracy, by number of shots."""
    part = comparisons[comparisons["metric"] == "balanced_accuracy"]
    named = [
        f"{methods.get(row['method'], row['method'])} less {methods.get(row['other'], row['other'])}"
        for row in records(part)
    ]
    rows = [
        (
            group,
            str(row["shots"]),
            signed_interval(*ends(row, "difference")),
            p_value(row["p_value"]),
            p_value(row["p_holm"]),
        )
        for group, row in zip(grouped(pd.Series(named, dtype=str)), records(part), strict=True)
    ]
    return Table(
        caption="Methods compared on the same runs and test glomeruli: difference in balanced accuracy.",
        headers=("compared", "shots", "difference", "P", "P (Holm)"),
        rows=rows,
        note="P from the bootstrap over slides and runs; Holm: adjusted for the numbers of shots.",
    )


def _places(frame: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Returns each method with its numbers of shots and their places, in the order of the tables."""
    return [
        (str(method), place, int(shots))
        for method in frame["method"].unique()
        for place, shots in enumerate(sorted(frame.loc[frame["method"] == method, "shots"].unique()))
    ]


def _once(methods: Labels, method: str, place: int) -> str:
    return methods.get(method, method) if place == 0 else ""


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _spread(values: pd.Series[float]) -> str:
    defined = values.dropna()
    return NOTHING if defined.empty else spread(float(defined.mean()), float(defined.std(ddof=0)))


def _range(values: pd.Series[float], digits: int) -> str:
    defined = values.dropna()
    if defined.empty:
        return NOTHING
    if defined.nunique() == 1:
        return number(float(defined.iloc[0]), digits)
    return interval(float(defined.median()), float(defined.min()), float(defined.max()), digits)


def _planes(geometry: pd.DataFrame | None) -> dict[tuple[str, int], float]:
    if geometry is None:
        return {}
    known = geometry.dropna(subset=["umap_text_distance"])
    groups = known.groupby(["method", "shots"])[["umap_text_distance"]].mean().reset_index()
    return {
        (str(row["method"]), int(row["shots"])): float(row["umap_text_distance"]) for row in records(groups)
    }
