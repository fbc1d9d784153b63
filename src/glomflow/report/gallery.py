"""Every figure of the report by its name, drawn from the files of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pandas as pd
from matplotlib.figure import Figure

from glomflow.config import STAGES, Config
from glomflow.errors import GlomflowError
from glomflow.evaluation.detection_summary import ALL_FOLDS
from glomflow.evaluation.explanations_files import read_maps
from glomflow.evaluation.instances import TILES
from glomflow.imaging.crop_store import read_store
from glomflow.report import (
    examples,
    examples_explanations,
    examples_finder,
    examples_quality,
    examples_similarity,
    figures_explanations,
    figures_few_shot,
    figures_finder,
    figures_images,
    figures_metrics,
    figures_similarity,
)
from glomflow.report.material import Material, ReportInputs, Store, read_tables
from glomflow.report.sections_data import lesion_classes
from glomflow.report.words_few_shot import method_labels
from glomflow.tables import INSTANCES, PREDICTIONS, read_table
from glomflow.tables_explanations import CONTRIBUTIONS

T = TypeVar("T")


def draw_figure(name: str, inputs: ReportInputs, config: Config) -> Figure:
    """Draws a figure of the report.

    Args:
        name: One of :data:`MAKERS`, or of :data:`MAKERS_OF` with a hyphen and of what it is to be.
        inputs: The files; a figure needs some of them only.
        config: The configuration that they were made with.

    Returns:
        The figure, to be saved with :func:`glomflow.report.style.save_figure`.

    Raises:
        GlomflowError: The name is unknown, or a file that the figure needs is not among the inputs.
    """
    kind, _, part = name.partition("-")
    if kind in MAKERS_OF and part:
        return MAKERS_OF[kind](Material(inputs, config), part)
    if name not in MAKERS:
        raise GlomflowError(
            f"report: there is no figure '{name}'; known are {', '.join(sorted([*MAKERS, *MAKERS_OF]))}"
        )
    return MAKERS[name](Material(inputs, config))


def _needed(value: T | None, what: str) -> T:
    if value is None:
        raise GlomflowError(f"report: this figure needs {what}, which is not among the inputs")
    return value


def _stores(pairs: Sequence[Store]) -> list[examples.Store]:
    return [read_store(*pair) for pair in pairs]


def _seed(material: Material, figure: int) -> int:
    return 1000 * material.config.run.seed + figure


def _cohort_overview(material: Material) -> Figure:
    return figures_metrics.cohort_overview(
        _needed(material.patients, "the table of patients"),
        _needed(material.inventory, "the inventory"),
        material.config.cohort.classes,
    )


def _worst_images(material: Material) -> Figure:
    inventory = _needed(material.inventory, "the inventory")
    folder = _needed(material.inputs.thumbnails, "the folder of thumbnails")
    settings = material.config.imaging.quality
    groups = examples_quality.worst_images(inventory, folder, settings, 6)
    return figures_images.contact_sheet(groups, beside=True)


def _stain_panels(material: Material) -> Figure:
    patients = _needed(material.patients, "the table of patients")
    known = patients.dropna(subset=["site"])
    known = known if known["site"].nunique() > 1 else known.head(0)
    pairs = examples.stain_examples(
        _stores(material.inputs.om_store),
        _needed(material.inventory, "the inventory"),
        dict(zip(known["patient"], known["site"], strict=True)),
        _needed(material.inputs.cohort_folder, "the cohort folder"),
        12,
        seed=_seed(material, 1),
    )
    return figures_images.stain_panels(pairs)


def _class_sheet(material: Material, pairs: Sequence[Store], figure: int) -> Figure:
    groups = examples.class_examples(
        _stores(pairs),
        _needed(material.patients, "the table of patients"),
        material.config.cohort.classes,
        material.config.report.examples,
        seed=_seed(material, figure),
    )
    return figures_images.contact_sheet(groups)


def _lesions(material: Material) -> Figure:
    groups = examples.lesion_examples(
        _stores(material.inputs.om_store),
        lesion_classes(material),
        material.config.report.examples,
        seed=_seed(material, 5),
    )
    return figures_images.contact_sheet(groups)


def _training_curves(material: Material) -> Figure:
    histories = _needed(material.histories, "histories of training")
    models = [name for name in material.config.diagnosis.models if name in set(histories["model"])]
    return figures_metrics.training_curves(histories, models, {name: name for name in models})


def _of_first(material: Material, frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["model"] == material.first_model]


def _missing_curve(material: Material) -> Figure:
    missing = _needed(material.missing_curve("disease"), "the table of missing modalities")
    names = {name: material.model_label(name) for name in missing["model"].unique()}
    return figures_metrics.missing_curve(missing, names, chance=1 / len(material.config.cohort.classes))


def _stage_confusion(material: Material) -> Figure:
    summary = _needed(material.stage_summary, "the summary of the stage models")
    first = summary.confusion["model"].iloc[0]
    rows = summary.confusion[summary.confusion["model"] == first]
    return figures_metrics.confusion_matrix(rows, STAGES, truth="stage")


def _stage_ablation(material: Material) -> Figure:
    summary = _needed(material.stage_summary, "the summary of the stage models")
    models = [str(model) for model in summary.models["model"]]
    labels = {model: material.model_label(model) for model in models}
    return figures_metrics.ablation(summary.pooled, models, labels, chance=1 / len(STAGES))


def _confusion_matrix(material: Material) -> Figure:
    summary = _needed(material.summary, "the summary of the evaluation")
    return figures_metrics.confusion_matrix(
        _of_first(material, summary.confusion), material.config.cohort.classes
    )


def _roc_curves(material: Material) -> Figure:
    summary = _needed(material.summary, "the summary of the evaluation")
    per_class = _of_first(material, summary.per_class)
    areas = dict(zip(per_class["class"], per_class["auc"], strict=True))
    return figures_metrics.roc_curves(_of_first(material, summary.roc), material.config.cohort.classes, areas)


def _reliability(material: Material) -> Figure:
    summary = _needed(material.summary, "the summary of the evaluation")
    pooled = _of_first(material, summary.pooled).set_index("metric")["value"]
    return figures_metrics.reliability(_of_first(material, summary.calibration), float(pooled["ece"]))


def _ablation(material: Material) -> Figure:
    summary = _needed(material.summary, "the summary of the evaluation")
    known = summary.models.dropna(subset=["ceiling"])
    models = [str(model) for model in summary.models["model"]]
    return figures_metrics.ablation(
        summary.pooled,
        models,
        {model: material.model_label(model) for model in models},
        ceilings=dict(zip(known["model"], known["ceiling"], strict=True)),
        chance=1 / len(material.config.cohort.classes),
    )


def _instance_panels(material: Material) -> Figure:
    inputs = material.inputs
    predictions = [read_table(path, PREDICTIONS, open_ended=True) for path in inputs.predictions]
    instances = _needed(read_tables(inputs.instances, INSTANCES), "the tables of instances")
    instances = instances[instances["modality"] == "TEM"]
    weighted = [name for name in material.config.diagnosis.models if name in set(instances["model"])]
    if not weighted:
        raise GlomflowError("report: no model weights TEM tiles; leave the figure 'instance_panels' out")
    panels = examples.instance_examples(
        _stores(inputs.tem_store),
        instances,
        _needed(material.patients, "the table of patients"),
        weighted[0],
        material.config.cohort.classes,
        seed=_seed(material, 6),
        truth=None if inputs.deposit_tiles is None else read_table(inputs.deposit_tiles, TILES),
        folder=inputs.cohort_folder,
        predictions=pd.concat(predictions, ignore_index=True) if predictions else None,
    )
    return figures_images.instance_panels(panels)


def _explained(material: Material) -> str:
    names = material.config.diagnosis.explained
    if not names:
        raise GlomflowError("report: no model is explained; set diagnosis.explanations.enabled: true")
    return names[0]


def _explanation_panels(material: Material) -> Figure:
    inputs, config = material.inputs, material.config
    model = _explained(material)
    maps, index = read_maps(*zip(*inputs.explanation_maps, strict=True))
    contributions = _needed(
        read_tables(inputs.explanation_contributions, CONTRIBUTIONS), "the tables of contributions"
    )
    index, contributions = index[index["model"] == model], contributions[contributions["model"] == model]
    patients = _needed(material.patients, "the table of patients")
    label = "stage" if config.diagnosis.models[model].task == "stage" else "label"
    stores = {"OM": inputs.om_store, "IM": inputs.im_store, "TEM": inputs.tem_store}
    deposits = None
    if material.phantom is not None and "TEM" in material.crops:
        deposits = examples_explanations.tile_masks(
            index,
            material.crops["TEM"],
            _needed(material.inventory, "the inventory"),
            material.phantom,
            _needed(inputs.cohort_folder, "the cohort folder"),
            config.imaging.tem.size,
        )
    panels = examples_explanations.explanation_examples(
        maps,
        index,
        contributions,
        {name: _stores(pairs) for name, pairs in stores.items()},
        dict(zip(patients["patient"], patients[label], strict=True)),
        config.diagnosis.explanations.examples,
        deposits=deposits,
    )
    return figures_explanations.explanation_panels(panels)


def _explanation_checks(material: Material) -> Figure:
    found = _needed(material.explanation_checks, "the checks of explanations")
    model = _explained(material)
    checks, curves = found.summary, found.curves
    return figures_explanations.explanation_checks(
        checks[(checks["model"] == model) & (checks["group"] == "all")], curves[curves["model"] == model]
    )


def _explanation_contributions(material: Material) -> Figure:
    found = _needed(material.explanation_checks, "the checks of explanations")
    model = _explained(material)
    classes = material.config.classes_of(material.config.diagnosis.models[model].task)
    return figures_explanations.explanation_contributions(
        found.by_class[found.by_class["model"] == model], classes
    )


def _few_shot_curves(material: Material) -> Figure:
    found = _needed(material.few_shot, "the few-shot summary")
    names = method_labels(material.config)
    return figures_few_shot.few_shot_curves(
        found.metrics, names, chance=1 / found.confusion["true"].nunique()
    )


def _few_shot_reliability(material: Material) -> Figure:
    found = _needed(material.few_shot, "the few-shot summary")
    names = method_labels(material.config)
    return figures_few_shot.few_shot_reliability(found.calibration, found.metrics, names)


def _similarity_maps(material: Material, backbone: str) -> Figure:
    if backbone not in material.similarity:
        raise GlomflowError(
            f"report: this figure needs the maps of {backbone}, which are not among the inputs"
        )
    place = list(material.similarity).index(backbone)
    maps, index = examples_similarity.read_similarity(*material.inputs.similarity_maps[place])
    stores = _stores(material.inputs.om_store)
    return figures_similarity.similarity_panels(examples_similarity.panels(maps, index, stores))


def _few_shot_confusion(material: Material) -> Figure:
    found = _needed(material.few_shot, "the few-shot summary")
    method = str(found.metrics["method"].iloc[0])
    rows = found.confusion[found.confusion["method"] == method]
    rows = rows[rows["shots"] == rows["shots"].max()]
    classes = list(rows["true"].unique())
    return figures_metrics.confusion_matrix(rows, classes, truth="lesion")


def _finder_outlines(material: Material) -> Figure:
    panels = examples_finder.outline_examples(
        _needed(material.finder, "the finder's evaluation"),
        _needed(material.inventory, "the inventory"),
        _needed(material.inputs.cohort_folder, "the cohort folder"),
    )
    return figures_finder.outline_panels(panels)


def _finder_precision_recall(material: Material) -> Figure:
    found = _needed(material.finder, "the finder's evaluation")
    pooled = found.metrics[found.metrics["fold"] == ALL_FOLDS].set_index("metric")["value"]
    return figures_finder.finder_precision_recall(found.curve, {0.5: float(pooled["ap50"])})


def _finder_counts(material: Material) -> Figure:
    return figures_finder.finder_counts(_needed(material.finder, "the finder's evaluation").counts)


MAKERS: dict[str, Callable[[Material], Figure]] = {
    "cohort_overview": _cohort_overview,
    "worst_images": _worst_images,
    "stain_panels": _stain_panels,
    "finder_outlines": _finder_outlines,
    "finder_precision_recall": _finder_precision_recall,
    "finder_counts": _finder_counts,
    "crops_om": lambda material: _class_sheet(material, material.inputs.om_store, 2),
    "crops_im": lambda material: _class_sheet(material, material.inputs.im_store, 3),
    "crops_tem": lambda material: _class_sheet(material, material.inputs.tem_store, 4),
    "lesions": _lesions,
    "training_curves": _training_curves,
    "confusion_matrix": _confusion_matrix,
    "roc_curves": _roc_curves,
    "reliability": _reliability,
    "ablation": _ablation,
    "missing_curve": _missing_curve,
    "stage_confusion": _stage_confusion,
    "stage_ablation": _stage_ablation,
    "instance_panels": _instance_panels,
    "explanation_panels": _explanation_panels,
    "explanation_checks": _explanation_checks,
    "explanation_contributions": _explanation_contributions,
    "few_shot_curves": _few_shot_curves,
    "few_shot_confusion": _few_shot_confusion,
    "few_shot_reliability": _few_shot_reliability,
}
"""What draws each figure; the names are those of :data:`glomflow.report.captions.FIGURES`."""

MAKERS_OF: dict[str, Callable[[Material, str], Figure]] = {"similarity_maps": _similarity_maps}
"""What draws a figure of something that the end of its name tells: ``similarity_maps-<backbone>``."""
