"""Sections of the configuration for the glomerulus track: shots, draws and adapted models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Name, Positive, Section

AdaptationMethod = Literal[
    "zero_shot",
    "linear_probe",
    "classifier",
    "clip_adapter",
    "tip_adapter",
    "tip_adapter_f",
    "clap",
    "coop",
    "vanilla",
    "lora",
    "clip_lora",
    "adapter",
]

FINE_TUNED = ("vanilla", "lora", "clip_lora", "adapter")
"""The adaptation methods that change the towers; the others read features of frozen towers."""

TEXT_FREE = ("linear_probe", "classifier", "tip_adapter", "tip_adapter_f")
"""The adaptation methods that can do without a text tower."""


class Adapted(Section):
    """A vision-language model and how it is adapted to few labelled glomeruli."""

    backbone: Name = Field("phantom", description="One of `vlm.backbones`.")
    method: AdaptationMethod = Field(description="How it is adapted; see [vlm-methods.md](vlm-methods.md).")
    preset: str = Field(
        "default", description="Settings by name; `published` are those of the method's authors or the paper."
    )
    settings: dict[str, Any] = Field({}, description="Settings that differ from the preset.")
    selection: Literal["fixed", "validation"] = Field(
        "fixed",
        description="`fixed`: a recipe that looks at no other labels than the shots. `validation`: epochs or "
        "settings are chosen on further labelled slides (`validation_slide_fraction`).",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic of the towers of methods that fine-tune them: `bfloat16` is faster where the "
        "processor has it and few blocks are trained (measure it: [vlm-methods.md](vlm-methods.md), Speed), "
        "and moves probabilities by about 0.01.",
    )

    @model_validator(mode="after")
    def _precision_is_of_towers(self) -> Self:
        if self.precision != "float32" and self.method not in FINE_TUNED:
            raise ValueError(
                f"precision: {self.method} fine-tunes no tower and is computed in float64; leave it out, or "
                f"choose one of {', '.join(FINE_TUNED)}"
            )
        return self


class FewShot(Section):
    """The glomerulus track: learning from few labelled glomeruli."""

    classes: list[str] | None = Field(
        None, description="Lesion classes; empty: every class that the annotations name."
    )
    shots: list[Annotated[int, Field(ge=0)]] = Field(
        [1, 2, 4, 8, 16],
        min_length=1,
        description="Labelled crops per class. 0 is for `zero_shot`, which runs there anyway; methods that "
        "learn leave it out.",
    )
    nested: bool = Field(
        True,
        description="`true`: fewer shots are part of more, so that a curve over shots adds crops. `false`: "
        "every number of shots has crops of its own, as far as a class goes.",
    )
    runs: Count = Field(10, description="Draws of slides and shots; with `leave_one_site_out`, of each site.")
    protocol: Literal["slides", "leave_one_site_out"] = Field(
        "slides",
        description="`slides`: training slides are drawn, the others are tested. `leave_one_site_out`: each "
        "site is tested in turn; shots and validation slides are of the other sites.",
    )
    hold_out_sites: list[str] = Field(
        [], description="`leave_one_site_out`: the sites that are tested in turn; empty: all of them."
    )
    train_slide_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5,
        description="Share of slides that shots are drawn from; the other slides are the test set "
        "(protocol `slides`).",
    )
    validation_slide_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="Share of slides that validation crops come from, taken off the test slides, or with "
        "`leave_one_site_out` off those of the other sites; for `selection: validation` only.",
    )
    draws: Literal["redrawn", "pool"] = Field(
        "redrawn",
        description="`redrawn`: every run splits the slides anew. `pool` (published): slides are split once, "
        "and the runs take other shots of one pool, disjoint as far as it goes.",
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
    adapted: dict[Name, Adapted] = Field(
        {},
        description="Adapted vision-language models by name; they run on the same draws as `methods`.",
    )
    ensembles: dict[Name, list[str]] = Field(
        {},
        description="Ensembles by name: methods and adapted models whose log probabilities are averaged, "
        "each with the same say, such as `both: [probe, colour_texture]`.",
    )

    @property
    def names(self) -> list[str]:
        """Methods and adapted models, in the order of the tables; the first is compared with the others."""
        return [*self.methods, *self.adapted, *self.ensembles]

    @model_validator(mode="after")
    def _ensembles_have_members(self) -> Self:
        known = [*self.methods, *self.adapted]
        for name, members in self.ensembles.items():
            if name in known:
                raise ValueError(f"ensembles.{name}: '{name}' is a method or a model as well; rename it")
            stray = [member for member in members if member not in known]
            if stray:
                raise ValueError(
                    f"ensembles.{name}: '{stray[0]}' is not among methods and adapted "
                    f"({', '.join(known)}); "
                    "add it there or correct the name"
                )
            if len(set(members)) < 2 or len(set(members)) < len(members):
                raise ValueError(f"ensembles.{name}: name two or more different methods or adapted models")
            frozen = [m for m in members if m in self.adapted and self.adapted[m].method == "zero_shot"]
            if frozen and len(frozen) < len(members):
                raise ValueError(
                    f"ensembles.{name}: {frozen[0]} has 0 shots and the others have more; take it out"
                )
        return self

    @model_validator(mode="after")
    def _adapted_can_be_run(self) -> Self:
        for name, model in self.adapted.items():
            if name in self.methods:
                raise ValueError(f"adapted.{name}: '{name}' is one of methods as well; name it otherwise")
            if model.selection == "validation" and not self.validation_slide_fraction:
                raise ValueError(
                    f"adapted.{name}.selection: validation needs labelled slides to select on; set "
                    "validation_slide_fraction, or selection: fixed"
                )
        if self.protocol == "slides" and self.train_slide_fraction + self.validation_slide_fraction >= 1.0:
            raise ValueError(
                f"validation_slide_fraction: {self.validation_slide_fraction} and train_slide_fraction "
                f"{self.train_slide_fraction} leave no slide to test on; lower one"
            )
        return self

    @model_validator(mode="after")
    def _draws_can_be_made(self) -> Self:
        if not any(self.shots):
            raise ValueError(
                f"shots: with 0 alone {', '.join(self.methods)} can learn nothing; add 1 or more "
                "(zero_shot runs at 0 whatever the shots are)"
            )
        if self.hold_out_sites and self.protocol == "slides":
            raise ValueError(
                "hold_out_sites: protocol slides holds no site out; set protocol: leave_one_site_out, or "
                "take hold_out_sites out"
            )
        for key, names in (("classes", self.classes or []), ("hold_out_sites", self.hold_out_sites)):
            if len(set(names)) < len(names):
                raise ValueError(f"{key}: {', '.join(names)}: one stands there twice; keep one of them")
        return self
