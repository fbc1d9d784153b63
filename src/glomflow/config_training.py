"""The sections of the configuration on splits, optimisation, search and explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Positive, Section

Range = tuple[Positive, Positive]


class Folds(Section):
    """Cross-validation: every patient is a test patient exactly once per repeat."""

    protocol: Literal["nested", "leave_one_site_out", "published"] = Field(
        "nested",
        description="`nested`: stratified folds, and within each a validation set for early stopping and "
        "hyper-parameters. `leave_one_site_out`: each site is the test fold once. `published`: unstratified "
        "KFold(shuffle, seed 10) without validation patients.",
    )
    n_splits: Annotated[int, Field(ge=2)] = Field(5, description="Outer folds (not `leave_one_site_out`).")
    repeats: Count = Field(
        1, description="How often the patients are dealt afresh into `n_splits` folds (`nested` only)."
    )
    sites: list[str] = Field(
        [], description="`leave_one_site_out`: the sites, each a fold; empty: all sites of the sheet."
    )
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        0.2, description="Share of the patients outside the test fold that are held out for model selection."
    )
    stratify_by_site: bool = Field(
        True, description="Spread sites over the folds where their numbers allow it."
    )

    def count(self, sites: Sequence[str]) -> int:
        """Returns the number of outer folds, repeats included.

        Args:
            sites: The sites of the cohort; they count for ``leave_one_site_out`` alone.
        """
        return len(sites) if self.protocol == "leave_one_site_out" else self.n_splits * self.repeats

    def repeat_of(self, fold: int) -> int:
        """Returns the repeat that an outer fold belongs to."""
        return fold // self.n_splits if self.protocol == "nested" else 0

    @property
    def least_patients(self) -> int:
        """Fewest patients that a class may have."""
        return 2 if self.protocol == "leave_one_site_out" else self.n_splits

    @model_validator(mode="after")
    def _repeats_are_dealt(self) -> Self:
        if self.repeats > 1 and self.protocol != "nested":
            raise ValueError(
                f"folds.repeats: protocol {self.protocol} has one way to split only; set repeats: 1"
            )
        return self


class Training(Section):
    """Optimisation, the same for all models of the track."""

    epochs: Count = Field(40, description="Most epochs.")
    batch_size: Count = Field(4, description="Patients per step.")
    accumulate: Count = Field(
        1, description="Parts that a step's patients are cut into, to save memory; the step stays the same."
    )
    optimiser: Literal["adam", "adamw", "sgd"] = Field("adam", description="Optimiser (published: adam).")
    learning_rate: Positive = Field(5e-5, description="Learning rate at the start of the cosine.")
    final_learning_rate: Positive = Field(5e-6, description="Learning rate at the end of the cosine.")
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="Epochs over which the learning rate rises to `learning_rate`."
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(5e-5, description="Weight decay.")
    amsgrad: bool = Field(True, description="Adam and AdamW with amsgrad (published).")
    gradient_clip: Positive | None = Field(None, description="Largest norm of a step's gradient.")
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="Decay per step of an exponential moving average of the weights; the average is what is "
        "judged and kept.",
    )
    flips: bool = Field(True, description="Random flips of training images; needs a trainable encoder.")
    stain_augmentation: Annotated[float, Field(ge=0.0, le=3.0)] = Field(
        0.0,
        description="Random changes of stain of OM training crops; 1 spans about what slides of one "
        "laboratory differ by. Needs a trainable encoder.",
    )
    selection: Literal["validation_loss", "last"] = Field(
        "validation_loss", description="Which epoch's weights are kept. Test patients are never looked at."
    )
    patience: Count | None = Field(
        None, description="Stop after so many epochs without a better one (`validation_loss` only)."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Arithmetic of the forward pass on a GPU; the CPU uses float32."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute the encoder's activations backwards: less memory, more time."
    )
    auto_batch: bool = Field(
        True,
        description="Out of GPU memory: cut each step into twice as many parts and go on.",
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        1, description="Threads that read crops ahead of the training; 0: none. Results do not depend on it."
    )
    cache_gb: Annotated[float, Field(ge=0.0)] = Field(
        2.0, description="Frozen features up to this size are kept in memory; larger ones are streamed."
    )
    devices: Count = Field(1, description="GPUs of one node that share a training (torchrun).")
    tensorboard: bool = Field(
        False, description="Write scalars for TensorBoard below `checkpoints/`; needs the extra."
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="Seeds; each model and fold is trained with each."
    )

    @model_validator(mode="after")
    def _patience_is_heard(self) -> Self:
        if self.patience is not None and self.selection == "last":
            raise ValueError(
                "diagnosis.training.patience: selection last keeps the last epoch and never stops early; "
                "take patience out or set selection: validation_loss"
            )
        return self

    @model_validator(mode="after")
    def _training_outlasts_the_warmup(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"diagnosis.training.warmup_epochs: {self.warmup_epochs} of {self.epochs} epochs leave none "
                f"at the full learning rate; lower it below {self.epochs} or raise epochs"
            )
        return self


class Search(Section):
    """Hyper-parameter search, within the training patients of each outer fold."""

    trials: Annotated[int, Field(ge=0)] = Field(
        0, description="Settings that are tried per model and fold; 0: no search."
    )
    inner_splits: Annotated[int, Field(ge=2)] = Field(
        3, description="Inner folds of the training and validation patients that settings are judged on."
    )
    learning_rate: Range | None = Field(None, description="Range of `training.learning_rate`, log-uniform.")
    weight_decay: Range | None = Field(None, description="Range of `training.weight_decay`, log-uniform.")
    dropout: tuple[float, float] | None = Field(None, description="Range of the model's `dropout`.")
    modality_dropout: tuple[float, float] | None = Field(
        None, description="Range of the model's `modality_dropout`."
    )
    hidden: list[Count] | None = Field(None, description="Choices of the model's `hidden`.")
    threshold: Range | None = Field(None, description="Range of the model's `smil.threshold`.")

    @property
    def space(self) -> dict[str, object]:
        """The keys that are searched, with their ranges or choices."""
        keys = ("learning_rate", "weight_decay", "dropout", "modality_dropout", "hidden", "threshold")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}

    @model_validator(mode="after")
    def _space_is_sound(self) -> Self:
        if self.trials and not self.space:
            raise ValueError(
                "diagnosis.search.trials: there is nothing to search; give a range, such as "
                "'learning_rate: [0.00001, 0.001]', or set trials: 0"
            )
        for key, value in self.space.items():
            if isinstance(value, tuple) and value[0] >= value[1]:
                raise ValueError(
                    f"diagnosis.search.{key}: [{value[0]}, {value[1]}] is no range; the smaller number first"
                )
        for key in ("dropout", "modality_dropout"):
            value = getattr(self, key)
            if value is not None and not 0.0 <= value[0] < value[1] < 1.0:
                raise ValueError(
                    f"diagnosis.search.{key}: a range within 0 to 1 is needed, such as [0.1, 0.6]"
                )
        return self


class Explanations(Section):
    """What each prediction rests on, as data and as figures."""

    enabled: bool = Field(False, description="Explain the first model's test predictions.")
    models: list[str] = Field([], description="Models to explain; empty: the first.")
    attribution: Literal["grad_cam", "integrated_gradients"] = Field(
        "grad_cam",
        description="Maps over OM, IM and TEM. `grad_cam`: on the encoder's feature maps (Selvaraju 2017). "
        "`integrated_gradients`: the same by path integration (Sundararajan 2017).",
    )
    steps: Count = Field(32, description="Steps of integrated gradients, and of deletion and insertion.")
    examples: Count = Field(6, description="Patients drawn in the report.")
    randomised: Count = Field(
        1, description="Random re-initialisations that the maps are compared with (sanity check)."
    )
