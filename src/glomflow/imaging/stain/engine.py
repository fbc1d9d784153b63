"""Profiles estimated from images, and images recoloured between two profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from glomflow.errors import GlomflowError
from glomflow.imaging.stain.density import (
    density_table,
    estimate_background,
    flat_pixels,
    tissue_of,
)
from glomflow.imaging.stain.mixing import apply_vectors
from glomflow.imaging.stain.profile import Array, Bytes, StainProfile, Vector, check_rgb
from glomflow.imaging.stain.reinhard import apply_reinhard, lab_moments, reinhard_profile
from glomflow.imaging.stain.statistics import (
    amount_percentiles,
    angle_percentiles,
    density_moments,
    tissue_pixels,
)
from glomflow.imaging.stain.vahadane import dictionary_vectors
from glomflow.imaging.stain.vectors import (
    amount_weights,
    check_stains,
    extreme_vectors,
    ordered,
    principal_axes,
    spaced,
    vectors_at,
)

if TYPE_CHECKING:
    from glomflow.config import Stain

LEAST_CONCENTRATION = 0.1
CONCENTRATION_PERCENTILE = 99.0


def estimate_profile(
    rgb: Bytes,
    settings: Stain,
    slide: str = "",
    *,
    stains: int = 2,
    background: Vector | None = None,
    concentrations_over: Literal["tissue", "image"] = "tissue",
    initial: tuple[Vector, ...] | None = None,
    threads: int | None = None,
) -> StainProfile:
    """Estimates the stain profile of an image.

    An image that gives no profile (too little tissue, too few colours, collinear stain vectors) gets
    one with a flag; :func:`normalise` passes such images through unchanged.

    Args:
        rgb: (H, W, 3) uint8, or pixels (..., 3), pooled.
        settings: Method and its thresholds.
        slide: Slide identifier to carry along.
        stains: Number of stains, 2 or 3; Reinhard's method has none.
        background: White level of R, G, B; estimated from the image by default.
        concentrations_over: Pixels that the 99th percentile is taken over. ``image``, as in other
            implementations, makes it depend on how much glass the image shows.
        initial: As many stain vectors: three found are put in their order, and Vahadane's search starts
            from them.
        threads: Number of threads; the process's allowance by default. The result does not depend on it.

    Returns:
        The profile.

    Raises:
        GlomflowError: ``rgb`` is not 8-bit RGB, or ``stains`` or ``initial`` cannot be used.
    """
    pixels = flat_pixels(rgb)
    check_stains(stains, initial)
    if settings.method == "none":
        return StainProfile("none", slide)
    white = background or estimate_background(pixels, threads=threads)
    common: dict[str, Any] = {"method": settings.method, "slide": slide, "background": white}
    stained = tissue_of(white, settings.tissue_od)
    if settings.method == "reinhard":
        moments = lab_moments(pixels, stained, threads)
        common["tissue_pixels"] = int(moments[0])
        if flag := little_tissue(common["tissue_pixels"], settings):
            return StainProfile(**common, flag=flag)
        return reinhard_profile(moments, common)
    tissue = tissue_pixels(pixels, stained, threads)
    common["tissue_pixels"] = tissue.shape[0]
    if flag := little_tissue(tissue.shape[0], settings):
        return StainProfile(**common, flag=flag)
    matrix, flag = _stain_vectors(tissue, settings, white, stains, initial, threads)
    if flag:
        return StainProfile(**common, flag=flag)
    counted = tissue if concentrations_over == "tissue" else pixels
    concentrations = amount_percentiles(
        counted, density_table(white), amount_weights(matrix), CONCENTRATION_PERCENTILE, threads
    )
    return vector_profile(matrix, concentrations, common)


def little_tissue(tissue_pixels: int, settings: Stain) -> str:
    """Returns a flag if an image shows too little tissue for a profile, else ''."""
    least = max(settings.min_tissue_pixels, 3)
    return f"{tissue_pixels} tissue pixels, {least} are needed" if tissue_pixels < least else ""


def sampled_vectors(
    sample: Bytes, settings: Stain, white: Vector, stains: int, initial: tuple[Vector, ...] | None
) -> Array:
    """Returns the stain vectors, (stains, 3), found from a sample of tissue pixels, (N, 3)."""
    table = density_table(white)
    density = np.stack([table[channel][sample[:, channel]] for channel in range(3)], axis=1)
    if settings.method == "vahadane":
        return dictionary_vectors(density, stains, initial)
    return extreme_vectors(density, settings.percentile)


def vector_profile(matrix: Array, concentrations: Array, common: dict[str, Any]) -> StainProfile:
    """Returns a profile with stain vectors, or one with a flag if a stain is nearly absent.

    Args:
        matrix: (stains, 3).
        concentrations: (stains), 99th percentiles.
        common: The profile's other attributes.
    """
    if not concentrations.min() >= LEAST_CONCENTRATION:
        return StainProfile(
            **common,
            flag=f"a stain is nearly absent (99th percentile concentration {concentrations.min():.3f}, "
            f"{LEAST_CONCENTRATION} is needed)",
        )
    return StainProfile(
        **common,
        matrix=tuple(tuple(row) for row in matrix.tolist()),
        concentrations=tuple(concentrations.tolist()),
    )


def normalise(rgb: Bytes, source: StainProfile, target: StainProfile, *, threads: int | None = None) -> Bytes:
    """Recolours images from the profile of their slide to that of the target.

    Args:
        rgb: (..., H, W, 3) uint8, of one slide.
        source: Profile of the slide.
        target: Profile to match, of the same method and number of stains.
        threads: Number of threads; the process's allowance by default. The result does not depend on it.

    Returns:
        uint8 of the same shape; ``rgb`` itself if either profile is flagged or the method is ``none``.

    Raises:
        GlomflowError: ``rgb`` is not 8-bit RGB, or the profiles cannot be mixed.
    """
    check_rgb(rgb)
    check_pair(source, target)
    if not rgb.size or not is_changed(source, target):
        return rgb
    apply = apply_reinhard if source.method == "reinhard" else apply_vectors
    return apply(rgb, source, target, threads)


def check_pair(source: StainProfile, target: StainProfile) -> None:
    """Checks that an image can be recoloured from one profile to another.

    Raises:
        GlomflowError: The profiles are of different methods, or of different numbers of stains.
    """
    if source.method != target.method:
        raise GlomflowError(
            f"stain profile of slide '{source.slide}' is {source.method}, the target {target.method}; "
            "delete the stain profiles and run again"
        )
    if is_changed(source, target) and source.stains != target.stains:
        raise GlomflowError(
            f"stain profile of slide '{source.slide}' has {source.stains} stain vectors, the target "
            f"{target.stains}; estimate both with the same number of stains"
        )


def is_changed(source: StainProfile, target: StainProfile) -> bool:
    """Returns whether :func:`normalise` recolours images with these profiles."""
    return source.method != "none" and not source.flag and not target.flag


def normalise_image(
    rgb: Bytes,
    target: StainProfile,
    settings: Stain,
    *,
    initial: tuple[Vector, ...] | None = None,
    threads: int | None = None,
) -> tuple[Bytes, StainProfile]:
    """Recolours one image by the profile of its own pixels.

    Args:
        rgb: (H, W, 3) uint8.
        target: Profile to match; its number of stains is told apart.
        settings: Method and its thresholds.
        initial: See :func:`estimate_profile`; the target's vectors, if there are three, by default.
        threads: Number of threads; the process's allowance by default.

    Returns:
        The image and its profile; the image is unchanged if the profile has a flag.
    """
    stains = target.stains or 2
    if initial is None and stains == 3:
        initial = target.matrix
    source = estimate_profile(rgb, settings, stains=stains, initial=initial, threads=threads)
    return normalise(rgb, source, target, threads=threads), source


def _stain_vectors(
    tissue: Bytes,
    settings: Stain,
    white: Vector,
    stains: int,
    initial: tuple[Vector, ...] | None,
    threads: int | None,
) -> tuple[Array, str]:
    table = density_table(white)
    axes, flag = principal_axes(density_moments(tissue, table, threads), stains)
    if flag:
        return np.zeros((stains, 3)), flag
    if settings.method == "macenko" and stains == 2:
        matrix = vectors_at(angle_percentiles(tissue, table, axes, settings.percentile, threads), axes)
    else:
        sample = tissue[spaced(tissue.shape[0])]
        matrix = sampled_vectors(sample, settings, white, stains, initial)
    return ordered(matrix, initial)
