"""Tables of the report: frames turned into rows of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from glomflow.report.blocks import Table
from glomflow.report.numbers import (
    NOTHING,
    interval,
    number,
    p_value,
    percent,
    points_interval,
    signed_interval,
    spread,
    thousands,
)
from glomflow.tables import MODALITIES

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
    "macro_f1": "macro F1",
    "ece": "ECE",
}
"""Metrics as headers, in the order of the tables."""

MOST_SLIDES = 30
"""Slides shown of the count of glomeruli."""

MOST_ROWS = 60
"""Rows shown of a table that may be long."""

MEASURES = {
    "top1": "heaviest tile shows a deposit",
    "top3": "share of the three heaviest tiles that show one",
    "weight_share": "share of the bag's weight on tiles that show one",
    "kept": "deposit tiles that pass the filter",
}
"""Measures of the deposit hits in words."""

STATUSES = {
    "missing_file": "file missing",
    "unreadable": "unreadable",
    "unsupported_format": "format not supported",
    "no_pixel_size": "no pixel size",
    "anisotropic": "pixels not square",
    "no_annotation": "no annotation",
    "blank": "blank",
    "duplicate_file": "duplicate file",
}
"""Why an image is left out, in words."""

Name = Callable[[str], str]
Record = dict[str, Any]


def records(frame: pd.DataFrame) -> list[Record]:
    """Returns the rows of a frame as mappings from column to value."""
    rows: Any = frame.to_dict("records")
    return list(rows)


def keyed(frame: pd.DataFrame, *columns: str) -> dict[tuple[Any, ...], Record]:
    """Returns the rows of a frame by the values of some columns."""
    return {tuple(row[column] for column in columns): row for row in records(frame)}


def text(value: Any) -> str:
    """Returns a cell as text; nothing where it is missing."""
    return "" if pd.isna(value) else str(value)


def ends(row: Record, name: str = "value", prefix: str = "") -> tuple[float, float, float]:
    """Returns a row's value and the ends of its interval."""
    return float(row[name]), float(row[f"{prefix}lower"]), float(row[f"{prefix}upper"])


def cohort_table(patients: pd.DataFrame, classes: Sequence[str]) -> Table:
    """Counts patients by class and site."""
    sites = patients["site"].fillna("not given")
    counts = pd.crosstab(patients["label"], sites).reindex(index=list(classes), fill_value=0)
    rows = [
        (str(label), *(thousands(int(value)) for value in values), thousands(int(values.sum())))
        for label, values in counts.iterrows()
    ]
    totals = (*(thousands(int(value)) for value in counts.sum()), thousands(int(counts.to_numpy().sum())))
    return Table(
        caption="Patients by diagnosis and site.",
        headers=("diagnosis", *map(str, counts.columns), "all"),
        rows=[*rows, ("all", *totals)],
        strong_rows=frozenset({len(rows)}),
    )


def modality_table(patients: pd.DataFrame, inventory: pd.DataFrame) -> Table:
    """Counts images and patients by modality."""
    rows = []
    for modality in MODALITIES:
        images = inventory[inventory["modality"] == modality]
        if images.empty:
            continue
        usable = images[images["status"] == "ok"]
        per_patient = usable.groupby("patient").size()
        few = (
            "" if per_patient.empty else f"{per_patient.median():g} ({per_patient.min()}–{per_patient.max()})"
        )
        lacking = len(patients) - len(per_patient)
        size = 1000 * usable["um_per_px"] if modality == "TEM" else usable["um_per_px"]
        rows.append(
            (
                modality,
                thousands(len(images)),
                thousands(len(usable)),
                thousands(len(per_patient)),
                thousands(lacking),
                few or NOTHING,
                _range(size.dropna(), "nm/px" if modality == "TEM" else "µm/px"),
            )
        )
    return Table(
        caption="Images by modality.",
        headers=(
            "modality",
            "images",
            "usable",
            "patients",
            "patients without",
            "per patient: median (range)",
            "pixel size",
        ),
        rows=rows,
    )


def _range(values: pd.Series[float], unit: str) -> str:
    if values.empty:
        return NOTHING
    low, high = (f"{value:.3g}" for value in (values.min(), values.max()))
    return f"{low} {unit}" if low == high else f"{low}–{high} {unit}"


def exclusions_table(inventory: pd.DataFrame) -> Table | None:
    """Lists the images that are left out; None if there are none."""
    left_out = inventory[inventory["status"] != "ok"].sort_values(["modality", "patient", "path"])
    if left_out.empty:
        return None
    rows = [
        (
            *(text(row[column]) for column in ("patient", "modality", "path")),
            STATUSES.get(row["status"], text(row["status"])),
            text(row["reason"]),
        )
        for row in records(left_out.head(MOST_ROWS))
    ]
    more = len(left_out) - len(rows)
    return Table(
        caption="Images that are left out, and why.",
        headers=("patient", "modality", "file", "status", "reason"),
        rows=rows,
        text_columns=frozenset(range(5)),
        path_columns=frozenset({2, 4}),
        note=f"{thousands(more)} more are in the inventory." if more > 0 else "",
    )


def excluded_patients_table(excluded: pd.DataFrame) -> Table | None:
    """Lists the patients who take no part; None if there are none."""
    if excluded.empty:
        return None
    rows = [(text(row["patient"]), text(row["reason"])) for row in records(excluded.head(MOST_ROWS))]
    more = len(excluded) - len(rows)
    return Table(
        caption="Patients who take no part, because no image of theirs can be used.",
        headers=("patient", "reason"),
        rows=rows,
        text_columns=frozenset({0, 1}),
        note=f"And {thousands(more)} more." if more > 0 else "",
    )


def lesion_table(crops: pd.DataFrame, classes: Sequence[str]) -> Table:
    """Counts glomeruli by slide and lesion class."""
    counts = pd.crosstab(crops["slide"], crops["lesion"]).reindex(columns=list(classes), fill_value=0)
    rows = [
        (text(slide), *(thousands(int(value)) for value in values), thousands(int(values.sum())))
        for slide, values in zip(counts.index[:MOST_SLIDES], counts.to_numpy(), strict=False)
    ]
    more = len(counts) - len(rows)
    totals = (*(thousands(int(value)) for value in counts.sum()), thousands(int(counts.to_numpy().sum())))
    return Table(
        caption="Glomeruli by slide and lesion class.",
        headers=("slide", *(name.replace("_", " ") for name in classes), "all"),
        rows=[*rows, (f"all {thousands(len(counts))} slides", *totals)],
        strong_rows=frozenset({len(rows)}),
        note=f"{thousands(more)} more slides are not shown." if more > 0 else "",
    )


def flagged_table(profiles: pd.DataFrame) -> Table:
    """Lists the slides whose stain profile cannot be used."""
    rows = [
        (text(row["slide"]), thousands(int(row["tissue_pixels"])), text(row["flag"]))
        for row in records(profiles.head(MOST_ROWS))
    ]
    return Table(
        caption="Slides that pass through unchanged.",
        headers=("slide", "tissue pixels", "why"),
        rows=rows,
        text_columns=frozenset({0, 2}),
    )


def quality_table(inventory: pd.DataFrame) -> Table:
    """Summarises the quality measures of usable images by modality."""
    rows = []
    for modality in MODALITIES:
        usable = inventory[(inventory["modality"] == modality) & (inventory["status"] == "ok")]
        if usable.empty:
            continue
        low, middle, high = usable["focus"].quantile([0.05, 0.5, 0.95])
        cells = [f"{middle:.3g} ({low:.3g}–{high:.3g})"]
        for column, digits in (("tissue_fraction", 0), ("saturated_fraction", 1)):
            low, middle, high = usable[column].quantile([0.05, 0.5, 0.95])
            cells.append(percent_cell(middle, low, high, digits))
        rows.append((modality, thousands(len(usable)), *cells))
    return Table(
        caption="Quality of the usable images: median (5th–95th percentile).",
        headers=("modality", "images", "focus", "tissue", "saturated"),
        rows=rows,
        note="Focus: variance of the Laplacian of the thumbnail, to be compared within a modality only. "
        "Saturated: samples at the ends of the range.",
    )


def crops_table(crops: dict[str, pd.DataFrame], *, diagnosis: bool) -> Table:
    """Counts the crops of each modality."""
    kinds = {"OM": "glomeruli", "IM": "immunofluorescence", "TEM": "electron micrograph tiles"}
    rows = []
    for modality, frame in crops.items():
        unit, factor = ("nm/px", 1000.0) if modality == "TEM" else ("µm/px", 1.0)
        rows.append(
            (
                f"{modality}: {kinds[modality]}",
                thousands(len(frame)),
                thousands(frame["image"].nunique()),
                thousands(frame["patient"].nunique()),
                *([thousands(int(frame["selected"].sum()))] if diagnosis else []),
                _range(frame["um_per_px"].dropna() * factor, unit),
            )
        )
    return Table(
        caption="Crops.",
        headers=(
            *("crops", "number", "from images", "from patients"),
            *(("chosen for diagnosis",) if diagnosis else ()),
            "resolution",
        ),
        rows=rows,
    )


def folds_table(folds: pd.DataFrame, patients: pd.DataFrame, classes: Sequence[str]) -> Table:
    """Counts the patients of every fold by split and class."""
    rows = folds.merge(patients[["patient", "label"]], on="patient", how="left")
    splits = [name for name in ("train", "validation", "test") if name in set(rows["split"])]
    counts = rows.groupby(["fold", "split", "label"]).size()
    body = []
    for fold in sorted(rows["fold"].unique()):
        cells = [str(fold + 1)]
        for split in splits:
            values = [int(counts.get((fold, split, label), 0)) for label in classes]
            cells += [" / ".join(map(str, values)), str(sum(values))]
        body.append(tuple(cells))
    order = " / ".join(classes)
    headers = [header for split in splits for header in (f"{split}: {order}", "all")]
    return Table(
        caption="Patients of every fold, by split and diagnosis.",
        headers=("fold", *headers),
        rows=body,
    )


def per_fold_table(per_fold: pd.DataFrame, mean_sd: pd.DataFrame, model: str) -> Table:
    """Lists a model's metrics fold by fold, and their mean and standard deviation."""
    part = per_fold[per_fold["model"] == model]
    seeds = part["seed"].nunique() > 1
    rows = [
        (
            str(row["fold"] + 1),
            *([str(row["seed"])] if seeds else []),
            str(row["patients"]),
            *(number(row[metric]) for metric in METRICS),
        )
        for row in records(part)
    ]
    means = keyed(mean_sd, "model", "metric")
    last = [spread(means[model, metric]["mean"], means[model, metric]["sd"]) for metric in METRICS]
    return Table(
        caption="Test metrics fold by fold.",
        headers=("fold", *(["seed"] if seeds else []), "patients", *METRICS.values()),
        rows=[*rows, ("mean ± SD", *([""] if seeds else []), "", *last)],
        strong_rows=frozenset({len(rows)}),
        note="The SD is over folds" + (", of each fold's mean over seeds." if seeds else "."),
    )


def pooled_table(pooled: pd.DataFrame, mean_sd: pd.DataFrame, models: Sequence[str], name: Name) -> Table:
    """Lists every model's metrics over all test patients with their intervals."""
    cells, means = keyed(pooled, "model", "metric"), keyed(mean_sd, "model", "metric")
    rows = []
    for model in models:
        accuracy = means[model, "accuracy"]
        rows.append(
            (
                name(model),
                *(interval(*ends(cells[model, metric])) for metric in METRICS),
                spread(accuracy["mean"], accuracy["sd"]),
            )
        )
    return Table(
        caption="All test patients at once, with intervals; and the mean ± SD over folds of the accuracy.",
        headers=("model", *METRICS.values(), "accuracy, mean ± SD"),
        rows=rows,
        strong_rows=frozenset({0}),
    )


def per_class_table(per_class: pd.DataFrame, model: str) -> Table:
    """Lists a model's sensitivity, specificity and more for every class."""
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
        caption="Each diagnosis against the others.",
        headers=("diagnosis", "patients", "sensitivity", "specificity", "precision", "F1", "AUC"),
        rows=rows,
    )


def strata_table(strata: pd.DataFrame, model: str) -> Table | None:
    """Lists a model's accuracy by site and by completeness; None if there is only one stratum."""
    part = strata[strata["model"] == model]
    kept = part[part.groupby("stratum")["value"].transform("nunique") > 1]
    if kept.empty:
        return None
    words = {"complete": "all modalities at hand", "incomplete": "a modality missing"}
    rows = [
        (
            f"at {row['value']}" if row["stratum"] == "site" else words.get(row["value"], text(row["value"])),
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
    pooled: pd.DataFrame, comparisons: pd.DataFrame, models: Sequence[str], name: Name
) -> Table:
    """Sets every model beside its ceiling and beside the first model, pair by pair of predictions."""
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
        row += ["", "", "", ""] if other is None else _comparison_cells(other)
        rows.append(tuple(row))
    return Table(
        caption=f"Accuracy compared. A difference is {models[0]} less the model of the row.",
        headers=(
            "model",
            "accuracy",
            *(("ceiling by design", "ceiling of this cohort") if ceilings else ()),
            "difference",
            "right alone, first : this",
            "P",
            "P (Holm)",
        ),
        rows=rows,
        strong_rows=frozenset({0}),
        note="Right alone: patients that only one of the two gets right. P: exact paired test on them "
        "(McNemar; sign flips with several seeds). Holm: adjusted for the number of comparisons here.",
    )


def _grouped(names: pd.Series[str]) -> list[str]:
    """Keeps a name where it first stands and blanks its repetitions below."""
    return [name if name != before else "" for name, before in zip(names, [None, *names[:-1]], strict=True)]


def _comparison_cells(row: Record) -> list[str]:
    return [
        signed_interval(*ends(row, "difference")),
        f"{row['only_model']:g} : {row['only_other']:g}",
        p_value(row["p_value"]),
        p_value(row["p_holm"]),
    ]


def deposit_table(hits: pd.DataFrame, name: Name) -> Table:
    """Lists how often heavily weighted TEM tiles show a deposit, beside chance."""
    rows = [
        (
            group,
            MEASURES.get(row["measure"], text(row["measure"])),
            thousands(int(row["patients"])),
            percent_cell(*ends(row)),
            percent(row["chance"]),
            points_interval(*ends(row, "excess", "excess_")),
        )
        for group, row in zip(_grouped(hits["model"].map(name)), records(hits), strict=True)
    ]
    return Table(
        caption="Whether the weights find the electron-dense deposits.",
        headers=("model", "measure", "patients", "share", "by chance", "excess"),
        rows=rows,
        text_columns=frozenset({0, 1}),
        note="By chance: the share of a bag's tiles that show a deposit; for the filter, the share of the "
        "other tiles that pass it. Patients without a deposit tile in their bag are left out.",
    )


def percent_cell(value: float, lower: float, upper: float, digits: int = 0) -> str:
    """Formats a share with its interval: ``87 % (78–94)``."""
    shown = interval(100 * value, 100 * lower, 100 * upper, digits)
    head, separator, tail = shown.partition("\u00a0(")
    return f"{head}\u00a0%{separator}{tail}" if head != NOTHING else head


def few_shot_table(metrics: pd.DataFrame, methods: dict[str, str]) -> Table:
    """Lists balanced accuracy, macro AUC and macro F1 by method and number of shots."""
    cells = keyed(metrics, "method", "shots", "metric")
    rows = []
    for method in metrics["method"].unique():
        for place, shots in enumerate(sorted(metrics.loc[metrics["method"] == method, "shots"].unique())):
            balanced = cells[method, shots, "balanced_accuracy"]
            others = (cells[method, shots, metric] for metric in ("macro_auc", "macro_f1"))
            rows.append(
                (
                    methods.get(method, text(method)) if place == 0 else "",
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


def few_shot_comparison_table(comparisons: pd.DataFrame, methods: dict[str, str]) -> Table:
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
        for group, row in zip(_grouped(pd.Series(named, dtype=str)), records(part), strict=True)
    ]
    return Table(
        caption="Methods compared on the same runs and test glomeruli: difference in balanced accuracy.",
        headers=("compared", "shots", "difference", "P", "P (Holm)"),
        rows=rows,
        note="P from the bootstrap over slides and runs; Holm: adjusted for the numbers of shots.",
    )
