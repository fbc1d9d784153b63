"""Stain profiles of slides, and colours matched from one profile to another.

Two methods are offered. Macenko et al. (2009, ISBI, "A method for normalizing histology slides for
quantitative analysis") finds the optical-density vectors of two stains and matches their amounts.
Reinhard et al. (2001, IEEE CG&A 21(5), "Color transfer between images") matches mean and standard
deviation of each colour channel; here in CIELAB (D65) and over tissue.

Optical density is ``-ln((I + 1) / background)``, natural logarithm, as in the widespread
implementations of Macenko's method, so that their published reference values apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from glomflow.config import Stain
from glomflow.errors import GlomflowError

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Vector = tuple[float, ...]

PUBLISHED_BACKGROUND: Vector = (240.0, 240.0, 240.0)
"""White level of the published Macenko reference; taken where an image shows too little glass."""

GLASS_LEVEL = 200
"""A pixel whose three samples are at least this, and nearly equal, can be glass."""
GLASS_SPREAD = 30
GLASS_PERCENTILE = 90.0
GLASS_SHARE = 0.002
PAINTED_BLACK = 5
"""Pixels with no sample above this are borders painted black, not tissue."""

CONDITION_LIMIT = 20.0
LEAST_CONCENTRATION = 0.1
LEAST_VARIANCE = 5e-4
"""Least variance of optical density along the second axis of tissue; sensor noise stays below."""
LEAST_LAB_STD = (0.5, 2.5)
"""Least standard deviation over tissue of each of L*, a* and b*, and of the one that varies most."""
FADE_DENSITY = 0.15
"""Reinhard: pixels of less mean optical density keep their colour in part, glass keeps it whole."""

CHUNK = 32768
"""Pixels mapped at a time: their intermediate values stay in the processor's cache."""


@dataclass(frozen=True)
class StainProfile:
    """The colours of a slide, or the colours to match.

    Attributes:
        method: ``macenko``, ``reinhard`` or ``none``.
        slide: Slide identifier, or the name of a target.
        matrix: Two stain vectors (rows: haematoxylin first), unit optical density of R, G, B.
        concentrations: 99th percentile of each stain's concentration over tissue.
        lab_mean: Mean of L*, a*, b* over tissue.
        lab_std: Standard deviation of L*, a*, b* over tissue.
        background: White level of R, G, B, 0 to 255.
        tissue_pixels: Pixels that the profile rests on.
        flag: Empty if the profile can be used; else why images pass through unchanged.
    """

    method: Literal["macenko", "reinhard", "none"]
    slide: str = ""
    matrix: tuple[Vector, Vector] | None = None
    concentrations: Vector | None = None
    lab_mean: Vector | None = None
    lab_std: Vector | None = None
    background: Vector = PUBLISHED_BACKGROUND
    tissue_pixels: int = 0
    flag: str = ""


def check_rgb(rgb: Array) -> Bytes:
    """Returns ``rgb`` if it is 8-bit colour.

    Raises:
        GlomflowError: The array is not uint8 or its last axis is not R, G, B.
    """
    if rgb.dtype != np.uint8 or rgb.ndim < 2 or rgb.shape[-1] != 3:
        raise GlomflowError(
            f"stain normalisation expects 8-bit RGB, uint8 of shape (..., 3), not {rgb.dtype} of shape "
            f"{rgb.shape}; drop an alpha channel and convert with glomflow.imaging.pixels.as_rgb_uint8"
        )
    return rgb


def estimate_background(rgb: Bytes) -> Vector:
    """Estimates the white level of an image from its glass.

    Glass is bright (every sample at least 200) and nearly neutral (samples within 30 of each other);
    tubular and capillary lumina count. Its 90th percentile per channel is taken, which thin tissue
    among the candidates does not move. If less than 0.2 % of the pixels qualify, the white level is
    the published 240.

    Args:
        rgb: (..., 3) uint8.

    Returns:
        White level of R, G, B, 0 to 255.
    """
    pixels = check_rgb(rgb).reshape(-1, 3)
    red, green, blue = (pixels[:, channel] for channel in range(3))
    # Reductions over an axis of three are slow; three whole columns at a time are not.
    bright = (red >= GLASS_LEVEL) & (green >= GLASS_LEVEL) & (blue >= GLASS_LEVEL)
    glass = np.compress(bright, pixels, axis=0)
    red, green, blue = (glass[:, channel] for channel in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    glass = glass[highest - lowest <= GLASS_SPREAD]
    if glass.shape[0] < max(1.0, GLASS_SHARE * pixels.shape[0]):
        return PUBLISHED_BACKGROUND
    return tuple(float(value) for value in np.percentile(glass, GLASS_PERCENTILE, axis=0))


def optical_density(rgb: Bytes, background: Vector) -> Floats:
    """Returns optical density, ``-ln((I + 1) / background)``.

    Args:
        rgb: (..., 3) uint8.
        background: White level of R, G, B.

    Returns:
        (..., 3) float32.
    """
    table = _density_table(background)
    density = np.empty(rgb.shape, np.float32)
    for channel in range(3):
        density[..., channel] = table[channel][rgb[..., channel]]
    return density


def tissue_mask(rgb: Bytes, background: Vector, threshold: float) -> npt.NDArray[np.bool_]:
    """Returns which pixels are tissue: optical density reaches ``threshold`` in every channel.

    Pixels painted black are none.

    Args:
        rgb: (..., 3) uint8.
        background: White level of R, G, B.
        threshold: Optical density.

    Returns:
        (...) bool.
    """
    red, green, blue = (rgb[..., channel] for channel in range(3))
    stained = _density_table(background) >= threshold
    mask: npt.NDArray[np.bool_] = stained[0][red] & stained[1][green] & stained[2][blue]
    mask &= (red > PAINTED_BLACK) | (green > PAINTED_BLACK) | (blue > PAINTED_BLACK)
    return mask


def estimate_profile(
    rgb: Bytes,
    settings: Stain,
    slide: str = "",
    *,
    background: Vector | None = None,
    concentrations_over: Literal["tissue", "image"] = "tissue",
) -> StainProfile:
    """Estimates the stain profile of an image.

    An image that gives no profile (too little tissue, one colour only, collinear stain vectors) gets
    one with a flag; :func:`normalise` passes such images through unchanged.

    Args:
        rgb: (H, W, 3) uint8, or pixels (N, 3).
        settings: Method and its thresholds.
        slide: Slide identifier to carry along.
        background: White level of R, G, B; estimated from the image by default.
        concentrations_over: Pixels that the 99th percentile is taken over. ``image``, as in other
            implementations, makes it depend on how much glass the image shows.

    Returns:
        The profile.

    Raises:
        GlomflowError: ``rgb`` is not 8-bit RGB.
    """
    pixels = check_rgb(rgb).reshape(-1, 3)
    if settings.method == "none":
        return StainProfile("none", slide)
    white = background or estimate_background(pixels)
    mask = tissue_mask(pixels, white, settings.tissue_od)
    tissue = np.compress(mask, pixels, axis=0)
    common: dict[str, Any] = {
        "method": settings.method,
        "slide": slide,
        "background": white,
        "tissue_pixels": int(tissue.shape[0]),
    }
    if tissue.shape[0] < max(settings.min_tissue_pixels, 3):
        return StainProfile(
            **common,
            flag=f"{tissue.shape[0]} tissue pixels, {max(settings.min_tissue_pixels, 3)} are needed",
        )
    if settings.method == "reinhard":
        return _reinhard_profile(tissue, common)
    counted = tissue if concentrations_over == "tissue" else pixels
    return _macenko_profile(tissue, counted, settings.percentile, common)


def normalise(rgb: Bytes, source: StainProfile, target: StainProfile) -> Bytes:
    """Recolours images from the profile of their slide to that of the target.

    Args:
        rgb: (..., H, W, 3) uint8, of one slide.
        source: Profile of the slide.
        target: Profile to match, of the same method.

    Returns:
        uint8 of the same shape; ``rgb`` itself if either profile is flagged or the method is ``none``.

    Raises:
        GlomflowError: ``rgb`` is not 8-bit RGB, or the profiles are of different methods.
    """
    check_rgb(rgb)
    if source.method != target.method:
        raise GlomflowError(
            f"stain profile of slide '{source.slide}' is {source.method}, the target {target.method}; "
            "delete the stain profiles and run again"
        )
    if not rgb.size or not is_changed(source, target):
        return rgb
    if source.method == "macenko":
        return _apply_macenko(rgb, source, target)
    return _apply_reinhard(rgb, source, target)


def is_changed(source: StainProfile, target: StainProfile) -> bool:
    """Returns whether :func:`normalise` recolours images with these profiles."""
    return source.method != "none" and not source.flag and not target.flag


def normalise_image(rgb: Bytes, target: StainProfile, settings: Stain) -> tuple[Bytes, StainProfile]:
    """Recolours one image by the profile of its own pixels.

    Args:
        rgb: (H, W, 3) uint8.
        target: Profile to match.
        settings: Method and its thresholds.

    Returns:
        The image and its profile; the image is unchanged if the profile has a flag.
    """
    source = estimate_profile(rgb, settings)
    return normalise(rgb, source, target), source


def _density_table(background: Vector) -> Floats:
    levels = np.arange(1.0, 257.0)
    table: Floats = -np.log(levels[None, :] / np.asarray(background)[:, None]).astype(np.float32)
    return table


def _macenko_profile(
    tissue: Bytes, counted: Bytes, percentile: float, common: dict[str, Any]
) -> StainProfile:
    density = optical_density(tissue, common["background"])
    matrix, flag = _stain_vectors(density, percentile)
    if flag:
        return StainProfile(**common, flag=flag)
    if counted is not tissue:
        density = optical_density(counted, common["background"])
    amounts = density @ np.linalg.pinv(matrix).astype(np.float32)
    concentrations = np.percentile(amounts, 99.0, axis=0)
    if not concentrations.min() >= LEAST_CONCENTRATION:
        return StainProfile(
            **common,
            flag=f"a stain is nearly absent (99th percentile concentration {concentrations.min():.3f}, "
            f"{LEAST_CONCENTRATION} is needed)",
        )
    rows = tuple(tuple(float(value) for value in row) for row in matrix)
    return StainProfile(
        **common,
        matrix=(rows[0], rows[1]),
        concentrations=tuple(float(value) for value in concentrations),
    )


def _stain_vectors(density: Floats, percentile: float) -> tuple[Array, str]:
    """Returns the (2, 3) stain matrix of tissue, haematoxylin first, and a flag."""
    mean = np.full(density.shape[0], 1.0 / density.shape[0], np.float32) @ density
    centred = density - mean
    covariance = (centred.T @ centred).astype(np.float64) / max(1, density.shape[0] - 1)
    variances, axes = np.linalg.eigh(covariance)
    if not variances[1] >= LEAST_VARIANCE:
        return np.zeros((2, 3)), "tissue has one colour only; two stains cannot be told apart"
    plane = axes[:, 1:]
    # Angles are counted from the mean colour, so that they never wrap around at 180 degrees.
    forward = plane.T @ mean
    forward /= np.linalg.norm(forward)
    basis = plane @ np.array([forward, [-forward[1], forward[0]]]).T
    along = density @ basis.astype(np.float32)
    angles = np.percentile(np.arctan2(along[:, 1], along[:, 0]), [percentile, 100.0 - percentile])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ basis.T
    # Of the two, haematoxylin takes more of the red light.
    matrix = vectors[np.argsort(-vectors[:, 0], kind="stable")]
    condition = float(np.linalg.cond(matrix))
    if not condition <= CONDITION_LIMIT:
        return matrix, f"stain vectors are collinear (condition number {condition:.0f})"
    return matrix, ""


def _apply_macenko(rgb: Bytes, source: StainProfile, target: StainProfile) -> Bytes:
    scale = np.asarray(target.concentrations) / np.asarray(source.concentrations)
    # From optical density to stains, each scaled, and back, in one 3x3 matrix.
    mix = (np.linalg.pinv(np.asarray(source.matrix)) * scale) @ np.asarray(target.matrix)
    mix32 = -mix.astype(np.float32)
    white = np.asarray(target.background, np.float32)
    flat = rgb.reshape(-1, 3)
    result = np.empty(flat.shape, np.uint8)
    for start in range(0, flat.shape[0], CHUNK):
        mixed = optical_density(flat[start : start + CHUNK], source.background) @ mix32
        np.exp(mixed, out=mixed)
        mixed *= white
        # The inverse of I + 1, and rounding by the truncation that follows.
        mixed -= 0.5
        np.clip(mixed, 0.0, 255.0, out=mixed)
        result[start : start + CHUNK] = mixed
    return result.reshape(rgb.shape)


_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""Linear sRGB to CIE XYZ (IEC 61966-2-1, D65)."""
_XYZ_OF_WHITE = _TO_XYZ.sum(axis=1)
_LAB_OF_ROOTS = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
"""L* + 16, a*, b* of the cube roots of X, Y, Z (CIE 15)."""
_EPSILON = 216.0 / 24389.0
_KAPPA = 24389.0 / 27.0
_GAMMA_STEPS = 16384


def rgb_to_lab(rgb: Bytes) -> Floats:
    """Converts sRGB to CIELAB (D65).

    Args:
        rgb: (..., 3) uint8.

    Returns:
        (..., 3) float32: L* 0 to 100, a*, b*.
    """
    lab = _roots(rgb) @ _LAB_OF_ROOTS.T.astype(np.float32)
    lab[..., 0] -= 16.0
    return lab


def _roots(rgb: Bytes) -> Floats:
    """Returns f(X / Xn), f(Y / Yn), f(Z / Zn), with CIE's f: a cube root with a linear foot."""
    levels = np.arange(256) / 255.0
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    relative = (_TO_XYZ / _XYZ_OF_WHITE[:, None]).astype(np.float32)
    xyz = linear.astype(np.float32)[rgb] @ relative.T
    roots: Floats = np.cbrt(xyz)
    return np.where(xyz > _EPSILON, roots, (xyz * np.float32(_KAPPA) + 16.0) / 116.0).astype(np.float32)


def _gamma_table() -> Bytes:
    """Returns the 8-bit sRGB value of each of ``_GAMMA_STEPS`` + 1 linear intensities, 0 to 1."""
    linear = np.arange(_GAMMA_STEPS + 1) / _GAMMA_STEPS
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255.0).astype(np.uint8)


def _reinhard_profile(tissue: Bytes, common: dict[str, Any]) -> StainProfile:
    lab = rgb_to_lab(tissue)
    mean = lab.mean(axis=0, dtype=np.float64)
    std = lab.std(axis=0, dtype=np.float64)
    if not (std.min() >= LEAST_LAB_STD[0] and std.max() >= LEAST_LAB_STD[1]):
        return StainProfile(
            **common,
            flag="tissue has one colour only (standard deviation "
            f"{std.min():.2f} to {std.max():.2f} in CIELAB)",
        )
    return StainProfile(
        **common,
        lab_mean=tuple(float(value) for value in mean),
        lab_std=tuple(float(value) for value in std),
    )


def _apply_reinhard(rgb: Bytes, source: StainProfile, target: StainProfile) -> Bytes:
    scale = np.asarray(target.lab_std) / np.asarray(source.lab_std)
    shift = np.asarray(target.lab_mean) - scale * np.asarray(source.lab_mean)
    # L*, a*, b* are linear in the cube roots, and so is the whole step, but for L* = 116 f - 16.
    back = np.linalg.inv(_LAB_OF_ROOTS)
    mix = (back @ (scale[:, None] * _LAB_OF_ROOTS)).T.astype(np.float32)
    offset = (back @ (shift + (1.0 - scale) * np.array([16.0, 0.0, 0.0]))).astype(np.float32)
    to_rgb = (np.linalg.inv(_TO_XYZ) * _XYZ_OF_WHITE).T.astype(np.float32)
    gamma = _gamma_table()
    flat = rgb.reshape(-1, 3)
    result = np.empty(flat.shape, np.uint8)
    for start in range(0, flat.shape[0], CHUNK):
        pixels = flat[start : start + CHUNK]
        roots = _roots(pixels)
        stained = optical_density(pixels, source.background).mean(axis=1, keepdims=True) / FADE_DENSITY
        roots += np.clip(stained, 0.0, 1.0) * (roots @ mix + offset - roots)
        cubes = roots * roots * roots
        xyz = np.where(cubes > _EPSILON, cubes, (116.0 * roots - 16.0) / np.float32(_KAPPA))
        linear = np.clip(xyz @ to_rgb, 0.0, 1.0)
        result[start : start + CHUNK] = gamma[(linear * _GAMMA_STEPS + 0.5).astype(np.int32)]
    return result.reshape(rgb.shape)
