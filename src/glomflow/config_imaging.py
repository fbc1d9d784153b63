"""The section ``imaging`` of the configuration: from images to crops."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Positive, Section
from glomflow.config_finder import Finder
from glomflow.config_quality import Quality


class Ingest(Section):
    """Reading images."""

    um_per_px: Positive | None = Field(
        None, description="OM and IM pixel size where neither sheet nor file tells it, µm/px."
    )
    nm_per_px: Positive | None = Field(
        None, description="TEM pixel size where neither sheet nor file tells it, nm/px."
    )
    thumbnail_px: Annotated[int, Field(ge=64, le=2048)] = Field(
        384, description="Longest edge of the thumbnails, px."
    )


class Stain(Section):
    """Stain normalisation of OM images: a profile per slide, applied when crops are read."""

    method: Literal["macenko", "reinhard", "none"] = Field("macenko", description="How colours are matched.")
    target: Literal["standard", "cohort_median", "reference"] = Field(
        "standard",
        description="`standard`: fixed published stain vectors and colour statistics, by the sheet's stain; "
        "no image of the cohort enters. `cohort_median`: the median of all slide profiles (uses no labels, "
        "but test slides too). `reference`: the profile of the image at `reference`.",
    )
    reference: str | None = Field(
        None, description="Image to match, for `target: reference`; relative to the cohort folder."
    )
    um_per_px: Positive = Field(
        1.0,
        description="Resolution that profiles are estimated at, µm/px. Coarser than 2, nuclei are averaged "
        "away and crops come out over-stained.",
    )
    tissue_od: Positive = Field(0.15, description="Optical density above which a pixel is tissue.")
    percentile: Annotated[float, Field(gt=0.0, lt=50.0)] = Field(
        1.0, description="Macenko: percentile of the angles that gives the two stain vectors."
    )
    min_tissue_pixels: Count = Field(
        200, description="With fewer tissue pixels than this, a slide passes through unchanged, with a flag."
    )

    @model_validator(mode="after")
    def _reference_is_named(self) -> Self:
        if self.target == "reference" and not self.reference:
            raise ValueError("imaging.stain.reference is needed with target: reference")
        return self


class GlomerulusCrops(Section):
    """Glomerulus crops from OM images."""

    size: Annotated[int, Field(ge=32, le=2048)] = Field(224, description="Edge of the square crops, px.")
    um_per_px: Positive = Field(1.0, description="Resolution of the crops, µm/px.")
    margin: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        0.15,
        description="Context around the outline, as a share of its longer edge. An outline that does "
        "not fit `size` at `um_per_px` is cropped at the coarser resolution that holds it.",
    )
    mask_background: bool = Field(False, description="Paint everything outside the outline white.")
    exclude_lesions: list[str] = Field(
        ["globally_sclerotic"],
        description="Lesion classes that are never chosen to represent a patient, where others exist: a "
        "globally sclerotic glomerulus no longer shows the disease.",
    )
    max_instances: Count = Field(
        1, description="Crops per patient for the diagnosis track, the most informative first."
    )


class ImCrops(Section):
    """Immunofluorescence crops."""

    size: Annotated[int, Field(ge=32, le=2048)] = Field(224, description="Edge of the square crops, px.")
    um_per_px: Positive | None = Field(
        None, description="Resolution, µm/px; empty: the largest centred square is scaled to `size`."
    )
    red: list[str] = Field(["IgG"], description="Markers shown in red (their mean).")
    green: list[str] = Field(["IgA"], description="Markers shown in green (their mean).")
    blue: list[str] = Field(["IgM", "C3", "C1q"], description="Markers shown in blue (their mean).")
    max_level: Positive = Field(
        0.5,
        description="Sample value shown at full brightness, as a share of the type's range. Fixed, not "
        "per image, because brightness is the finding.",
    )


class TemTiles(Section):
    """Tiles of electron micrographs."""

    instance: Literal["tile", "image"] = Field(
        "tile",
        description="`tile`: tiles at a stated nm/px. `image`: each image less its bar, resized (published).",
    )
    size: Annotated[int, Field(ge=32, le=2048)] = Field(224, description="Edge of the square tiles, px.")
    nm_per_px: Positive = Field(20.0, description="Resolution of the tiles, nm/px.")
    overlap: Annotated[float, Field(ge=0.0, lt=0.9)] = Field(0.25, description="Least overlap of neighbours.")
    max_per_image: Count = Field(2, description="Tiles kept of one image, the most informative.")
    max_instances: Count = Field(10, description="Tiles kept of one patient, the most informative.")


class Imaging(Section):
    """From images to crops."""

    ingest: Ingest = Field(Ingest(), description="Reading images.")
    quality: Quality = Field(Quality(), description="What counts as a poor image.")
    stain: Stain = Field(Stain(), description="Stain normalisation.")
    finder: Finder = Field(Finder(), description="Finding glomeruli.")
    om: GlomerulusCrops = Field(GlomerulusCrops(), description="Glomerulus crops.")
    im: ImCrops = Field(ImCrops(), description="Immunofluorescence crops.")
    tem: TemTiles = Field(TemTiles(), description="TEM tiles.")
