"""Stain profiles of a cohort's slides, and the profiles that they are matched to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.config import Stain
from glomflow.errors import GlomflowError, ImageError
from glomflow.imaging.pixels import as_rgb_uint8
from glomflow.imaging.readers import ImageReader, open_image
from glomflow.imaging.stain import StainProfile, estimate_background, estimate_profile, tissue_mask
from glomflow.imaging.stain.profile import Method
from glomflow.imaging.stain_profiles import profile_from_row, profile_row, profiles_by_slide, target_for
from glomflow.imaging.stain_recolour import renormalise_store, write_renormalised_store
from glomflow.imaging.stain_standards import (
    STANDARD_MACENKO,
    STANDARD_REINHARD,
    STANDARD_VAHADANE,
    THREE_DYES,
    is_white_only,
    number_of_dyes,
    stain_key,
    standard_target,
)
from glomflow.imaging.stain_white import standard_white, white_profile
from glomflow.tables import STAIN_PROFILES

__all__ = [
    "STANDARD_MACENKO",
    "STANDARD_REINHARD",
    "STANDARD_VAHADANE",
    "choose_target",
    "fit_target",
    "profile_from_row",
    "profile_row",
    "profile_shard",
    "profiles_by_slide",
    "renormalise_store",
    "sample_pixels",
    "stain_key",
    "target_for",
    "write_renormalised_store",
]

Bytes = npt.NDArray[np.uint8]

SLIDE_PIXELS = 2_000_000
"""Most pixels that a slide's profile is estimated from."""
PATCH = 256
"""Edge of the patches that a larger slide is sampled by, px at the profile's resolution."""
OVERVIEW = 1024


def profile_shard(
    inventory: pd.DataFrame, images: pd.DataFrame, folder: Path, settings: Stain
) -> pd.DataFrame:
    """Estimates a stain profile per slide.

    A slide's profile rests on the pixels of all its images, pooled. Slides of a stain in
    ``settings.white_only`` get one that holds their white level only. Images with a pixel size are read
    at ``settings.um_per_px`` (never enlarged), ready-made crops as they are. An image that cannot be
    read is left out, with a line on standard output. A slide whose images are of different stains, as
    when the sheet names blocks, gets a flag.

    Args:
        inventory: Rows of the inventory; those of OM images with status ``ok`` are used.
        images: Rows of the sheet for these images.
        folder: Cohort folder.
        settings: Method and its thresholds.

    Returns:
        One row per slide, in order of appearance, as ``STAIN_PROFILES``.
    """
    stains = images.set_index("image")["stain"].map(stain_key, na_action=None)
    usable = inventory[(inventory["modality"] == "OM") & (inventory["status"] == "ok")]
    rows = []
    for slide, members in usable.groupby("slide", sort=False):
        if settings.method == "none":
            profile = StainProfile("none", str(slide))
        elif len(kinds := sorted(set(stains.loc[members["image"]]))) > 1:
            named = " and ".join(kind or "none" for kind in kinds)
            profile = StainProfile(
                settings.method,
                str(slide),
                flag=f"images of different stains ({named}); give each stain its own slide in images.csv",
            )
        else:
            profile = _slide_profile(str(slide), kinds[0], members, folder, settings)
        rows.append(profile_row(profile))
    return pd.DataFrame(rows, columns=list(STAIN_PROFILES))


def choose_target(
    profiles: pd.DataFrame, images: pd.DataFrame, settings: Stain, folder: Path
) -> dict[str, StainProfile]:
    """Chooses the profile to match for each stain of the cohort.

    Where nothing sensible can be matched, the target has a flag and images of that stain pass through
    unchanged: stains without a published standard, stains that the sheet does not name, and stains other
    than those of the reference images.

    Several reference images are averaged, each unmixed by itself: the mean of their unit stain vectors
    (at unit length again), amounts and white levels, or of their colour statistics. This is the variant
    that Ivanov et al. (2024, arXiv:2406.02077, "Multi-target stain normalization for histology slides")
    call the average after fitting. All slides still go to one target: matching each slide to the nearest
    of several would leave as many groups of colours as there are targets, and the groups would be sites.

    Args:
        profiles: ``STAIN_PROFILES`` rows of the whole cohort.
        images: ``IMAGES`` rows of the whole cohort.
        settings: What to match.
        folder: Cohort folder.

    Returns:
        A target by :func:`stain_key`, '' for images without a stain.

    Raises:
        GlomflowError: A reference image cannot be read or gives no profile, or the targets are to be
            fitted on training patients.
    """
    if settings.fitted_per_fold:
        raise GlomflowError(
            "imaging.stain.target: training_folds needs the training patients of a fold; a target over all "
            "patients is imaging.stain.target: cohort_median"
        )
    microscopy = images[images["modality"] == "OM"]
    keys = microscopy["stain"].map(stain_key, na_action=None)
    stains = sorted({str(key) for key in keys})
    if settings.method == "none":
        return {stain: StainProfile("none", stain) for stain in stains}
    if settings.target == "reference":
        read = [
            _read_reference(path, microscopy, keys, settings, folder) for path in settings.reference_images
        ]
        return {stain: _reference_target(stain, read, settings) for stain in stains}
    if settings.target == "standard":
        return {stain: standard_target(stain, settings) for stain in stains}
    return _median_targets(stains, profiles, microscopy, keys, settings, "cohort median")


def fit_target(
    profiles: pd.DataFrame,
    images: pd.DataFrame,
    settings: Stain,
    folder: Path,
    *,
    patients: set[str] | None = None,
) -> dict[str, StainProfile]:
    """Chooses the profile to match for each stain, fitted on the slides of some patients only.

    Args:
        profiles: ``STAIN_PROFILES`` rows of the whole cohort.
        images: ``IMAGES`` rows of the whole cohort.
        settings: What to match. ``standard`` and ``reference`` do not depend on patients; otherwise the
            median is taken over the slides of ``patients``.
        folder: Cohort folder.
        patients: Whose slides may enter, for example the training patients of a fold; all by default.

    Returns:
        A target by :func:`stain_key` for every stain of the cohort. A stain that none of these patients
        has a usable slide of gets a flagged target, so that its images pass through unchanged.

    Raises:
        GlomflowError: None of the patients has a slide with a usable profile; see also
            :func:`choose_target`.
    """
    fixed = settings.method == "none" or settings.target in ("standard", "reference")
    if patients is None or fixed:
        return choose_target(profiles, images, settings, folder)
    microscopy = images[images["modality"] == "OM"]
    keys = microscopy["stain"].map(stain_key, na_action=None)
    stains = sorted({str(key) for key in keys})
    own = microscopy["patient"].isin(patients)
    targets = _median_targets(stains, profiles, microscopy[own], keys[own], settings, "training median")
    if targets and all(target.flag for target in targets.values()):
        raise GlomflowError(
            f"imaging.stain.target: {settings.target}: none of the {len(patients)} training patients has a "
            "slide with a usable stain profile; look at the flags of the stain profiles, or set "
            "imaging.stain.target to standard"
        )
    return targets


def _median_targets(
    stains: list[str],
    profiles: pd.DataFrame,
    images: pd.DataFrame,
    keys: pd.Series[Any],
    settings: Stain,
    name: str,
) -> dict[str, StainProfile]:
    by_slide = profiles_by_slide(profiles)
    targets = {}
    for stain in stains:
        slides = images.loc[keys == stain, "slide"].unique()
        members = [by_slide[slide] for slide in slides if slide in by_slide and not by_slide[slide].flag]
        if members:
            targets[stain] = _combine(members, f"{name} {stain}".strip(), np.median)
        else:
            flag = f"no slide of stain '{stain}' has a usable profile"
            targets[stain] = StainProfile(_method(stain, settings), f"{name} {stain}".strip(), flag=flag)
    return targets


def _method(stain: str, settings: Stain) -> Method:
    return standard_white(stain, settings).method if is_white_only(stain, settings) else settings.method


def _combine(members: list[StainProfile], name: str, average: Callable[..., Any]) -> StainProfile:
    """Returns the median or the mean of profiles of one method and number of stains."""

    def over(values: list[Any]) -> tuple[float, ...] | None:
        return None if values[0] is None else tuple(average(np.array(values, float), axis=0).tolist())

    rows = None
    if members[0].matrix is not None:
        matrix = average(np.array([member.matrix for member in members], float), axis=0)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        rows = tuple(tuple(row) for row in matrix.tolist())
    return StainProfile(
        members[0].method,
        name,
        matrix=rows,
        concentrations=over([member.concentrations for member in members]),
        lab_mean=over([member.lab_mean for member in members]),
        lab_std=over([member.lab_std for member in members]),
        background=over([member.background for member in members]) or (),
        tissue_pixels=sum(member.tissue_pixels for member in members),
    )


@dataclass(frozen=True)
class _Reference:
    """A reference image: its path, its stain (None if the sheet does not list it) and its pixels."""

    path: str
    stain: str | None
    pixels: Bytes


def _read_reference(
    path: str, images: pd.DataFrame, keys: pd.Series[Any], settings: Stain, folder: Path
) -> _Reference:
    listed = (images["path"] == path).to_numpy()
    um_per_px = float(images.loc[listed, "um_per_px"].iloc[0]) if listed.any() else math.nan
    try:
        with open_image(folder / path) as reader:
            if math.isnan(um_per_px) and reader.pixel_size:
                um_per_px = reader.pixel_size[0]
            pixels = sample_pixels(reader, um_per_px, settings)
    except ImageError as error:
        raise GlomflowError(
            f"imaging.stain.reference '{path}' cannot be used: {error.reason}; name an image that can "
            "be read, relative to the cohort folder"
        ) from error
    return _Reference(path, str(keys[listed].iloc[0]) if listed.any() else None, pixels)


def _reference_target(stain: str, references: list[_Reference], settings: Stain) -> StainProfile:
    fitting = [reference for reference in references if reference.stain in (None, stain)]
    name = "reference " + ", ".join(reference.path for reference in fitting or references)
    if not fitting:
        kinds = " and ".join(f"'{kind}'" for kind in sorted({str(each.stain) for each in references}))
        images = "reference image is" if len(references) == 1 else "reference images are"
        return StainProfile(
            _method(stain, settings), name, flag=f"the {images} of stain {kinds}, not '{stain}'"
        )
    profiles = [_profile(each.pixels, stain, settings, f"reference {each.path}") for each in fitting]
    for reference, profile in zip(fitting, profiles, strict=True):
        if profile.flag:
            raise GlomflowError(
                f"imaging.stain.reference '{reference.path}' gives no stain profile: {profile.flag}; "
                "name an image that shows more tissue"
            )
    return profiles[0] if len(profiles) == 1 else _combine(profiles, name, np.mean)


def _slide_profile(
    slide: str, stain: str, members: pd.DataFrame, folder: Path, settings: Stain
) -> StainProfile:
    sampled = []
    for row in members.to_dict("records"):
        try:
            with open_image(folder / row["path"]) as reader:
                sampled.append(
                    sample_pixels(reader, row["um_per_px"], settings, SLIDE_PIXELS // len(members))
                )
        except ImageError as error:
            print(f"stain profile of slide '{slide}': image left out: {error.reason}")
    if not sampled:
        return StainProfile(settings.method, slide, flag="no image of the slide could be read")
    return _profile(np.concatenate(sampled), stain, settings, slide)


def _profile(pixels: Bytes, stain: str, settings: Stain, name: str) -> StainProfile:
    """Estimates a profile in the way that slides of a stain are modelled."""
    if is_white_only(stain, settings):
        return white_profile(pixels, settings, name)
    dyes = number_of_dyes(stain, settings)
    initial = THREE_DYES.get(stain) if dyes == 3 else None
    return estimate_profile(pixels, settings, name, stains=dyes, initial=initial)


def sample_pixels(reader: ImageReader, um_per_px: float, settings: Stain, most: int = SLIDE_PIXELS) -> Bytes:
    """Reads the pixels that an image contributes to its slide's profile.

    Args:
        reader: The image.
        um_per_px: Its pixel size, µm/px; NaN if unknown: it is read at full size.
        settings: Resolution and tissue threshold.
        most: About how many pixels to read at most. A larger image is read in patches, spread evenly
            over its tissue, rather than at a coarser resolution, which would blur nuclei away.

    Returns:
        (N, 3) uint8.

    Raises:
        ImageError: The image cannot be decoded.
    """
    shrink = 1.0 if math.isnan(um_per_px) else max(1.0, settings.um_per_px / um_per_px)
    width, height = max(1, round(reader.width / shrink)), max(1, round(reader.height / shrink))
    if width * height <= max(most, PATCH * PATCH):
        region = reader.read_region(0, 0, reader.width, reader.height, width, height)
        return as_rgb_uint8(region).reshape(-1, 3)
    edge = PATCH * shrink
    patches = [
        as_rgb_uint8(reader.read_region(x, y, edge, edge, PATCH, PATCH)).reshape(-1, 3)
        for x, y in _tissue_patches(reader, edge, max(1, most // PATCH**2), settings)
    ]
    return np.concatenate(patches)


def _tissue_patches(
    reader: ImageReader, edge: float, most: int, settings: Stain
) -> Iterator[tuple[float, float]]:
    """Yields the corners of at most ``most`` patches, evenly spaced among those that show tissue."""
    overview = as_rgb_uint8(reader.thumbnail(OVERVIEW))
    tissue = tissue_mask(overview, estimate_background(overview), settings.tissue_od)
    scale = overview.shape[1] / reader.width
    columns, rows = max(1, int(reader.width // edge)), max(1, int(reader.height // edge))
    corners = [(column * edge, row * edge) for row in range(rows) for column in range(columns)]
    shares = np.array(
        [
            tissue[
                int(y * scale) : max(int((y + edge) * scale), int(y * scale) + 1),
                int(x * scale) : max(int((x + edge) * scale), int(x * scale) + 1),
            ].mean()
            for x, y in corners
        ]
    )
    showing = np.flatnonzero(shares >= min(0.1, float(shares.max())))
    chosen = showing[np.linspace(0, showing.size - 1, min(most, showing.size)).round().astype(int)]
    for index in chosen:
        yield corners[index]
