"""The files that a report job was given, as the report's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glomflow.report.material import ReportInputs, Store

Files = Mapping[str, str | Sequence[str]]
Run = tuple[str, int, int]
"""Model, fold and seed of a training."""

TASKS = ("disease", "stage")
SINGLE = ("patients", "inventory", "folds", "folds_json", "deposit_hits", "deposit_tiles", "phantom", "costs")


def inputs_from_files(
    files: Files,
    runs: Sequence[Run] = (),
    *,
    cohort_folder: Path | None = None,
    thumbnails: str | None = None,
    revision: str | None = None,
) -> ReportInputs:
    """Names a job's files.

    Args:
        files: Named inputs: those of :class:`ReportInputs` by their names; ``<modality>_crops`` and
            ``<modality>_index`` with a file per shard; ``metrics_disease``, ``metrics_stage``, ``few_shot``
            and ``finder``, the files of the summaries; ``missing_disease`` and ``missing_stage``;
            ``similarity_said``, ``similarity_maps`` and ``similarity_index`` with a file per backbone;
            ``explanation_maps`` and ``explanation_index`` with a file per job and ``explanation_checks``, the
            files of the checks; ``figures``, each called by its figure's name. What is absent or empty is
            left out.
        runs: Model, fold and seed of each of ``files["histories"]``.
        cohort_folder: Folder that paths of images are relative to.
        thumbnails: Folder that thumbnails are relative to.
        revision: Revision of the workflow's code.

    Returns:
        The report's inputs.
    """
    given = {name: _paths(value) for name, value in files.items()}
    given = {name: paths for name, paths in given.items() if paths}
    few_shot = given.get("few_shot_json")
    return ReportInputs(
        **{name: given[name][0] for name in SINGLE if name in given},
        stain_profiles=given.get("stain_profiles", ()),
        om_store=_stores(given, "om"),
        im_store=_stores(given, "im"),
        tem_store=_stores(given, "tem"),
        histories=[(*run, path) for run, path in zip(runs, given.get("histories", ()), strict=bool(runs))],
        summary_dir=_folder(given, "metrics_disease"),
        stage_dir=_folder(given, "metrics_stage"),
        missing={task: given[f"missing_{task}"][0] for task in TASKS if f"missing_{task}" in given},
        trained=given.get("trained", ()),
        searches=given.get("searches", ()),
        predictions=given.get("predictions", ()),
        instances=given.get("instances", ()),
        few_shot_dir=_folder(given, "few_shot"),
        few_shot_json=few_shot[0] if few_shot else None,
        few_shot_geometry=given.get("few_shot_geometry", ()),
        similarity=given.get("similarity_said", ()),
        similarity_maps=_paired(given, "similarity_maps", "similarity_index"),
        finder_dir=_folder(given, "finder"),
        explanation_maps=_paired(given, "explanation_maps", "explanation_index"),
        explanation_contributions=given.get("explanation_contributions", ()),
        explanations_dir=_folder(given, "explanation_checks"),
        figures={path.stem: path for path in given.get("figures", ())},
        cohort_folder=cohort_folder,
        thumbnails=Path(thumbnails) if thumbnails else None,
        revision=revision,
    )


def _paths(value: str | Sequence[str]) -> list[Path]:
    return [Path(value)] if isinstance(value, str) else [Path(path) for path in value]


def _folder(given: Mapping[str, list[Path]], name: str) -> Path | None:
    return given[name][0].parent if name in given else None


def _stores(given: Mapping[str, list[Path]], modality: str) -> list[Store]:
    return _paired(given, f"{modality}_crops", f"{modality}_index")


def _paired(given: Mapping[str, list[Path]], maps: str, index: str) -> list[Store]:
    return list(zip(given.get(maps, []), given.get(index, []), strict=True))
