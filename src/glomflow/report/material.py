"""What a report is made of, read when it is first asked for; what is absent is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from glomflow.cohort.folds import eligible_patients
from glomflow.config import Config
from glomflow.costs import JOB_COSTS
from glomflow.errors import GlomflowError
from glomflow.evaluation.detection_summary import FinderSummary
from glomflow.evaluation.explanations import Checks
from glomflow.evaluation.few_shot_summary import FewShotSummary
from glomflow.evaluation.instances import HITS
from glomflow.evaluation.missing import MISSING
from glomflow.evaluation.summary import Summary
from glomflow.files import read_json
from glomflow.tables import (
    CROPS,
    FOLDS,
    GEOMETRY,
    INVENTORY,
    MODALITIES,
    PATIENTS,
    STAIN_PROFILES,
    Schema,
    read_table,
)

Store = tuple[Path, Path]
"""A crop store: the memory map and its index."""


@dataclass(frozen=True)
class ReportInputs:
    """Files of a report; a section appears where its files are given.

    The figures read some files that the page does not; where only the page is built they may be absent.

    Attributes:
        patients: PATIENTS table.
        inventory: INVENTORY table of all shards.
        stain_profiles: STAIN_PROFILES tables, one per shard.
        om_store: Stores of glomerulus crops, one per shard; the page reads their indexes only.
        im_store: Stores of immunofluorescence crops.
        tem_store: Stores of TEM tiles.
        folds: FOLDS table.
        folds_json: JSON beside it, with its digest.
        histories: Model, fold, seed and history table of every training.
        summary_dir: Folder of the summary of the diagnosis models.
        stage_dir: Folder of the summary of the stage models.
        missing: MISSING tables by task.
        trained: JSON of one training of each model.
        searches: JSON of each search.
        predictions: PREDICTIONS tables (figures only).
        instances: INSTANCES tables (figures only).
        deposit_hits: HITS table of the evaluation (phantom only).
        deposit_tiles: TILES table of the evaluation (phantom, figures only).
        phantom: ``phantom.json``.
        few_shot_dir: Folder of the few-shot summary.
        few_shot_json: JSON with the digest of the draws of slides and shots.
        few_shot_geometry: GEOMETRY tables of adapted models.
        similarity: JSON on the maps of patches and texts of each backbone.
        similarity_maps: Maps and index of each of these backbones (figures only).
        finder_dir: Folder of the glomerulus finder's evaluation.
        explanation_maps: Memory map and index of each explain job (figures only).
        explanation_contributions: CONTRIBUTIONS tables (figures only).
        explanations_dir: Folder of the checks of explanations.
        costs: JOB_COSTS table.
        figures: Figure files by name, see :data:`glomflow.report.captions.FIGURES`.
        cohort_folder: Folder that paths of images and masks are relative to (figures only).
        thumbnails: Folder that thumbnails are relative to (figures only).
        revision: Revision of the workflow's code, if known.
    """

    patients: Path | None = None
    inventory: Path | None = None
    stain_profiles: Sequence[Path] = ()
    om_store: Sequence[Store] = ()
    im_store: Sequence[Store] = ()
    tem_store: Sequence[Store] = ()
    folds: Path | None = None
    folds_json: Path | None = None
    histories: Sequence[tuple[str, int, int, Path]] = ()
    summary_dir: Path | None = None
    stage_dir: Path | None = None
    missing: Mapping[str, Path] = field(default_factory=dict)
    trained: Sequence[Path] = ()
    searches: Sequence[Path] = ()
    predictions: Sequence[Path] = ()
    instances: Sequence[Path] = ()
    deposit_hits: Path | None = None
    deposit_tiles: Path | None = None
    phantom: Path | None = None
    few_shot_dir: Path | None = None
    few_shot_json: Path | None = None
    few_shot_geometry: Sequence[Path] = ()
    similarity: Sequence[Path] = ()
    similarity_maps: Sequence[Store] = ()
    finder_dir: Path | None = None
    explanation_maps: Sequence[Store] = ()
    explanation_contributions: Sequence[Path] = ()
    explanations_dir: Path | None = None
    costs: Path | None = None
    figures: Mapping[str, Path] = field(default_factory=dict)
    cohort_folder: Path | None = None
    thumbnails: Path | None = None
    revision: str | None = None


def read_histories(histories: Sequence[tuple[str, int, int, Path]]) -> pd.DataFrame:
    """Joins the histories of all trainings.

    Args:
        histories: Model, fold, seed and history table of every training.

    Returns:
        The rows of all tables with the columns model, fold and seed before their own.

    Raises:
        GlomflowError: A table lacks the column ``epoch``.
    """
    frames = []
    for model, fold, seed, path in histories:
        frame = pd.read_parquet(path)
        if "epoch" not in frame:
            raise GlomflowError(f"history {path}: has no column 'epoch'; train this fold again")
        frame = frame.drop(columns=["model", "fold", "seed"], errors="ignore")
        frames.append(
            pd.DataFrame({"model": model, "fold": fold, "seed": seed}, index=frame.index).join(frame)
        )
    return pd.concat(frames, ignore_index=True)


def read_tables(paths: Sequence[Path], schema: Schema) -> pd.DataFrame | None:
    """Joins the tables of all shards; None if there are none."""
    if not paths:
        return None
    return pd.concat([read_table(path, schema) for path in paths], ignore_index=True)


class Material:
    """The contents of a report's inputs.

    Args:
        inputs: The files.
        config: The configuration that they were made with.
    """

    def __init__(self, inputs: ReportInputs, config: Config) -> None:
        self.inputs = inputs
        self.config = config

    @cached_property
    def patients(self) -> pd.DataFrame | None:
        """PATIENTS rows."""
        return None if self.inputs.patients is None else read_table(self.inputs.patients, PATIENTS)

    @cached_property
    def inventory(self) -> pd.DataFrame | None:
        """INVENTORY rows."""
        return None if self.inputs.inventory is None else read_table(self.inputs.inventory, INVENTORY)

    @cached_property
    def excluded_patients(self) -> pd.DataFrame | None:
        """Patients without a usable image: patient, reason."""
        if self.patients is None or self.inventory is None:
            return None
        return eligible_patients(self.patients, self.inventory)[1]

    @cached_property
    def stain_profiles(self) -> pd.DataFrame | None:
        """STAIN_PROFILES rows."""
        return read_tables(self.inputs.stain_profiles, STAIN_PROFILES)

    @cached_property
    def crops(self) -> dict[str, pd.DataFrame]:
        """CROPS rows by modality, where there are any."""
        stores = (self.inputs.om_store, self.inputs.im_store, self.inputs.tem_store)
        frames = {
            modality: read_tables([index for _, index in pairs], CROPS)
            for modality, pairs in zip(MODALITIES, stores, strict=True)
        }
        return {modality: frame for modality, frame in frames.items() if frame is not None and len(frame)}

    @cached_property
    def folds(self) -> pd.DataFrame | None:
        """FOLDS rows."""
        return None if self.inputs.folds is None else read_table(self.inputs.folds, FOLDS)

    @cached_property
    def histories(self) -> pd.DataFrame | None:
        """History rows of all trainings."""
        return read_histories(self.inputs.histories) if self.inputs.histories else None

    @cached_property
    def summary(self) -> Summary | None:
        """The summary of the diagnosis models."""
        return None if self.inputs.summary_dir is None else Summary.read(self.inputs.summary_dir)

    @cached_property
    def stage_summary(self) -> Summary | None:
        """The summary of the stage models."""
        return None if self.inputs.stage_dir is None else Summary.read(self.inputs.stage_dir)

    def missing_curve(self, task: str) -> pd.DataFrame | None:
        """Returns the MISSING rows of a task."""
        path = self.inputs.missing.get(task)
        return None if path is None else read_table(path, MISSING)

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Trained parameters of each model for which they are known."""
        found = [read_json(path) for path in self.inputs.trained]
        return {
            str(one["model_name"]): int(one["trained_parameters"])
            for one in found
            if "trained_parameters" in one
        }

    @cached_property
    def searches(self) -> list[dict[str, Any]]:
        """What each search chose."""
        return [read_json(path) for path in self.inputs.searches]

    @cached_property
    def few_shot(self) -> FewShotSummary | None:
        """The few-shot summary."""
        folder = self.inputs.few_shot_dir
        return None if folder is None else FewShotSummary.read(folder)

    @cached_property
    def geometry(self) -> pd.DataFrame | None:
        """GEOMETRY rows of adapted models."""
        return read_tables(self.inputs.few_shot_geometry, GEOMETRY)

    @cached_property
    def similarity(self) -> dict[str, dict[str, Any]]:
        """What is told of the maps of patches and texts, by backbone."""
        found = [read_json(path) for path in self.inputs.similarity]
        return {str(one["backbone"]): one for one in found}

    @cached_property
    def finder(self) -> FinderSummary | None:
        """The glomerulus finder's evaluation."""
        folder = self.inputs.finder_dir
        return None if folder is None else FinderSummary.read(folder)

    @cached_property
    def explanation_checks(self) -> Checks | None:
        """The checks of explanations."""
        folder = self.inputs.explanations_dir
        return None if folder is None else Checks.read(folder)

    @cached_property
    def deposit_hits(self) -> pd.DataFrame | None:
        """HITS rows."""
        return None if self.inputs.deposit_hits is None else read_table(self.inputs.deposit_hits, HITS)

    @cached_property
    def costs(self) -> pd.DataFrame | None:
        """JOB_COSTS rows."""
        return None if self.inputs.costs is None else read_table(self.inputs.costs, JOB_COSTS)

    @cached_property
    def phantom(self) -> dict[str, Any] | None:
        """The phantom cohort's rules and truth."""
        if self.inputs.phantom is None:
            return None
        truth: dict[str, Any] = read_json(self.inputs.phantom)
        return truth

    @property
    def is_phantom(self) -> bool:
        """Whether the images were drawn by the workflow itself."""
        return self.config.cohort.source == "phantom"

    @property
    def first_model(self) -> str:
        """The diagnosis model that the others are compared with."""
        return next(iter(self.config.diagnosis.models_of("disease")))

    def model_label(self, model: str) -> str:
        """Returns a model's name with its modalities: ``cmus_net (OM + IM + TEM)``."""
        settings = self.config.diagnosis.models.get(model)
        if settings is None:
            return model
        seen = " + ".join(name for name in MODALITIES if name in settings.modalities)
        return f"{model} ({seen})"
