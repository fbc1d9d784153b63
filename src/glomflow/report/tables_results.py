"""Tables of the report on what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from glomflow.report.blocks import Table
from glomflow.report.numbers import (
    interval,
    number,
    p_value,
    percent,
    percent_cell,
    points_interval,
    signed_interval,
    spread,
    thousands,
)
from glomflow.report.tables import Record, ends, keyed, records, text

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
    "macro_f1": "macro F1",
    "ece": "ECE",
}
"""Metrics as headers, in the order of the tables."""

ORDERED = {"quadratic_kappa": "quadratic κ", "absolute_error": "mean error, stages"}
"""Metrics of ordered classes as headers."""

MEASURES = {
    "top1": "heaviest instance shows a deposit",
    "top3": "share of the three heaviest instances that show one",
    "weight_share": "share of the bag's weight on instances that show one",
    "kept": "deposit instances that pass the filter",
}
"""Measures of the deposit hits in words."""

PREPOSITIONS = {"site": "at ", "missing": "without "}
"""What stands before the value of a stratum."""

Name = Callable[[str], str]


def per_fold_table(per_fold: pd.DataFrame, mean_sd: pd.DataFrame, model: str) -> Table:
    """Lists a model's metrics fold by fold, and their mean and standard deviation."""
    part = per_fold[per_fold["model"] == model]
    keys = [key for key in ("repeat", "seed") if part[key].nunique() > 1]
    means = keyed(mean_sd, "model", "metric")
    shown = _metrics(means, model)
    rows = [
        (
            str(row["fold"]),
            *(str(row[key]) for key in keys),
            str(row["patients"]),
            *(number(row[metric]) for metric in shown),
        )
        for row in records(part)
    ]
    last = [spread(means[model, metric]["mean"], means[model, metric]["sd"]) for metric in shown]
    return Table(
        caption="Test metrics fold by fold.",
        headers=("fold", *keys, "patients", *shown.values()),
        rows=[*rows, ("mean ± SD", *("" for _ in keys), "", *last)],
        strong_rows=frozenset({len(rows)}),
        note="The SD is over folds" + (", of each fold's mean over seeds." if "seed" in keys else "."),
    )


def _metrics(cells: dict[tuple[str, ...], Record], model: str) -> dict[str, str]:
    """Returns the headers of the metrics that a model has."""
    return {name: words for name, words in {**METRICS, **ORDERED}.items() if (model, name) in cells}


def pooled_table(pooled: pd.DataFrame, mean_sd: pd.DataFrame, models: Sequence[str], name: Name) -> Table:
    """Lists every model's metrics over all test patients with their intervals."""
    cells, means = keyed(pooled, "model", "metric"), keyed(mean_sd, "model", "metric")
    shown = _metrics(cells, models[0])
    rows = []
    for model in models:
        accuracy = means[model, "accuracy"]
        rows.append(
            (
                name(model),
                *(interval(*ends(cells[model, metric])) for metric in shown),
                spread(accuracy["mean"], accuracy["sd"]),
            )
        )
    return Table(
        caption="All test patients at once, with intervals; and the mean ± SD over folds of the accuracy.",
        headers=("model", *shown.values(), "accuracy, mean ± SD"),
        rows=rows,
        strong_rows=frozenset({0}),
    )


def per_class_table(per_class: pd.DataFrame, model: str, noun: str = "diagnosis") -> Table:
    """Lists a model's sensitivity, specificity and more for every class; ``noun`` is what a class is."""
    rows = [
        (
            row["class"],
            thousands(int(row["support"])),
            interval(*ends(row, "sensitivity", "sensitivity_")),
            interval(*ends(row, "specificity", "specificity_")),
            number(row["precision"]),
            number(row["f1"]),
            number(row["auc"]),
        )
        for row in records(per_class[per_class["model"] == model])
    ]
    return Table(
        caption=f"Each {noun} against the others.",
        headers=(noun, "patients", "sensitivity", "specificity", "precision", "F1", "AUC"),
        rows=rows,
    )


def strata_table(strata: pd.DataFrame, model: str) -> Table | None:
    """Lists a model's accuracy by site, by completeness and without each modality; None for one stratum."""
    part = strata[strata["model"] == model]
    several = part.groupby("stratum")["value"].transform("nunique") > 1
    kept = part[several | (part["stratum"] == "missing")]
    if kept.empty:
        return None
    words = {"complete": "all modalities at hand", "incomplete": "a modality missing"}
    rows = [
        (
            PREPOSITIONS.get(row["stratum"], "") + words.get(row["value"], text(row["value"])),
            thousands(int(row["patients"])),
            interval(*ends(row, "accuracy", "accuracy_")),
            number(row["macro_auc"]),
        )
        for row in records(kept)
    ]
    return Table(
        caption="Accuracy in parts of the cohort.",
        headers=("patients", "number", "accuracy", "macro AUC"),
        rows=rows,
    )


def ablation_table(
    pooled: pd.DataFrame,
    comparisons: pd.DataFrame,
    models: Sequence[str],
    name: Name,
    parameters: Mapping[str, int] | None = None,
) -> Table:
    """Sets every model beside its ceiling and beside the first model, pair by pair of predictions.

    Args:
        pooled: POOLED rows.
        comparisons: COMPARISONS rows.
        models: Models in order.
        name: What to call a model.
        parameters: Trained parameters of models.
    """
    cells = keyed(pooled, "model", "metric")
    paired = keyed(comparisons, "other", "metric")
    ceilings = bool(pooled["ceiling"].notna().any())
    rows = []
    for model in models:
        accuracy = cells[model, "accuracy"]
        row = [name(model), interval(*ends(accuracy))]
        if ceilings:
            row += [number(accuracy["ceiling"]), number(accuracy["realised_ceiling"])]
        other = paired.get((model, "accuracy"))
        if parameters:
            row.append(thousands(parameters[model]) if model in parameters else "")
        row += ["", "", "", ""] if other is None else _comparison_cells(other)
        rows.append(tuple(row))
    return Table(
        caption=f"Accuracy compared. A difference is {models[0]} less the model of the row.",
        headers=(
            "model",
            "accuracy",
            *(("ceiling by design", "ceiling of this cohort") if ceilings else ()),
            *(("trained weights",) if parameters else ()),
            "difference",
            "right alone, first : this",
            "P",
            "P (Holm)",
        ),
        rows=rows,
        strong_rows=frozenset({0}),
        note="Right alone: patients that only one of the two gets right. P: exact paired test on them "
        "(McNemar; sign flips with several seeds or repeats). Holm: adjusted for the number of comparisons.",
    )


def grouped(names: pd.Series[str]) -> list[str]:
    """Keeps a name where it first stands and blanks its repetitions below."""
    return [name if name != before else "" for name, before in zip(names, [None, *names[:-1]], strict=True)]


def _comparison_cells(row: Record) -> list[str]:
    return [
        signed_interval(*ends(row, "difference")),
        f"{row['only_model']:g} : {row['only_other']:g}",
        p_value(row["p_value"]),
        p_value(row["p_holm"]),
    ]


def missing_table(missing: pd.DataFrame, name: Name, rates: Sequence[float] = (0.0, 0.3, 0.6, 0.9)) -> Table:
    """Lists accuracy and balanced accuracy at some rates of missing modalities."""
    part = missing[missing["rate"].isin(rates)]
    rows = []
    for model in part["model"].unique():
        for metric in ("accuracy", "balanced_accuracy"):
            own = part[(part["model"] == model) & (part["metric"] == metric)].sort_values("rate")
            title = name(model) if metric == "accuracy" else ""
            cells = [percent_cell(*ends(row)) for row in records(own)]
            rows.append((title, METRICS[metric], *cells))
    return Table(
        caption="Expected when each modality is missing at a rate, one at least being left.",
        headers=("model", "metric", *(f"rate {rate:g}" for rate in rates)),
        rows=rows,
        text_columns=frozenset({0, 1}),
    )


def deposit_table(hits: pd.DataFrame, name: Name) -> Table:
    """Lists how often heavily weighted TEM instances show a deposit, beside chance."""
    rows = [
        (
            group,
            MEASURES.get(row["measure"], text(row["measure"])),
            thousands(int(row["patients"])),
            percent_cell(*ends(row)),
            percent(row["chance"]),
            points_interval(*ends(row, "excess", "excess_")),
        )
        for group, row in zip(grouped(hits["model"].map(name)), records(hits), strict=True)
    ]
    return Table(
        caption="Whether the weights find the electron-dense deposits.",
        headers=("model", "measure", "patients", "share", "by chance", "excess"),
        rows=rows,
        text_columns=frozenset({0, 1}),
        note="By chance: the share of a bag's instances that show a deposit; for the filter, the share of "
        "the other instances that pass it. Patients without a deposit instance in their bag are left out.",
    )
