"""Sections on what came out of the diagnosis track."""

from __future__ import annotations

from glomflow.config import Model
from glomflow.evaluation.summary import Summary
from glomflow.report import tables, tables_results
from glomflow.report.blocks import Block, Heading, KeyFigures, PictureRow, Prose, Section
from glomflow.report.material import Material
from glomflow.report.numbers import (
    count,
    listing,
    number,
    p_text,
    percent,
    percent_interval,
    points_interval,
    thousands,
)
from glomflow.report.sections_data import exclusion_sentences, figure, split_words
from glomflow.report.tables import Record, ends, keyed


def confidence(material: Material) -> str:
    """Returns the level of the intervals: ``95 %``."""
    return percent(material.config.evaluation.confidence)


def models(summary: Summary) -> list[str]:
    """Returns the models in the order of the configuration."""
    return [str(model) for model in summary.models["model"]]


def summary_section(material: Material) -> Section | None:
    """The outcome in one paragraph and a few numbers."""
    summary = material.summary
    if summary is None:
        return None
    cells = keyed(summary.pooled, "model", "metric")
    first = models(summary)[0]
    sentences = [
        _accuracy_sentence(material, cells[first, "accuracy"]),
        _other_metrics_sentence(cells, first),
        *_ceiling_sentences(cells[first, "accuracy"]),
        *_comparison_sentences(material, summary, cells),
        *_deposit_sentences(material, first),
    ]
    blocks: list[Block] = [_key_figures(material, cells, first), Prose(" ".join(sentences), lead=True)]
    excluded = exclusion_sentences(material)
    if excluded:
        blocks.append(Prose(" ".join(excluded)))
    return Section("summary", "Summary", blocks)


def _patients(material: Material) -> int:
    summary = material.summary
    return 0 if summary is None else int(summary.models["patients"].iloc[0])


def _key_figures(material: Material, cells: dict[tuple[str, ...], Record], first: str) -> KeyFigures:
    accuracy, auc, ece = (cells[first, name] for name in ("accuracy", "macro_auc", "ece"))
    level = confidence(material)
    beneath = f"{level} interval {percent_interval(accuracy['lower'], accuracy['upper'])}"
    return KeyFigures(
        [
            ("Accuracy", percent(accuracy["value"]), beneath),
            ("Macro AUC", number(auc["value"]), f"{number(auc['lower'])}–{number(auc['upper'])}"),
            ("Calibration error", number(ece["value"]), f"{number(ece['lower'])}–{number(ece['upper'])}"),
            ("Test patients", str(_patients(material)), split_words(material)),
        ]
    )


def _accuracy_sentence(material: Material, accuracy: Record) -> str:
    label = material.model_label(material.first_model)
    training, repeats = material.config.diagnosis.training, material.config.folds.repeats
    draws = [f"{len(training.seeds)} training seeds"] if len(training.seeds) > 1 else []
    draws += [f"{repeats} repeats of the cross-validation"] if repeats > 1 else []
    mean = f", as the mean of {listing(draws)}" if draws else ""
    classes = listing(list(material.config.cohort.classes), "or")
    return (
        f"The model {label} classified {percent(accuracy['value'])} of "
        f"{count(_patients(material), 'patient')} correctly as {classes} ({confidence(material)} interval "
        f"{percent_interval(accuracy['lower'], accuracy['upper'])}), each predicted by models that had not "
        f"seen the patient{mean}."
    )


def _other_metrics_sentence(cells: dict[tuple[str, ...], Record], first: str) -> str:
    auc, f1, ece = (cells[first, name] for name in ("macro_auc", "macro_f1", "ece"))
    return (
        f"The macro AUC is {_worded(auc)}, the macro F1 {_worded(f1)}; stated probabilities are off by "
        f"{number(ece['value'])} on average (expected calibration error)."
    )


def _worded(row: Record) -> str:
    return f"{number(row['value'])} ({number(row['lower'])} to {number(row['upper'])})"


def _ceiling_sentences(accuracy: Record) -> list[str]:
    if accuracy["ceiling"] != accuracy["ceiling"]:
        return []
    return [
        "By the rules that this cohort was drawn with, a perfect reader of the same modalities would be "
        f"right in {percent(accuracy['ceiling'])} "
        f"({percent(accuracy['realised_ceiling'])} on the patients drawn)."
    ]


def _comparison_sentences(
    material: Material, summary: Summary, cells: dict[tuple[str, ...], Record]
) -> list[str]:
    names = models(summary)
    rows = keyed(summary.comparisons, "other", "metric")
    settings = material.config.diagnosis.models
    single = [name for name in names[1:] if len(settings[name].modalities) == 1]
    rivals = single or names[1:]
    if not rivals:
        return []
    best = max(rivals, key=lambda name: float(cells[name, "accuracy"]["value"]))
    value, row = cells[best, "accuracy"]["value"], rows[best, "accuracy"]
    what = "The best model of a single modality" if single else "The best other model"
    points = points_interval(*ends(row, "difference"))
    return [
        f"{what}, {material.model_label(best)}, reached {percent(value)}: a difference of {points}, "
        f"{p_text(row['p_holm'])} after adjustment for all comparisons. "
        + verdict(row, 1 - material.config.evaluation.confidence),
        *favoured_sentences(material, summary),
    ]


def favoured_sentences(material: Material, summary: Summary) -> list[str]:
    """Says which other models are better than the first after adjustment, by how much, and what differs.

    Args:
        material: The report's material.
        summary: Summary of a task.
    """
    rows = keyed(summary.comparisons, "other", "metric")
    first, alpha = models(summary)[0], 1 - material.config.evaluation.confidence
    better = [
        (other, row)
        for other in models(summary)[1:]
        if (row := rows[other, "accuracy"])["p_holm"] < alpha and row["difference"] < 0
    ]
    if not better:
        return [f"No other model is more accurate than {first} by more than the choice of patients explains."]
    sentences = []
    for other, row in better:
        gain = points_interval(-row["difference"], -row["upper"], -row["lower"])
        text = f"{other} beats {first} by {gain}, {p_text(row['p_holm'])} after adjustment"
        found = differences(material, first, other)
        sentences.append(text + (f"; it has {listing(found)}." if found else "."))
    return sentences


_SHOWN = 4


def differences(material: Material, first: str, other: str) -> list[str]:
    """Lists in words how a model's settings and size differ from those of the first."""
    settings = material.config.diagnosis.models
    if first not in settings or other not in settings:
        return []
    pairs = zip(_flat(settings[first]).items(), _flat(settings[other]).values(), strict=True)
    found = [f"{key} {now} instead of {before}" for (key, before), now in pairs if now != before]
    if len(found) > _SHOWN:
        found = [*found[:_SHOWN], f"{len(found) - _SHOWN} other settings of its own"]
    sizes = material.parameters
    if first in sizes and other in sizes and sizes[first] != sizes[other]:
        found.append(f"{thousands(sizes[other])} trained weights instead of {thousands(sizes[first])}")
    return found


def _flat(model: Model) -> dict[str, str]:
    """Returns a model's settings as text by dotted key."""
    flat: dict[str, str] = {}
    for key, value in model.model_dump().items():
        if key in ("smil", "om_bag", "im_bag", "cmsa"):
            flat |= {f"{key}.{name}": str(inner) for name, inner in value.items()}
        else:
            flat[key] = " + ".join(value) if isinstance(value, list) else str(value)
    return flat


def verdict(row: Record, alpha: float, units: str = "patients") -> str:
    """Says what a paired comparison allows to say.

    Args:
        row: A row of the comparisons: difference and p_holm, the adjusted P value.
        alpha: Level of significance.
        units: What was sampled: patients or slides.
    """
    if not row["p_holm"] < alpha:
        return f"These {units} do not tell the two apart."
    if row["difference"] > 0:
        return f"The advantage is larger than the choice of {units} explains."
    return f"The disadvantage is larger than the choice of {units} explains."


def _deposit_sentences(material: Material, first: str) -> list[str]:
    hits = material.deposit_hits
    if hits is None:
        return []
    row = keyed(hits, "model", "measure").get((first, "top1"))
    if row is None:
        return []
    return [
        f"The TEM instance with the highest weight shows a deposit in {percent(row['value'])} "
        f"({percent_interval(row['lower'], row['upper'])}) of the patients whose instances show one at all; "
        f"a random instance would in {percent(row['chance'])}."
    ]


def results_section(material: Material) -> Section | None:
    """The first model in detail."""
    summary = material.summary
    if summary is None:
        return None
    first = models(summary)[0]
    level = confidence(material)
    small = [p for name in ("confusion_matrix", "roc_curves", "reliability") for p in figure(material, name)]
    blocks: list[Block] = [
        Prose(
            f"The model {material.model_label(first)} on patients that it was not trained on. Brackets hold "
            f"{level} intervals over patients."
        ),
        tables_results.pooled_table(summary.pooled, summary.mean_sd, models(summary), material.model_label),
    ]
    if small:
        blocks.append(PictureRow(small))
    blocks.append(tables_results.per_class_table(summary.per_class, first))
    blocks.append(tables_results.per_fold_table(summary.per_fold, summary.mean_sd, first))
    strata = tables_results.strata_table(summary.strata, first)
    if strata is not None:
        blocks.append(strata)
    return Section("results", "Results", blocks)


CEILINGS = "The marks are the ceilings that the modalities set by design."
DEPOSITS = "The true electron-dense deposits are outlined in orange."
"""What captions add for a phantom, whose truth is known."""


def ablation_section(material: Material) -> Section | None:
    """The models side by side: what each modality adds."""
    summary = material.summary
    if summary is None or len(summary.models) < 2:
        return None
    names = models(summary)
    blocks: list[Block] = [
        Prose(
            f"Every model was trained and tested on the same folds. {names[0]} is compared with each of the "
            "others on the same patients, so that a difference is not one of cohorts."
        ),
        *figure(material, "ablation", CEILINGS if material.is_phantom else ""),
        tables_results.ablation_table(
            summary.pooled, summary.comparisons, names, material.model_label, material.parameters
        ),
        Prose(" ".join(favoured_sentences(material, summary))),
    ]
    return Section("ablation", "Models compared", blocks)


def missing_section(material: Material) -> Section | None:
    """What is left of the accuracy when modalities are missing."""
    curve = figure(material, "missing_curve")
    missing = material.missing_curve("disease")
    if missing is None:
        return None
    blocks: list[Block] = [
        Prose(
            "Every test patient was predicted from every subset of the modalities at hand as well. From "
            "these follows what to expect when each modality is missing at some rate, independently of the "
            "others and of the diagnosis, and one at least is left. Where images are missing for a reason, "
            "the real loss may differ. The models were not trained again."
        ),
        *curve,
        tables_results.missing_table(missing, material.model_label),
    ]
    return Section("missing", "When modalities are missing", blocks)


def instances_section(material: Material) -> Section | None:
    """The electron micrographs that weigh most."""
    panels = figure(material, "instance_panels", DEPOSITS if material.is_phantom else "")
    hits = material.deposit_hits
    if hits is not None and hits.empty:
        hits = None
    if not panels and hits is None:
        return None
    blocks: list[Block] = [
        Prose(
            "A patient's electron micrographs enter as a bag of instances, each with a weight. A high weight "
            "says that the instance counted, not that it shows the disease"
            + ("." if hits is None else "; the table tells how far the two agree.")
        ),
        *panels,
    ]
    if hits is not None:
        blocks += [Heading("Weights and deposits"), tables_results.deposit_table(hits, material.model_label)]
        blocks.append(Prose(" ".join(_filter_sentences(material))))
    return Section("instances", "Electron micrographs with the highest weights", blocks)


def _filter_sentences(material: Material) -> list[str]:
    hits = material.deposit_hits
    sentences = []
    for row in [] if hits is None else tables.records(hits):
        settings = material.config.diagnosis.models.get(str(row["model"]))
        if row["measure"] != "kept" or settings is None:
            continue
        if settings.smil.variant == "sum":
            sentences.append(
                f"{row['model']} adds up instances with equal weight (SMIL sum): none stands out."
            )
            continue
        if row["excess_upper"] < 0:
            said = "it drops deposit instances more often than others, although they are what matters"
        elif row["excess_lower"] > 0:
            said = "it keeps deposit instances more often than others"
        else:
            said = "it does not clearly tell deposit instances from others"
        sentences.append(
            f"The filter of {row['model']} (SMIL distance) passes {percent(row['value'])} of the instances "
            f"with a deposit and {percent(row['chance'])} of the others: {said}."
        )
    return sentences
