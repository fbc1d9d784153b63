"""Stain profiles of a cohort's slides, and the profiles that they are matched to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.config import Stain
from glomflow.errors import GlomflowError, ImageError
from glomflow.imaging.pixels import as_rgb_uint8
from glomflow.imaging.readers import ImageReader, open_image
from glomflow.imaging.stain import (
    StainProfile,
    Vector,
    estimate_background,
    estimate_profile,
    tissue_mask,
)
from glomflow.tables import STAIN_PROFILES

Bytes = npt.NDArray[np.uint8]

SLIDE_PIXELS = 2_000_000
"""Most pixels that a slide's profile is estimated from."""
PATCH = 256
"""Edge of the patches that a larger slide is sampled by, px at the profile's resolution."""
OVERVIEW = 1024

_MACENKO_CONCENTRATIONS: Vector = (1.9705, 1.0308)
STANDARD_MACENKO: Mapping[str, StainProfile] = {
    "HE": StainProfile(
        "macenko",
        "standard HE",
        matrix=((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)),
        concentrations=_MACENKO_CONCENTRATIONS,
    ),
    "PAS": StainProfile(
        "macenko",
        "standard PAS",
        matrix=((0.644211, 0.716556, 0.266844), (0.175411, 0.972178, 0.154589)),
        concentrations=_MACENKO_CONCENTRATIONS,
    ),
}
"""Fixed Macenko targets.

HE: the reference of Macenko's method as published with its first implementation, at white level 240.
PAS: haematoxylin and periodic acid-Schiff of Ruifrok and Johnston (2001), as tabulated in the colour
deconvolution literature. No concentrations are published for these two; those of HE are kept.
"""

STANDARD_REINHARD: Mapping[str, StainProfile] = {
    "HE": StainProfile("reinhard", "standard HE", lab_mean=(60.0, 21.0, -23.0), lab_std=(10.0, 8.0, 8.0)),
    "PAS": StainProfile("reinhard", "standard PAS", lab_mean=(52.0, 24.0, -26.0), lab_std=(11.0, 8.0, 7.5)),
}
"""Fixed Reinhard targets.

There is no published CIELAB reference for kidney. These are rounded medians over the tissue of 11
public kidney images of each stain: ten 256 px patches of Omni-Seg (capsule and tuft) and one field of
the multi-stain set of Nisar et al.
"""

_SYNONYMS = {
    "H&E": "HE",
    "H-E": "HE",
    "H+E": "HE",
    "HES": "HE",
    "HAEMATOXYLIN AND EOSIN": "HE",
    "HEMATOXYLIN AND EOSIN": "HE",
    "PAS-H": "PAS",
    "PASH": "PAS",
    "PERIODIC ACID-SCHIFF": "PAS",
    "JONES": "PASM",
    "JONES SILVER": "PASM",
    "SILVER": "PASM",
    "PAMS": "PASM",
}


def stain_key(stain: object) -> str:
    """Returns the name that targets go by: ``HE``, ``PAS``, ``PASM``, any other in capitals, or ''.

    Args:
        stain: Stain as the sheet has it, or a missing value.
    """
    if not isinstance(stain, str):
        return ""
    name = " ".join(stain.upper().replace("_", " ").split())
    return _SYNONYMS.get(name, name)


def target_for(targets: Mapping[str, StainProfile], stain: object) -> StainProfile:
    """Returns the target of an image's stain.

    Args:
        targets: What :func:`choose_target` returned.
        stain: Stain as the sheet has it, or a missing value.

    Raises:
        GlomflowError: The stain was not among the images that the targets were chosen for.
    """
    key = stain_key(stain)
    if key not in targets:
        raise GlomflowError(
            f"no stain target was chosen for stain '{key}', only for {sorted(targets)}; "
            "delete the stain profiles and run again"
        )
    return targets[key]


def profile_row(profile: StainProfile) -> dict[str, Any]:
    """Returns a profile as a row of the table ``STAIN_PROFILES``."""

    def text(value: object) -> str | None:
        return None if value is None else json.dumps(value)

    return {
        "slide": profile.slide,
        "method": profile.method,
        "matrix": text(profile.matrix),
        "concentrations": text(profile.concentrations),
        "lab_mean": text(profile.lab_mean),
        "lab_std": text(profile.lab_std),
        "background": text(profile.background),
        "tissue_pixels": profile.tissue_pixels,
        "flag": profile.flag,
    }


def profile_from_row(row: Mapping[Any, Any]) -> StainProfile:
    """Returns the profile that a row of the table ``STAIN_PROFILES`` holds."""

    def vector(value: object) -> Vector | None:
        return tuple(json.loads(value)) if isinstance(value, str) and value else None

    matrix = json.loads(row["matrix"]) if isinstance(row["matrix"], str) and row["matrix"] else None
    return StainProfile(
        method=row["method"],
        slide=row["slide"],
        matrix=(tuple(matrix[0]), tuple(matrix[1])) if matrix else None,
        concentrations=vector(row["concentrations"]),
        lab_mean=vector(row["lab_mean"]),
        lab_std=vector(row["lab_std"]),
        background=vector(row["background"]) or (),
        tissue_pixels=int(row["tissue_pixels"]),
        flag=row["flag"] if isinstance(row["flag"], str) else "",
    )


def profiles_by_slide(profiles: pd.DataFrame) -> dict[str, StainProfile]:
    """Returns the profiles of a table by slide; of two for one slide, that which rests on more tissue."""
    ordered = profiles.sort_values("tissue_pixels", kind="stable")
    return {str(row["slide"]): profile_from_row(row) for row in ordered.to_dict("records")}


def profile_shard(
    inventory: pd.DataFrame, images: pd.DataFrame, folder: Path, settings: Stain
) -> pd.DataFrame:
    """Estimates a stain profile per slide.

    A slide's profile rests on the pixels of all its images, pooled. Images with a pixel size are read
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
            profile = _slide_profile(str(slide), members, folder, settings)
        rows.append(profile_row(profile))
    return pd.DataFrame(rows, columns=list(STAIN_PROFILES))


def choose_target(
    profiles: pd.DataFrame, images: pd.DataFrame, settings: Stain, folder: Path
) -> dict[str, StainProfile]:
    """Chooses the profile to match for each stain of the cohort.

    Where nothing sensible can be matched, the target has a flag and images of that stain pass through
    unchanged: silver and other stains without a published standard, stains that the sheet does not
    name, and stains other than that of the reference image.

    Args:
        profiles: ``STAIN_PROFILES`` rows of the whole cohort.
        images: ``IMAGES`` rows of the whole cohort.
        settings: What to match.
        folder: Cohort folder.

    Returns:
        A target by :func:`stain_key`, '' for images without a stain.

    Raises:
        GlomflowError: The reference image cannot be read or gives no profile.
    """
    microscopy = images[images["modality"] == "OM"]
    keys = microscopy["stain"].map(stain_key, na_action=None)
    stains = sorted({str(key) for key in keys})
    if settings.method == "none":
        return {stain: StainProfile("none", stain) for stain in stains}
    if settings.target == "reference":
        return _reference_targets(stains, microscopy, keys, settings, folder)
    if settings.target == "standard":
        return {stain: _standard_target(stain, settings) for stain in stains}
    by_slide = profiles_by_slide(profiles)
    targets = {}
    for stain in stains:
        slides = microscopy.loc[keys == stain, "slide"].unique()
        members = [by_slide[slide] for slide in slides if slide in by_slide and not by_slide[slide].flag]
        targets[stain] = _median_profile(members, stain, settings)
    return targets


def _slide_profile(slide: str, members: pd.DataFrame, folder: Path, settings: Stain) -> StainProfile:
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
    return estimate_profile(np.concatenate(sampled), settings, slide)


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


def _standard_target(stain: str, settings: Stain) -> StainProfile:
    standards = STANDARD_MACENKO if settings.method == "macenko" else STANDARD_REINHARD
    if stain in standards:
        return standards[stain]
    if not stain:
        flag = (
            "the sheet names no stain; fill the column 'stain' of images.csv (HE or PAS), or set "
            "imaging.stain.target to cohort_median"
        )
    else:
        flag = (
            f"there is no published standard for stain {stain} (only for {' and '.join(standards)}); set "
            "imaging.stain.target to cohort_median to match the slides to each other"
        )
    return StainProfile(settings.method, f"standard {stain}".strip(), flag=flag)


def _median_profile(members: list[StainProfile], stain: str, settings: Stain) -> StainProfile:
    name = f"cohort median {stain}".strip()
    if not members:
        return StainProfile(settings.method, name, flag=f"no slide of stain '{stain}' has a usable profile")

    def median(values: list[Any]) -> npt.NDArray[np.float64]:
        result: npt.NDArray[np.float64] = np.median(np.array(values, dtype=float), axis=0)
        return result

    common: dict[str, Any] = {
        "method": settings.method,
        "slide": name,
        "background": tuple(median([member.background for member in members]).tolist()),
        "tissue_pixels": sum(member.tissue_pixels for member in members),
    }
    if settings.method == "reinhard":
        return StainProfile(
            **common,
            lab_mean=tuple(median([member.lab_mean for member in members]).tolist()),
            lab_std=tuple(median([member.lab_std for member in members]).tolist()),
        )
    matrix = median([member.matrix for member in members])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return StainProfile(
        **common,
        matrix=(tuple(matrix[0].tolist()), tuple(matrix[1].tolist())),
        concentrations=tuple(median([member.concentrations for member in members]).tolist()),
    )


def _reference_targets(
    stains: list[str], images: pd.DataFrame, keys: pd.Series[Any], settings: Stain, folder: Path
) -> dict[str, StainProfile]:
    reference = str(settings.reference)
    listed = (images["path"] == reference).to_numpy()
    um_per_px = float(images.loc[listed, "um_per_px"].iloc[0]) if listed.any() else math.nan
    try:
        with open_image(folder / reference) as reader:
            if math.isnan(um_per_px) and reader.pixel_size:
                um_per_px = reader.pixel_size[0]
            pixels = sample_pixels(reader, um_per_px, settings)
    except ImageError as error:
        raise GlomflowError(
            f"imaging.stain.reference '{reference}' cannot be used: {error.reason}; name an image that can "
            "be read, relative to the cohort folder"
        ) from error
    profile = estimate_profile(pixels, settings, f"reference {reference}")
    if profile.flag:
        raise GlomflowError(
            f"imaging.stain.reference '{reference}' gives no stain profile: {profile.flag}; "
            "name an image that shows more tissue"
        )
    own = str(keys[listed].iloc[0]) if listed.any() else None
    return {
        stain: profile
        if own is None or stain == own
        else StainProfile(
            settings.method,
            profile.slide,
            flag=f"the reference image is of stain '{own}', not '{stain}'",
        )
        for stain in stains
    }
