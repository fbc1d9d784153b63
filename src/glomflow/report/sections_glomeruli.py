"""Sections on what came out of the glomerulus track."""

from __future__ import annotations

from typing import Any

from glomflow.evaluation.few_shot_summary import FewShotSummary
from glomflow.report import tables, tables_few_shot
from glomflow.report.blocks import Block, Heading, KeyFigures, Prose, Section
from glomflow.report.material import Material
from glomflow.report.numbers import count, listing, number, p_text, percent, percent_interval, points_interval
from glomflow.report.sections_data import exclusion_sentences, figure, lesion_classes
from glomflow.report.sections_diagnosis import confidence, verdict
from glomflow.report.sites_few_shot import drawn_words, few_shot_sites_table, split_words, unseen
from glomflow.report.tables import Record, ends, keyed
from glomflow.report.words_few_shot import method_labels, method_means, similarity_sentences

FLOOR = "colour_texture"
"""The method that all others have to beat."""

_TOLD = 3
"""Comparisons that the summary tells one by one; of more, those with the floor and with the best."""

HEADLINE_SHOTS = 8
"""Shots that the summary speaks of, or the nearest number that was run."""


def headline(material: Material) -> tuple[str, int] | None:
    """Returns the method and the number of shots that the summary speaks of."""
    found = material.few_shot
    if found is None or found.metrics.empty:
        return None
    shots = sorted(int(value) for value in found.metrics["shots"].unique())
    nearest = min(shots, key=lambda value: (abs(value - HEADLINE_SHOTS), value))
    return str(found.metrics["method"].iloc[0]), nearest


def summary_section(material: Material) -> Section | None:
    """The outcome in one paragraph and a few numbers."""
    found, chosen = material.few_shot, headline(material)
    if found is None or chosen is None:
        return None
    method, shots = chosen
    cells = keyed(found.metrics, "method", "shots", "metric")
    best = cells[method, shots, "balanced_accuracy"]
    classes = [name.replace("_", " ") for name in lesion_classes(material)]
    sentences = [
        f"With {count(shots, 'labelled glomerulus', 'labelled glomeruli')} per class, "
        f"{method_means(material.config, method)} told {listing(classes)} apart with a balanced accuracy of "
        f"{percent(best['mean'])} ({confidence(material)} interval "
        f"{percent_interval(best['lower'], best['upper'])}; SD over runs {number(best['sd'])}), "
        f"on glomeruli of {unseen(material.config.few_shot)} that it had not seen. "
        f"{drawn_words(material.config.few_shot, int(best['runs']))}"
    ]
    sentences += _comparison_sentences(material, method, shots)
    auc = cells[method, shots, "macro_auc"]
    level = confidence(material)
    blocks: list[Block] = [
        KeyFigures(
            [
                (
                    "Balanced accuracy",
                    percent(best["mean"]),
                    f"{level} interval {percent_interval(best['lower'], best['upper'])}",
                ),
                ("Macro AUC", number(auc["mean"]), f"{number(auc['lower'])}–{number(auc['upper'])}"),
                ("Labelled per class", str(shots), f"of {listing(_shots(material))} tried"),
                ("Test slides", str(int(best["slides"])), f"{best['crops']:.0f} glomeruli in a run"),
            ]
        ),
        Prose(" ".join(sentences), lead=True),
    ]
    excluded = exclusion_sentences(material)
    if excluded and material.summary is None:
        blocks.append(Prose(" ".join(excluded)))
    title = "Summary" if material.summary is None else "Summary: glomeruli"
    return Section("glomeruli-summary", title, blocks)


def _shots(material: Material) -> list[str]:
    found = material.few_shot
    return [] if found is None else [str(value) for value in sorted(found.metrics["shots"].unique())]


def _mean(cells: dict[Any, Record], method: str, shots: int) -> float:
    return float(cells[method, shots, "balanced_accuracy"]["mean"])


def _comparison_sentences(material: Material, method: str, shots: int) -> list[str]:
    found = material.few_shot
    if found is None:
        return []
    rows: list[Record] = [
        row
        for row in tables.records(found.comparisons)
        if row["shots"] == shots and row["metric"] == "balanced_accuracy" and row["method"] == method
    ]
    cells = keyed(found.metrics, "method", "shots", "metric")
    sentences = []
    best = max((row["other"] for row in rows), key=lambda name: _mean(cells, name, shots), default="")
    for row in rows:
        if len(rows) > _TOLD and row["other"] not in {FLOOR, best}:
            continue
        other = cells[row["other"], shots, "balanced_accuracy"]
        said = verdict(row, 1 - material.config.evaluation.confidence, "slides")
        subject = method_means(material.config, row["other"])
        sentences.append(
            f"{subject[0].upper()}{subject[1:]} reached {percent(other['mean'])}: "
            f"a difference of {points_interval(*ends(row, 'difference'))}, "
            f"{p_text(row['p_holm'])} after adjustment. {said}"
        )
    return sentences


def _tuned(material: Material) -> str:
    """Says on what methods chose their settings."""
    few_shot, labels = material.config.few_shot, method_labels(material.config)
    selected = [labels[name] for name, model in few_shot.adapted.items() if model.selection == "validation"]
    if not selected:
        return "Nothing is tuned."
    return (
        f"{listing(selected)} chose epochs or settings on {percent(few_shot.validation_slide_fraction)} of "
        "the slides, which are neither trained nor tested on; nothing else is tuned."
    )


def few_shot_section(material: Material) -> Section | None:
    """Few-shot classification of lesions."""
    found = material.few_shot
    if found is None:
        return None
    settings, labels = material.config.few_shot, method_labels(material.config)
    blocks: list[Block] = [
        Prose(
            f"{split_words(settings)} {_tuned(material)} Brackets hold "
            f"{confidence(material)} intervals that resample slides and runs together, because glomeruli "
            "of a slide resemble each other."
        ),
        *figure(material, "few_shot_curves"),
        tables_few_shot.few_shot_table(found.metrics, labels),
    ]
    by_site = few_shot_sites_table(found.sites, method_labels(material.config))
    blocks += [by_site] if by_site else []
    if len(found.comparisons):
        blocks.append(tables_few_shot.few_shot_comparison_table(found.comparisons, labels))
    blocks += [
        Heading("Classes"),
        tables_few_shot.few_shot_recall_table(found.recalls, labels),
        *figure(material, "few_shot_confusion"),
        *_calibration(material, found),
        *_texts(material, found),
    ]
    return Section("few-shot", "Lesions from few labelled glomeruli", blocks)


def _calibration(material: Material, found: FewShotSummary) -> list[Block]:
    """How far probabilities can be believed, and what was selected."""
    labels = method_labels(material.config)
    blocks: list[Block] = [
        Heading("Calibration"),
        *figure(material, "few_shot_reliability"),
        tables_few_shot.few_shot_calibration_table(found.metrics, labels),
    ]
    trained = (
        None
        if material.geometry is None
        else tables_few_shot.few_shot_training_table(material.geometry, labels)
    )
    return blocks + ([] if trained is None else [trained])


def _texts(material: Material, found: FewShotSummary) -> list[Block]:
    """Images and texts: their common space, and patches beside texts."""
    space = tables_few_shot.few_shot_space_table(
        found.metrics, material.geometry, method_labels(material.config)
    )
    said = similarity_sentences(material.config, material.similarity)
    pictures = [
        picture
        for name in material.inputs.figures
        if name.startswith("similarity_maps-")
        and not material.similarity.get(name.partition("-")[2], {}).get("remark")
        for picture in figure(material, name, f"Backbone: {name.partition('-')[2]}.")
    ]
    blocks: list[Block] = [] if space is None else [space]
    blocks += [Prose(" ".join(said))] if said else []
    blocks += pictures
    return [Heading("Images and texts"), *blocks] if blocks else []
