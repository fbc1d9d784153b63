"""The configuration: one pydantic model per section.

The models generate ``docs/config.md`` and ``schema/config.schema.json`` (see
:mod:`glomflow.config_docs`); :mod:`glomflow.config_check` turns a failed validation into advice.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Name, Section
from glomflow.config_few_shot import FINE_TUNED, TEXT_FREE, AdaptationMethod, Adapted, FewShot
from glomflow.config_imaging import GlomerulusCrops, Imaging, ImCrops, Ingest, Stain, TemTiles
from glomflow.config_models import Cmsa, Encoder, Loss, Model, Smil, TabularKinds
from glomflow.config_training import Explanations, Folds, Search, Training
from glomflow.config_vlm import Vlm

DEFAULT_ENCODER = "default"
"""Name of the section ``encoder`` among the encoders."""

__all__ = [
    "FINE_TUNED",
    "TEXT_FREE",
    "AdaptationMethod",
    "Adapted",
    "Cmsa",
    "Encoder",
    "Explanations",
    "FewShot",
    "Folds",
    "GlomerulusCrops",
    "ImCrops",
    "Ingest",
    "Loss",
    "Model",
    "Search",
    "Smil",
    "Stain",
    "TemTiles",
    "Training",
]

STAGES = ("I", "II", "III")
"""Stages of membranous nephropathy, the classes of the task ``stage``."""


class Run(Section):
    """What to run, where the results go, and how the work is cut into jobs."""

    results: str = Field("results", description="Folder that everything is written to.")
    tracks: list[Literal["diagnosis", "glomeruli"]] = Field(
        ["diagnosis"],
        min_length=1,
        description="`diagnosis`: one label per patient (CMUS-Net). `glomeruli`: one lesion label per "
        "glomerulus from few labelled examples.",
    )
    seed: int = Field(2026, ge=0, description="Seed of folds, training and intervals.")
    shards: Annotated[int, Field(ge=1, le=10_000)] = Field(
        2,
        description="Groups of patients that image jobs run on. Keep it fixed once a cohort is running: "
        "a patient's shard depends on it. For a cohort that will have 1,000 patients 40, for 10,000 200, for "
        "100,000 1000 ([scale.md](scale.md)).",
    )
    strict: bool = Field(
        False, description="Stop at the first image that cannot be used, instead of reporting it at the end."
    )
    offline: bool = Field(
        True,
        description="Never reach for the internet: weights come from files or packages, and images that the "
        "sheets give addresses for have to be there.",
    )
    container: str | None = Field(
        None,
        description="Container image that jobs run in with `--sdm apptainer`: a `.sif` file or an address "
        "such as `docker://registry/glomflow:0.1.0`, see docs/environments.md.",
    )


class Cohort(Section):
    """Where patients and images come from."""

    source: Literal["phantom", "sheets", "crops"] = Field(
        "phantom",
        description="`phantom`: the synthetic cohort that the workflow draws itself. `sheets`: "
        "`patients.csv` and `images.csv` in `folder`. `crops`: a folder of ready-made glomerulus crops "
        "with a `labels.csv`.",
    )
    folder: str | None = Field(
        None,
        description="Folder of the sheets and the images; needed for `sheets` and `crops`. "
        "`s3://bucket/path` is read from a bucket ([storage.md](storage.md)).",
    )
    patients: str = Field("patients.csv", description="Sheet of patients, in `folder` (source `sheets`).")
    images: str = Field("images.csv", description="Sheet of images, in `folder` (source `sheets`).")
    labels: str = Field("labels.csv", description="Sheet of labelled crops, in `folder` (source `crops`).")
    classes: list[Name] = Field(
        ["IgAN", "MN", "LN"],
        min_length=2,
        description="The labels, in the order of the model's outputs. With `crops`: the lesion classes.",
    )
    allow_anisotropic: bool = Field(False, description="Accept images whose pixels are not square.")

    @model_validator(mode="after")
    def _folder_is_named(self) -> Self:
        if self.source != "phantom" and not self.folder:
            raise ValueError(
                f"cohort.folder is needed with source: {self.source}; add 'folder: path/to/cohort'"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("cohort.classes names a class twice; keep one of them")
        return self


class Phantom(Section):
    """The synthetic cohort; used with `cohort.source: phantom` only."""

    patients: Annotated[int, Field(ge=6)] = Field(60, description="Patients, spread evenly over the classes.")
    glomeruli: tuple[Count, Count] = Field((4, 10), description="Fewest and most glomeruli in an OM field.")
    tem_images: tuple[Count, Count] = Field((3, 12), description="Fewest and most TEM images of a patient.")
    missing_modality: int = Field(3, ge=0, description="Patients who lack one modality.")
    damaged_files: int = Field(3, ge=0, description="Image files that are damaged on purpose.")
    bare_fields: int = Field(
        0, ge=0, description="OM fields without outlines, for the finder; theirs lie in `truth/OM`."
    )
    seed: int = Field(7, ge=0, description="Seed of the cohort, apart from the seed of the analysis.")


class Diagnosis(Section):
    """The CMUS-Net track."""

    models: dict[Name, Model] = Field(
        {"cmus_net": Model()},
        min_length=1,
        description="Models by name; the others are compared with the first. Models in a file laid over "
        "`config.yaml` replace all of its own.",
    )
    loss: Loss = Field(Loss(), description="The weighted loss.")
    training: Training = Field(Training(), description="Optimisation.")
    search: Search = Field(Search(), description="Hyper-parameter search.")
    explanations: Explanations = Field(Explanations(), description="What predictions rest on.")

    def loss_of(self, model: str) -> Loss:
        """Returns the loss that a model is trained with."""
        return self.models[model].loss or self.loss

    def models_of(self, task: str) -> dict[str, Model]:
        """Returns the models of a task by name; its others are compared with its first."""
        return {name: model for name, model in self.models.items() if model.task == task}

    def partial_of(self, task: str) -> list[str]:
        """Returns the networks of a task that see several modalities, so that some can be missing."""
        return [
            name
            for name, model in self.models_of(task).items()
            if len(model.modalities) > 1 and model.kind not in TabularKinds
        ]

    @property
    def tasks(self) -> list[str]:
        """The tasks of the models, in the order of their first model."""
        return list(dict.fromkeys(model.task for model in self.models.values()))

    @property
    def explained(self) -> list[str]:
        """The models whose predictions are explained; none unless explanations are enabled."""
        if not self.explanations.enabled:
            return []
        return list(self.explanations.models) or list(self.models)[:1]

    @model_validator(mode="after")
    def _explained_models_have_maps(self) -> Self:
        for name in self.explained:
            if name not in self.models:
                raise ValueError(
                    f"diagnosis.explanations.models: there is no model '{name}'; the models are "
                    f"{', '.join(self.models)}"
                )
            if self.models[name].kind in TabularKinds:
                raise ValueError(
                    f"diagnosis.explanations.models: '{name}' is a {self.models[name].kind} on pooled "
                    "features, which have no place in an image; name models of other kinds"
                )
        return self


class Evaluation(Section):
    """Metrics and intervals."""

    bootstrap: Annotated[int, Field(ge=100)] = Field(2000, description="Bootstrap resamples of patients.")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="Level of the intervals.")
    ece_bins: Count = Field(15, description="Bins of the expected calibration error.")
    missing_curve: bool = Field(
        True,
        description="Predict test patients from every subset of their modalities as well: accuracy over the "
        "rate of missing modalities.",
    )


class Report(Section):
    """The report."""

    title: str = Field("Renal biopsy classification", description="Heading of the report.")
    examples: Count = Field(12, description="Crops and tiles shown per contact sheet and class.")


class Config(Section):
    """The whole configuration."""

    run: Run = Field(Run(), description="What to run and where.")
    cohort: Cohort = Field(Cohort(), description="Patients and images.")
    phantom: Phantom = Field(Phantom(), description="The synthetic cohort.")
    imaging: Imaging = Field(Imaging(), description="From images to crops.")
    folds: Folds = Field(Folds(), description="Cross-validation.")
    encoder: Encoder = Field(Encoder(), description="The image encoder.")
    encoders: dict[Name, Encoder] = Field(
        {},
        description="Further encoders by name, for `diagnosis.models.NAME.encoders` and "
        "`vlm.backbones.NAME.encoder`.",
    )
    diagnosis: Diagnosis = Field(Diagnosis(), description="CMUS-Net track.")
    few_shot: FewShot = Field(FewShot(), description="Glomerulus track.")
    vlm: Vlm = Field(Vlm(), description="Vision-language models of the glomerulus track.")
    evaluation: Evaluation = Field(Evaluation(), description="Metrics and intervals.")
    report: Report = Field(Report(), description="The report.")

    def encoder_name(self, model: Model, modality: str) -> str:
        """Returns the name of the encoder of a model's modality; 'default' is the section ``encoder``."""
        return model.encoders.get(modality, DEFAULT_ENCODER)  # type: ignore[call-overload,no-any-return]

    def encoder_named(self, name: str) -> Encoder:
        """Returns an encoder by its name; 'default' is the section ``encoder``."""
        return self.encoder if name == DEFAULT_ENCODER else self.encoders[name]

    def encoder_of(self, model: Model, modality: str) -> Encoder:
        """Returns the encoder of a model's modality."""
        return self.encoder_named(self.encoder_name(model, modality))

    def is_frozen(self, model: Model) -> bool:
        """Tells whether a model's encoders are frozen, so that cached features take the place of crops."""
        return all(self.encoder_of(model, name).trainable == "none" for name in model.modalities)

    def classes_of(self, task: str) -> list[str]:
        """Returns the classes of a task in the order of the models' outputs."""
        return list(STAGES) if task == "stage" else list(self.cohort.classes)

    @model_validator(mode="after")
    def _encoders_are_known(self) -> Self:
        if DEFAULT_ENCODER in self.encoders:
            raise ValueError(
                f"encoders.{DEFAULT_ENCODER}: this name stands for the section 'encoder'; choose another name"
            )
        for name, model in self.diagnosis.models.items():
            for modality, encoder in model.encoders.items():
                if encoder != DEFAULT_ENCODER and encoder not in self.encoders:
                    known = ", ".join([DEFAULT_ENCODER, *self.encoders])
                    raise ValueError(
                        f"diagnosis.models.{name}.encoders.{modality}: '{encoder}' is not among encoders "
                        f"({known}); add it there or correct the name"
                    )
        return self

    @model_validator(mode="after")
    def _backbones_are_known(self) -> Self:
        for name, model in self.few_shot.adapted.items():
            if model.backbone not in self.vlm.backbones:
                raise ValueError(
                    f"few_shot.adapted.{name}.backbone: '{model.backbone}' is not among vlm.backbones "
                    f"({', '.join(self.vlm.backbones)}); add it there or correct the name"
                )
            backbone = self.vlm.backbones[model.backbone]
            if not backbone.has_text and model.method not in TEXT_FREE:
                raise ValueError(
                    f"few_shot.adapted.{name}.method: {model.method} compares images with texts, and the "
                    f"backbone {model.backbone} (library timm) has no text tower; choose "
                    f"{', '.join(TEXT_FREE[:-1])} or {TEXT_FREE[-1]}, or a backbone with a text tower"
                )
        return self

    @model_validator(mode="after")
    def _encoders_of_backbones_are_known(self) -> Self:
        known = [DEFAULT_ENCODER, *self.encoders]
        for name, backbone in self.vlm.backbones.items():
            if not backbone.has_text and backbone.encoder not in known:
                raise ValueError(
                    f"vlm.backbones.{name}.encoder: '{backbone.encoder}' is not among encoders "
                    f"({', '.join(known)}); add it there or correct the name"
                )
        return self

    @model_validator(mode="after")
    def _tabular_models_have_features(self) -> Self:
        for name, model in self.diagnosis.models.items():
            for modality in model.modalities if model.kind in TabularKinds else ():
                if self.encoder_of(model, modality).trainable != "none":
                    encoder = self.encoder_name(model, modality)
                    section = "encoder" if encoder == DEFAULT_ENCODER else f"encoders.{encoder}"
                    raise ValueError(
                        f"diagnosis.models.{name}.kind: {model.kind} is fitted to cached features, but the "
                        f"encoder of {modality} is trained; set {section}.trainable: none, or name a frozen "
                        f"encoder in diagnosis.models.{name}.encoders"
                    )
        return self

    @model_validator(mode="after")
    def _encoders_of_a_model_are_trained_alike(self) -> Self:
        for name, model in self.diagnosis.models.items():
            frozen = {some: self.encoder_of(model, some).trainable == "none" for some in model.modalities}
            if len(set(frozen.values())) > 1:
                still = next(some for some, is_still in frozen.items() if is_still)
                moving = next(some for some, is_still in frozen.items() if not is_still)
                raise ValueError(
                    f"diagnosis.models.{name}.encoders: that of {still} ({self.encoder_name(model, still)}) "
                    f"is frozen and that of {moving} ({self.encoder_name(model, moving)}) is trained; a "
                    "model reads either cached features or crops: give both trainable: none, or both last or "
                    "all"
                )
            if self.diagnosis.training.stain_augmentation > 0.0 and frozen.get("OM"):
                encoder = self.encoder_name(model, "OM")
                key = "encoder" if encoder == DEFAULT_ENCODER else f"encoders.{encoder}"
                raise ValueError(
                    "diagnosis.training.stain_augmentation: the frozen encoder's features are cached, so "
                    f"that OM crops of the model {name} cannot be recoloured; set {key}.trainable to last or "
                    "all, or stain_augmentation to 0"
                )
        return self

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> Self:
        if self.cohort.source == "crops" and "diagnosis" in self.run.tracks:
            raise ValueError(
                "run.tracks: ready-made crops (cohort.source: crops) carry no diagnosis; "
                "use 'tracks: [glomeruli]'"
            )
        if self.folds.protocol == "published" and self.diagnosis.training.selection == "validation_loss":
            raise ValueError(
                "diagnosis.training.selection: validation_loss needs validation patients, which the "
                "published split (folds.protocol: published) does not have; set 'selection: last'"
            )
        if "glomeruli" in self.run.tracks and self.imaging.stain.fitted_per_fold:
            raise ValueError(
                "imaging.stain.target: training_folds fits colours per diagnosis fold, but the glomeruli "
                "track draws its own splits; use 'tracks: [diagnosis]' or another target"
            )
        if self.cohort.source == "phantom" and sorted(self.cohort.classes) != ["IgAN", "LN", "MN"]:
            raise ValueError(
                "cohort.classes: the phantom cohort draws IgAN, MN and LN; leave the classes as they are"
            )
        return self
