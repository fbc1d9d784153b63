"""Tables of the report on what went in; frames are turned into rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from glomflow.report.blocks import Table
from glomflow.report.numbers import NOTHING, percent_cell, thousands
from glomflow.tables import MODALITIES

MOST_SLIDES = 12
"""Slides shown of the count of glomeruli."""

MOST_ROWS = 60
"""Rows shown of a table that may be long."""

STATUSES = {
    "missing_file": "file missing",
    "unreadable": "unreadable",
    "unsupported_format": "format not supported",
    "no_pixel_size": "no pixel size",
    "anisotropic": "pixels not square",
    "no_annotation": "no annotation",
    "blank": "blank",
    "duplicate_file": "duplicate file",
    "poor_quality": "poor quality",
    "no_crop": "without a crop",
}
"""Why an image is left out, in words."""

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
    rows = [
        (text(row["patient"]), _in_words(text(row["reason"]))) for row in records(excluded.head(MOST_ROWS))
    ]
    more = len(excluded) - len(rows)
    return Table(
        caption="Patients who take no part, because no image of theirs can be used.",
        headers=("patient", "reason"),
        rows=rows,
        text_columns=frozenset({0, 1}),
        note=f"And {thousands(more)} more." if more > 0 else "",
    )


def _in_words(reason: str) -> str:
    for status, words in STATUSES.items():
        reason = reason.replace(status, words)
    return reason


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
        note="Focus: variance of the Laplacian less that of noise, at one scale per modality, to be compared "
        "within a modality only. Saturated: samples at the ends of the range.",
    )


def crops_table(crops: dict[str, pd.DataFrame], *, diagnosis: bool) -> Table:
    """Counts the crops of each modality."""
    kinds = {"OM": "glomeruli", "IM": "immunofluorescence", "TEM": "electron micrographs"}
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
        cells = [str(fold)]
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
