"""The rules of the workflow in words: the stage that each belongs to, and what a job of it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

STAGES = {
    "cohort": "Cohort",
    "images": "Opening images",
    "finder": "Finding glomeruli",
    "colours": "Stains and colours",
    "crops": "Cutting crops",
    "folds": "Folds",
    "features": "Encoding crops",
    "search": "Searching settings",
    "training": "Training",
    "prediction": "Prediction",
    "evaluation": "Evaluation",
    "explanations": "Explanations",
    "few_shot": "Few labelled glomeruli",
    "report": "Figures and report",
    "other": "Other",
}
"""Title of each stage, in the order in which they run."""


@dataclass(frozen=True)
class RuleWords:
    """A rule in words.

    Attributes:
        stage: Key of :data:`STAGES`.
        does: What one job does; wildcards stand in braces.
    """

    stage: str
    does: str


RULES = {
    "phantom_sheets": RuleWords("cohort", "decide the phantom cohort"),
    "phantom_images": RuleWords("cohort", "draw phantom images"),
    "cohort": RuleWords("cohort", "check the sheets"),
    "cohort_shard": RuleWords("cohort", "list the images"),
    "fetch_images": RuleWords("images", "fetch images by their addresses"),
    "ingest": RuleWords("images", "open images"),
    "inventory": RuleWords("images", "gather the inventory"),
    "finder_fields": RuleWords("finder", "deal the annotated fields"),
    "train_glomerulus_finder": RuleWords("finder", "train the finder"),
    "find_glomeruli": RuleWords("finder", "search for glomeruli"),
    "finder_metrics": RuleWords("finder", "judge the finder"),
    "stain_profiles": RuleWords("colours", "estimate stain profiles"),
    "stain_targets": RuleWords("colours", "take the median stain"),
    "fold_stain_targets": RuleWords("colours", "fit stain targets"),
    "fold_im_levels": RuleWords("colours", "fit immunofluorescence levels"),
    "glomerulus_crops": RuleWords("crops", "cut glomeruli"),
    "im_crops": RuleWords("crops", "compose immunofluorescence crops"),
    "tem_tiles": RuleWords("crops", "tile electron micrographs"),
    "fold_om_crops": RuleWords("crops", "recolour glomeruli"),
    "fold_im_crops": RuleWords("crops", "level immunofluorescence crops"),
    "folds": RuleWords("folds", "deal the folds"),
    "features": RuleWords("features", "encode crops"),
    "search": RuleWords("search", "search settings of {model}"),
    "train": RuleWords("training", "train {model}"),
    "train_frozen": RuleWords("training", "train the models with frozen encoders"),
    "predict": RuleWords("prediction", "predict with {model}"),
    "predict_frozen": RuleWords("prediction", "predict with the models with frozen encoders"),
    "predict_subsets": RuleWords("prediction", "predict from every subset of modalities"),
    "metrics": RuleWords("evaluation", "compute metrics"),
    "missing_curve": RuleWords("evaluation", "compute accuracy against missing modalities"),
    "deposits": RuleWords("evaluation", "compare weights with the phantom's deposits"),
    "explain": RuleWords("explanations", "explain predictions of {model}"),
    "explanation_checks": RuleWords("explanations", "check explanations"),
    "pretrain_vlm": RuleWords("few_shot", "pretrain the phantom's vision-language model"),
    "few_shot_draws": RuleWords("few_shot", "draw labelled glomeruli"),
    "few_shot": RuleWords("few_shot", "classify glomeruli from features"),
    "vlm_prompts": RuleWords("few_shot", "check the prompts for {backbone}"),
    "vlm_features": RuleWords("few_shot", "encode glomeruli with {backbone}"),
    "few_shot_adapted": RuleWords("few_shot", "adapt {backbone}: {adapted}"),
    "vlm_similarity_maps": RuleWords("few_shot", "compare patches with the texts of {backbone}"),
    "few_shot_ensembles": RuleWords("few_shot", "average few-shot predictions"),
    "few_shot_metrics": RuleWords("few_shot", "compute few-shot metrics"),
    "figures_images": RuleWords("report", "draw images"),
    "figures_finder": RuleWords("report", "draw the finder's results"),
    "figures_diagnosis": RuleWords("report", "draw the diagnosis results"),
    "figures_instances": RuleWords("report", "draw the heaviest tiles"),
    "figures_explanations": RuleWords("report", "draw explanations"),
    "figures_few_shot": RuleWords("report", "draw the few-shot results"),
    "figures_similarity": RuleWords("report", "draw patches and texts"),
    "report": RuleWords("report", "write the report"),
}
"""Every rule with a log; a test compares them with the rules' files."""

_TITLED = ("task", "finder", "fold", "seed", "shard")


def stage_of(rule: str) -> str:
    """Returns the key of a rule's stage, ``other`` for a rule without words."""
    return RULES[rule].stage if rule in RULES else "other"


def job_words(rule: str, wildcards: Mapping[str, str]) -> str:
    """Says what a job does: ``train cmus_net, fold 2, seed 0``.

    Args:
        rule: Name of its rule.
        wildcards: Their values by name.
    """
    does = RULES[rule].does if rule in RULES else rule.replace("_", " ")
    said = set(re.findall(r"{(\w+)}", does))
    parts = [does.format_map({**dict.fromkeys(said, "?"), **wildcards})]
    if encoder := wildcards.get("encoder", "").rstrip("/"):
        parts.append(f"encoder {encoder}")
    if modality := wildcards.get("modality"):
        name, _, fold = modality.partition("_fold")
        parts.append(name.upper() + (f" of fold {fold}" if fold else ""))
    parts += [f"{name} {wildcards[name]}" for name in _TITLED if wildcards.get(name)]
    known = {*said, *_TITLED, "encoder", "modality"}
    parts += [f"{name} {value}" for name, value in wildcards.items() if name not in known and value]
    return ", ".join(parts)
