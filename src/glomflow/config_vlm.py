"""The sections of the configuration on vision-language models: backbones, labels, pretraining."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Fraction, Name, Positive, Section

Preset = Literal["phantom", "five_lesion", "sclerosis_stage"]
Template = Annotated[str, Field(pattern=r"\{\}")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]

_SOURCES = {
    "open_clip": r"pretrained:\S+|file:.+|hub:[\w.-]+/[\w.-]+|phantom|random",
    "transformers": r"file:.+|hub:[\w.-]+/[\w.-]+",
}
_NEEDS_ARCHITECTURE = ("pretrained", "file", "random")


class VlmBackbone(Section):
    """A model with an image and a text tower, or an image encoder alone."""

    library: Literal["open_clip", "transformers", "timm"] = Field(
        "open_clip",
        description="`open_clip`: CLIP, CoCa and what follows their layout. `transformers`: models of the "
        "Hugging Face CLIP format, such as PLIP. `timm`: an image encoder without a text tower, for methods "
        "that need no text.",
    )
    encoder: Name = Field(
        "default",
        description="With `timm`: `default`, which is the section `encoder`, or one of `encoders`.",
    )
    stride: Count | None = Field(
        None,
        description="With `timm`: the feature map whose cells are so many pixels apart, such as 16; empty: "
        "the last.",
    )
    disc: Annotated[float, Field(gt=0.0, le=1.5)] | None = Field(
        0.8,
        description="With `timm`: radius of the disc in the middle of the crop over which the map is "
        "averaged, in halves of the crop's edge; empty: the whole crop.",
    )
    symmetries: bool = Field(
        False,
        description="With `timm`: average over the eight turned and mirrored views of a crop, since a "
        "glomerulus has no orientation; eight times the work.",
    )
    architecture: str | None = Field(
        None,
        description="open_clip's name, such as `ViT-B-16-quickgelu`, or the path of a JSON file of its "
        "format. Empty for `hub:`, whose repository says, for `phantom` and with `transformers`.",
    )
    weights: str = Field(
        "phantom",
        description="`phantom`: trained here on captioned phantom glomeruli (`vlm.pretraining`). "
        "`pretrained:<tag>`: open_clip's own, from its cache or the internet. `file:<path>`: a safetensors "
        "file or a checkpoint of tensors only; with `transformers` the model's folder. "
        "`hub:<owner>/<name>`: a repository of the Hugging Face hub. `random`: none.",
    )
    sha256: Sha256 | None = Field(None, description="Digest that the file of the weights must have.")
    tokenizer: str | None = Field(
        None,
        description="Folder of another tokenizer, in the format of transformers; empty: the model's own.",
    )
    access: str | None = Field(
        None, description="A sentence that is shown where the weights are missing: how to get them."
    )

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower that images can be compared with."""
        return self.library != "timm"

    @property
    def pools_maps(self) -> bool:
        """Whether it pools the feature maps that are computed for every encoder, and encodes nothing."""
        return not self.has_text and self.stride is None and not self.symmetries

    @property
    def is_phantom(self) -> bool:
        """Whether it is the small model that the workflow trains."""
        return self.has_text and self.weights == "phantom"

    @model_validator(mode="after")
    def _weights_fit_the_library(self) -> Self:
        if self.library == "timm":
            self._check_encoder()
            return self
        if not re.fullmatch(_SOURCES[self.library], self.weights):
            known = {
                "open_clip": "pretrained:<tag>, file:<path>, hub:<owner>/<name>, phantom, random",
                "transformers": "file:<folder>, hub:<owner>/<name>",
            }[self.library]
            raise ValueError(f"weights: '{self.weights}' is not one of {known} (library {self.library})")
        source = self.weights.partition(":")[0]
        if self.library == "transformers" and self.architecture is not None:
            raise ValueError("architecture: models of transformers carry their own; take architecture out")
        if self.library == "open_clip":
            if source in _NEEDS_ARCHITECTURE and self.architecture is None:
                raise ValueError(
                    f"architecture is needed with weights {source}; add open_clip's name, such as "
                    "'architecture: ViT-B-16-quickgelu', or the path of a JSON file"
                )
            if source == "phantom" and self.architecture is not None:
                raise ValueError(
                    "architecture: weights phantom have that of vlm.pretraining; take architecture out"
                )
        return self

    def _check_encoder(self) -> None:
        given = {"architecture": self.architecture, "sha256": self.sha256, "tokenizer": self.tokenizer}
        given["weights"] = None if self.weights == "phantom" else self.weights
        for key, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{key}: with library timm the model is a section of encoders; take {key} out and set "
                    "encoder to the section's name, or to default for the section 'encoder'"
                )


class LabelClass(Section):
    """What is said of one class; its prompts are `prompts`, and `templates` filled with `synonyms`."""

    name: str | None = Field(None, description="Name for reports; empty: the class itself.")
    prompts: list[str] = Field([], description="Whole sentences.")
    synonyms: list[str] = Field([], description="Words that every template is filled with.")


class LabelSet(Section):
    """The classes of glomeruli and their prompts."""

    preset: Preset | None = Field(
        "phantom",
        description="Classes and prompts that come with glomflow. `phantom`: the lesions of the phantom. "
        "`five_lesion`, `sclerosis_stage`: the two published label sets (Glo-VLMs). Empty: only `classes`.",
    )
    classes: dict[str, LabelClass] = Field(
        {},
        description="Classes, named as the annotations or the sheet name them. With a preset: added to it, "
        "or in place of its class of that name.",
    )
    templates: list[Template] = Field(
        ["{}"], min_length=1, description="Sentences with `{}` where a synonym goes."
    )
    folder: str | None = Field(
        None,
        description="Folder with a text file per class, `<class>.txt` (spaces as `_`): one prompt per line, "
        "`#` begins a comment. In place of the prompts above.",
    )

    @model_validator(mode="after")
    def _classes_are_there(self) -> Self:
        if self.preset is None and not self.classes:
            raise ValueError(
                "classes: there are none; name a preset (phantom, five_lesion, sclerosis_stage) or classes"
            )
        return self


class VlmPretraining(Section):
    """Training of a small model on captioned phantom glomeruli, for `weights: phantom`."""

    patients: Count = Field(72, description="Phantom patients that it learns from; they are in no cohort.")
    glomeruli: Annotated[int, Field(ge=5)] = Field(25, description="Glomeruli of each, lesions by turns.")
    held_out_patients: Count = Field(
        24, description="Further patients that its zero-shot accuracy is measured on."
    )
    image_size: Annotated[int, Field(ge=32, le=512)] = Field(96, description="Edge of its images, px.")
    patch_size: Count = Field(16, description="Edge of a patch, px; divides `image_size`.")
    width: Annotated[int, Field(multiple_of=32)] = Field(
        128, ge=32, description="Width of the image tower; 32 per attention head."
    )
    layers: Count = Field(4, description="Blocks of the image tower.")
    text_width: Annotated[int, Field(multiple_of=32)] = Field(
        128, ge=32, description="Width of the text tower; 32 per attention head."
    )
    text_layers: Count = Field(2, description="Blocks of the text tower.")
    context_length: Annotated[int, Field(ge=16)] = Field(32, description="Most tokens of a prompt.")
    embedding: Count = Field(128, description="Length of the embeddings.")
    epochs: Count = Field(12, description="Passes over the glomeruli.")
    batch_size: Annotated[int, Field(ge=2)] = Field(60, description="Images and captions per step.")
    learning_rate: Positive = Field(1e-3, description="AdamW's highest learning rate.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.05, description="AdamW's weight decay.")
    stain: Annotated[float, Field(ge=0.0, le=3.0)] = Field(
        1.5, description="Strength of random changes of stain, in optical density."
    )
    word_dropout: Annotated[Fraction, Field(lt=1.0)] = Field(
        0.3, description="Share of a caption's words that a step leaves out, so that wordings count less."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of its patients and of its training.")

    @model_validator(mode="after")
    def _patches_fill_the_image(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size: {self.patch_size} does not divide image_size {self.image_size}; choose another"
            )
        if self.batch_size > self.patients * self.glomeruli:
            raise ValueError(
                f"batch_size: {self.batch_size} is more than the {self.patients * self.glomeruli} glomeruli; "
                "lower it"
            )
        return self


class Vlm(Section):
    """Vision-language models of the glomerulus track; `few_shot.adapted` says how they are adapted."""

    backbones: dict[Name, VlmBackbone] = Field(
        {"phantom": VlmBackbone()}, description="Models by name; those not used are not made."
    )
    labels: LabelSet = Field(LabelSet(), description="Classes and prompts.")
    pretraining: VlmPretraining = Field(
        VlmPretraining(), description="The small model of `weights: phantom`."
    )
    batch_size: Count = Field(16, description="Images per forward pass of frozen towers.")
    umap: bool = Field(
        False,
        description="Lay test images and class texts out by UMAP as well (needs `pip install umap-learn`; "
        "seconds per run).",
    )
