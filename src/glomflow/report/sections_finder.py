"""The section on the glomerulus finder: how well it finds, on slides that it had not seen."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from glomflow.evaluation.detection_summary import ALL_FOLDS, FinderSummary
from glomflow.report.blocks import Block, KeyFigures, Picture, PictureRow, Prose, Section, Table
from glomflow.report.material import Material
from glomflow.report.numbers import (
    count,
    interval,
    number,
    percent,
    percent_interval,
    signed,
    signed_interval,
)
from glomflow.report.sections_data import figure
from glomflow.report.sections_diagnosis import confidence
from glomflow.report.tables import Record, ends, keyed, records

METRICS = {
    "ap50": "average precision, IoU ≥ 0.5",
    "ap": "average precision, IoU 0.5 to 0.95",
    "dice": "Dice coefficient, all fields joined",
    "field_dice": "Dice coefficient, mean of fields",
    "f1": "F1, IoU ≥ 0.5",
    "precision": "precision, IoU ≥ 0.5",
    "recall": "recall, IoU ≥ 0.5",
    "mean_iou": "mean IoU of those found",
    "panoptic_quality": "panoptic quality (F1 × mean IoU)",
}
"""Metrics as a reader calls them."""

AGREEMENT = {
    "count_bias": "found less annotated, mean per slide",
    "count_lower": "lower limit of agreement",
    "count_upper": "upper limit of agreement",
    "count_concordance": "Lin's concordance",
}
"""The agreement of counts per slide as a reader calls it."""

WORST = 8
"""Fields listed with their mistakes."""

BORDERS = {
    "count": "Glomeruli that the border of the image cuts count as any other.",
    "ignore": "Glomeruli that the border of the image cuts do not count, annotated or found.",
}


def finder_section(material: Material) -> Section | None:
    """How well glomeruli are found, where a finder was evaluated."""
    summary = material.finder
    if summary is None or summary.metrics.empty:
        return None
    names = ("finder_precision_recall", "finder_counts")
    return finder_blocks(
        summary,
        confidence(material),
        outlines=figure(material, "finder_outlines"),
        curves=[picture for name in names for picture in figure(material, name)],
    )


def finder_blocks(
    summary: FinderSummary, confidence: str, *, outlines: Sequence[Picture], curves: Sequence[Picture]
) -> Section:
    """Writes the section.

    Args:
        summary: The finder's evaluation.
        confidence: Level of the intervals: ``95 %``.
        outlines: Picture of held-out fields with their outlines, if it is there.
        curves: Pictures of precision over recall and of the counts, those that are there.

    Returns:
        The section.
    """
    cells = keyed(summary.metrics, "fold", "metric")
    blocks: list[Block] = [
        _key_figures(cells, confidence),
        Prose(" ".join(_sentences(summary, cells, confidence)), lead=True),
        *outlines,
        *([PictureRow(list(curves))] if curves else []),
        _metrics_table(cells),
        *_folds_table(summary.metrics),
        *_mistakes_table(summary.fields),
    ]
    return Section("finder", "Glomerulus finder", blocks)


def _key_figures(cells: dict[tuple[str, ...], Record], confidence: str) -> KeyFigures:
    def beneath(row: Record) -> str:
        if row["interval"] == "none":
            return "too few slides for an interval"
        return f"{confidence} interval {number(row['lower'])}–{number(row['upper'])}"

    found, ap, dice, bias = (cells[ALL_FOLDS, name] for name in ("recall", "ap50", "dice", "count_bias"))
    return KeyFigures(
        [
            (
                "Found",
                percent(found["value"]),
                f"of {count(int(found['annotated']), 'glomerulus', 'glomeruli')}",
            ),
            ("Average precision", number(ap["value"]), f"IoU ≥ 0.5; {beneath(ap)}"),
            ("Dice coefficient", number(dice["value"]), beneath(dice)),
            ("Counted per slide", signed(bias["value"], 1), "found less annotated, mean"),
        ]
    )


def _sentences(summary: FinderSummary, cells: dict[tuple[str, ...], Record], confidence: str) -> list[str]:
    recall, precision, low, high = (
        cells[ALL_FOLDS, name] for name in ("recall", "precision", "count_lower", "count_upper")
    )
    fields, slides = (count(int(recall[f"{noun}s"]), noun) for noun in ("field", "slide"))
    glomeruli = count(int(recall["annotated"]), "annotated glomerulus", "annotated glomeruli")
    said = [
        f"Each of {fields} of {slides} was searched by a finder that had seen neither the slide nor the "
        f"patient. Of {glomeruli} {percent(recall['value'])} were found{_interval(recall, confidence)}"
        + (
            "; nothing else was."
            if pd.isna(precision["value"])
            else f"; of what was found {percent(precision['value'])} was a glomerulus{_interval(precision)}."
        )
    ]
    if not pd.isna(low["value"]):
        said.append(
            f"Counts per slide agreed within {signed(low['value'], 1)} and {signed(high['value'], 1)} "
            "glomeruli (95 % limits of agreement)."
        )
    said.append(BORDERS[str(summary.metrics["border"].iloc[0])])
    if recall["interval"] == "none":
        said.append("All fields come from one patient, so that nothing can be said of other patients.")
    elif recall["groups"] < 10:
        said.append(f"The intervals rest on {count(int(recall['groups']), 'patient')} and are too narrow.")
    return said


def _interval(row: Record, confidence: str = "") -> str:
    if row["interval"] == "none":
        return ""
    words = f"{confidence} interval " if confidence else ""
    return f" ({words}{percent_interval(row['lower'], row['upper'])})"


def _metrics_table(cells: dict[tuple[str, ...], Record]) -> Table:
    rows = [(words, interval(*ends(cells[ALL_FOLDS, name]))) for name, words in METRICS.items()]
    rows += [(words, _agreement(name, cells[ALL_FOLDS, name])) for name, words in AGREEMENT.items()]
    return Table(
        caption="Test fields of all folds together, with intervals over slides and patients.",
        headers=("metric", "value"),
        rows=rows,
        note="A find is right if its outline and that of an annotated glomerulus overlap by at least half of "
        "their joined area (IoU ≥ 0.5). Scores of the folds' finders are ranked together.",
    )


def _agreement(name: str, row: Record) -> str:
    if name == "count_concordance":
        return interval(*ends(row))
    return signed_interval(*ends(row), 1)


def _folds_table(metrics: pd.DataFrame) -> list[Table]:
    folds = [fold for fold in metrics["fold"].unique() if fold != ALL_FOLDS]
    if len(folds) < 2:
        return []
    cells = keyed(metrics, "fold", "metric")
    names = ("ap50", "ap", "dice", "precision", "recall")
    rows = []
    for fold in folds:
        row = cells[fold, "ap50"]
        sizes = [str(int(row[name])) for name in ("slides", "fields", "annotated", "found")]
        rows.append((str(fold), *sizes, *(number(cells[fold, name]["value"]) for name in names)))
    heads = ("AP, IoU ≥ 0.5", "AP, 0.5 to 0.95", "Dice", "precision", "recall")
    return [
        Table(
            caption="Fold by fold.",
            headers=("fold", "slides", "fields", "annotated", "found", *heads),
            rows=rows,
        )
    ]


def _mistakes_table(fields: pd.DataFrame) -> list[Table]:
    wrong = fields.assign(mistakes=fields["missed"] + fields["wrong"])
    wrong = wrong[wrong["mistakes"] > 0].sort_values(["mistakes", "image"], ascending=[False, True])
    if wrong.empty:
        return []
    rows = [
        (
            str(row["image"]),
            *(str(int(row[name])) for name in ("annotated", "found", "missed", "wrong")),
            number(row["dice"]),
        )
        for row in records(wrong.head(WORST))
    ]
    more = len(wrong) - len(rows)
    return [
        Table(
            caption="Fields with most mistakes.",
            headers=("field", "annotated", "found", "missed", "not annotated", "Dice"),
            rows=rows,
            path_columns=frozenset({0}),
            note=f"{count(more, 'further field')} with mistakes." if more > 0 else "",
        )
    ]
