"""Sections on the second task and on the search: stages of membranous nephropathy, chosen settings."""

from __future__ import annotations

from glomflow.report import tables_results
from glomflow.report.blocks import Block, Bullets, Prose, Section, Table
from glomflow.report.material import Material
from glomflow.report.numbers import count, number, percent, percent_interval
from glomflow.report.sections_data import figure
from glomflow.report.sections_diagnosis import confidence, favoured_sentences, models
from glomflow.report.tables import keyed, text


def stage_section(material: Material) -> Section | None:
    """The models that tell the stage of membranous nephropathy."""
    summary = material.stage_summary
    if summary is None:
        return None
    names = models(summary)
    first, cells = names[0], keyed(summary.pooled, "model", "metric")
    accuracy, kappa, error = (
        cells[first, name] for name in ("accuracy", "quadratic_kappa", "absolute_error")
    )
    patients = int(summary.models["patients"].iloc[0])
    opening = (
        f"Trained and tested on the {count(patients, 'patient')} with a stage, in the same folds. The model "
        f"{material.model_label(first)} told the stage of {percent(accuracy['value'])} "
        f"({confidence(material)} interval {percent_interval(accuracy['lower'], accuracy['upper'])}); "
        f"quadratic-weighted kappa {number(kappa['value'])} ({number(kappa['lower'])} to "
        f"{number(kappa['upper'])}), and it is off by {number(error['value'])} stages on average "
        f"({number(error['lower'])} to {number(error['upper'])})."
    )
    label = material.model_label
    blocks: list[Block] = [
        Prose(opening),
        tables_results.pooled_table(summary.pooled, summary.mean_sd, names, label),
        *figure(material, "stage_confusion"),
        tables_results.per_class_table(summary.per_class, first, "stage"),
    ]
    if len(names) > 1:
        blocks += [
            *figure(material, "stage_ablation"),
            tables_results.ablation_table(
                summary.pooled, summary.comparisons, names, label, material.parameters
            ),
            Prose(" ".join(favoured_sentences(material, summary))),
        ]
    missing = material.missing_curve("stage")
    if missing is not None:
        blocks.append(tables_results.missing_table(missing, label))
    return Section("stage", "Stages of membranous nephropathy", blocks)


def search_section(material: Material) -> Section | None:
    """The settings that the search chose in each fold."""
    found = material.searches
    if not found:
        return None
    search = material.config.diagnosis.search
    chosen = [one for one in found if not one["reason"]]
    keys = list(dict.fromkeys(key for one in chosen for key in one["chosen"]))
    rows = [
        (
            one["model"],
            str(one["fold"]),
            *(_value(one["chosen"].get(key)) for key in keys),
            number(one["loss"], 3),
            number(one["configured_loss"], 3),
        )
        for one in chosen
    ]
    blocks: list[Block] = [
        Prose(
            f"For every model and fold, {count(search.trials, 'setting')} were tried (the first as "
            "configured, the others as suggested by trees of Parzen estimators), each judged by its mean "
            f"validation loss over {search.inner_splits} inner folds of the training and validation "
            "patients. No test patient took part."
        )
    ]
    if rows:
        blocks.append(
            Table(
                caption="Settings chosen, and their inner loss beside that of the configured settings.",
                headers=("model", "fold", *keys, "loss", "loss as configured"),
                rows=rows,
            )
        )
    reasons = {one["model"]: one["reason"] for one in found if one["reason"]}
    if reasons:
        blocks.append(
            Bullets([(str(model), f"not searched: {reason}.") for model, reason in reasons.items()])
        )
    return Section("search", "Settings chosen by search", blocks)


def _value(value: float | None) -> str:
    return text(value) if value is None or isinstance(value, int) else f"{value:.3g}"
