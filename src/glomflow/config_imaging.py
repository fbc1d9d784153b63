"""The section ``imaging`` of the configuration: from images to crops."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from glomflow.config_base import Count, Fraction, Positive, Section
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

    method: Literal["macenko", "vahadane", "reinhard", "none"] = Field(
        "macenko",
        description="How colours are matched. `macenko` and `vahadane` unmix the dyes and match their "
        "colours and amounts, `reinhard` matches mean and spread of the colours, `none` leaves them as they "
        "were scanned.",
    )
    target: Literal["standard", "cohort_median", "reference", "training_folds"] = Field(
        "standard",
        description="`standard`: fixed published stain vectors and colour statistics, by the sheet's stain; "
        "no image of the cohort enters. `cohort_median`: the median of all slide profiles (uses no labels, "
        "but test slides too). `training_folds`: the median of the slides of each fold's training patients; "
        "crops are stored once per fold. `reference`: the profile of the image at `reference`, or the mean "
        "of those at `references`.",
    )
    reference: str | None = Field(
        None, description="Image to match, for `target: reference`; relative to the cohort folder."
    )
    references: list[str] = Field(
        [],
        description="Instead of `reference`: several images, whose stain vectors and amounts are averaged. "
        "Images of one stain are averaged with each other only.",
    )
    three_dyes: list[str] = Field(
        [],
        description="Stains unmixed into three dyes instead of two, even if `white_only` names them, for "
        "example `[PASM]` or `[TRICHROME]`. None is published, so `target` cannot be `standard` for them; "
        "`reinhard` unmixes nothing.",
    )
    white_only: list[str] = Field(
        ["PASM"],
        description="Stains whose slides are only brought to one white level. Silver is black metal, not a "
        "dye: unmixing it turns black fibres into coloured ones.",
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
        if self.target == "reference" and not self.reference_images:
            raise ValueError("imaging.stain.reference is needed with target: reference")
        if self.reference and self.references:
            raise ValueError(
                "imaging.stain: both reference and references are given; name one image as reference, or all "
                "of them as references"
            )
        if len(set(self.references)) != len(self.references):
            raise ValueError("imaging.stain.references names an image twice; keep one of them")
        return self

    @property
    def reference_images(self) -> list[str]:
        """The images to match, relative to the cohort folder; for `target: reference`."""
        return [self.reference] if self.reference else list(self.references)

    @property
    def fitted_per_fold(self) -> bool:
        """Whether colours are matched to a target that each fold's training patients give."""
        return self.method != "none" and self.target == "training_folds"


class GlomerulusCrops(Section):
    """Glomerulus crops from OM images."""

    size: Annotated[int, Field(ge=32, le=2048)] = Field(224, description="Edge of the square crops, px.")
    um_per_px: Positive = Field(1.0, description="Resolution of the crops, µm/px.")
    margin: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        0.15,
        description="Context around the outline, as a share of its longer edge; with outlines of the tuft "
        "rather than of Bowman's capsule, raise it so that the capsule stays whole. An outline that does "
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
    markers: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Markers in order, instead of `red`, `green` and `blue`: the first is shown in red, the "
        "second in green, the mean of the others in blue; a single one in all three colours.",
    )
    red: list[str] = Field(["IgG"], description="Markers shown in red (their mean).")
    green: list[str] = Field(["IgA"], description="Markers shown in green (their mean).")
    blue: list[str] = Field(["IgM", "C3", "C1q"], description="Markers shown in blue (their mean).")
    instances: Literal["composite", "marker"] = Field(
        "composite",
        description="`composite`: one crop of a patient, in colours. `marker`: a bag with one crop per "
        "marker, in grey, in the order of `markers` (or of `red`, `green`, `blue`); see `im_bag` of "
        "the model.",
    )
    max_level: Positive = Field(
        0.5,
        description="Sample value shown at full brightness, as a share of the type's range. Fixed, not "
        "per image, because brightness is the finding.",
    )
    unnamed_colour: Literal["detect", "composite"] = Field(
        "detect",
        description="Colour images whose marker the sheet does not name. `detect`: one that shows a single "
        "hue is a photograph of one fluorophore and becomes one channel, shown in all three colours; others "
        "are composites. `composite`: all are composites of several markers.",
    )
    background: Literal["none", "percentile", "rolling"] = Field(
        "none",
        description="What is subtracted from each marker. `percentile`: one level per image. `rolling`: what "
        "a ball rolling under the brightness reaches, for uneven haze. Nothing is ever brightened.",
    )
    background_percentile: Annotated[float, Field(gt=0.0, le=50.0)] = Field(
        5.0, description="`percentile`: the percentile of the image's brightness that is background."
    )
    background_radius: Annotated[float, Field(ge=0.02, le=1.0)] = Field(
        0.25,
        description="`rolling`: radius of the ball, as a share of the image's shorter edge; larger than the "
        "deposits and the tuft's segments.",
    )
    standardise: Literal["none", "site"] = Field(
        "none",
        description="`site`: each site's brightness is brought to the level of all sites, fitted on the "
        "training patients of each fold; dark crops stay as they are.",
    )

    @model_validator(mode="after")
    def _markers_are_given_once(self) -> Self:
        if self.markers is None:
            return self
        fields = type(self).model_fields
        changed = [name for name in ("red", "green", "blue") if getattr(self, name) != fields[name].default]
        if changed:
            extra = " and ".join(changed)
            raise ValueError(f"imaging.im.markers replaces red, green and blue; remove {extra}")
        twice = [name for name in self.markers if self.markers.count(name) > 1]
        if twice:
            raise ValueError(f"imaging.im.markers names {twice[0]} twice; keep one of them")
        return self

    @property
    def colours(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Markers shown in red, in green and in blue."""
        if self.markers is None:
            return tuple(self.red), tuple(self.green), tuple(self.blue)
        first, *others = self.markers
        if not others:
            return (first,), (first,), (first,)
        return (first,), (others[0],), tuple(others[1:])

    @property
    def fitted_per_fold(self) -> bool:
        """Whether brightness is brought to levels that each fold's training patients give."""
        return self.standardise == "site"


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
    max_empty: Fraction = Field(
        0.85, description="Tiles with more than this share of resin or open lumen are rejected."
    )
    max_grid_bar: Fraction = Field(
        0.25, description="Tiles with more than this share of grid bar are rejected."
    )
    max_saturated: Fraction = Field(
        0.3, description="Tiles with more than this share of saturated white (a hole) are rejected."
    )
    max_dirt: Fraction = Field(
        0.2, description="Tiles with more than this share of opaque dirt are rejected."
    )
    scale_bar_nm: Positive | None = Field(
        None,
        description="Length written at the burnt-in scale bars, nm, if all have the same: the pixel size "
        "that they imply is then compared with the one in use. Empty: a bar only has to be of some round "
        "length. Either way a difference is a warning and a flag; the pixel size in use stays.",
    )


class Imaging(Section):
    """From images to crops."""

    ingest: Ingest = Field(Ingest(), description="Reading images.")
    quality: Quality = Field(Quality(), description="What counts as a poor image.")
    stain: Stain = Field(Stain(), description="Stain normalisation.")
    finder: Finder = Field(Finder(), description="Finding glomeruli.")
    om: GlomerulusCrops = Field(GlomerulusCrops(), description="Glomerulus crops.")
    im: ImCrops = Field(ImCrops(), description="Immunofluorescence crops.")
    tem: TemTiles = Field(TemTiles(), description="TEM tiles.")
