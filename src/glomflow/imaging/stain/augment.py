"""Stain augmentation: training images as other laboratories might have stained them.

An image is taken apart into three stains, the amount of each is scaled and shifted, the stain vectors
are turned a little, and the image is put together again (Tellez et al. 2018, IEEE TMI 37(9), "Whole-slide
mitosis detection in H&E breast histology using PHH3 as a reference to train distilled stain-invariant
convolutional networks"). The stains are those that Ruifrok and Johnston (2001, Anal Quant Cytol Histol
23(4), "Quantification of histochemical staining by color deconvolution") tabulate for haematoxylin, eosin
and diaminobenzidine: being three, they make up every colour, so that no estimate has to succeed and any
histological stain can be augmented. All changes of an image amount to one 3 x 3 matrix and one offset of
its optical density, the same on numpy and torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glomflow.errors import GlomflowError
from glomflow.imaging.stain.profile import Bytes, Floats, check_rgb

if TYPE_CHECKING:
    import torch

Doubles = npt.NDArray[np.float64]

AMOUNT = 0.35
"""Greatest change of a stain's amount at strength 1: by a factor of exp(-0.35) to exp(0.35)."""
SHIFT = 0.06
"""Greatest amount of a stain added or taken away at strength 1, optical density of tissue."""
TURN = 0.08
"""Greatest change of each component of a stain vector at strength 1, before it has unit length again."""
DRAWS = 15
"""Uniform numbers that one image takes: three scales, three shifts, nine components."""

FADE_DENSITY = 0.15
"""Pixels of less mean optical density are shifted in part, white ones not at all: glass stays glass."""

_VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STAINS: Doubles = _VECTORS / np.linalg.norm(_VECTORS, axis=1, keepdims=True)
"""Haematoxylin, eosin and diaminobenzidine, unit optical density of R, G, B."""

_DENSITY: Floats = -np.log(np.arange(1.0, 257.0) / 256.0).astype(np.float32)


def augment_stains(rgb: Bytes, rng: np.random.Generator, strength: float) -> Bytes:
    """Recolours one image at random, as another laboratory might have stained it.

    Args:
        rgb: (H, W, 3) uint8, or any (..., 3) that is to change as one.
        rng: Source of the draws; the same state gives the same image.
        strength: 0 leaves the image as it is; 1 spans about what slides of one laboratory differ by.

    Returns:
        uint8 of the same shape; ``rgb`` itself at strength 0.

    Raises:
        GlomflowError: ``rgb`` is not 8-bit RGB, or the strength is negative or not finite.
    """
    check_rgb(rgb)
    check_strength(strength)
    draws = rng.uniform(-1.0, 1.0, (1, DRAWS))
    if strength == 0.0 or not rgb.size:
        return rgb
    mixes, shifts = stain_changes(draws, strength)
    density = _DENSITY[rgb]
    faded = np.minimum(density.mean(axis=-1, keepdims=True) / FADE_DENSITY, 1.0)
    changed = density @ mixes[0] + faded * shifts[0]
    light = 256.0 * np.exp(-np.clip(changed, 0.0, 16.0)) - 0.5
    result: Bytes = np.clip(light, 0.0, 255.0).astype(np.uint8)
    return result


def augment_batch(images: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    """Recolours each image of a batch at random, by the arithmetic of :func:`augment_stains`.

    Args:
        images: (B, H, W, 3) uint8, on any device.
        generator: CPU generator, so that devices agree.
        strength: See :func:`augment_stains`.

    Returns:
        (B, H, W, 3) uint8 on the same device; ``images`` itself at strength 0.

    Raises:
        GlomflowError: The images are not (B, H, W, 3) uint8, or the strength is negative or not finite.
    """
    import torch

    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise GlomflowError(
            f"stain augmentation expects a batch of 8-bit RGB, uint8 of shape (B, H, W, 3), not "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    check_strength(strength)
    draws = torch.rand(images.shape[0], DRAWS, generator=generator, dtype=torch.float64)
    if strength == 0.0 or not images.numel():
        return images
    changes = stain_changes(2.0 * draws.numpy() - 1.0, strength)
    mixes, shifts = (torch.from_numpy(change).to(images.device) for change in changes)
    density = torch.from_numpy(_DENSITY).to(images.device)[images.int()].flatten(1, 2)
    faded = (density.mean(dim=-1, keepdim=True) / FADE_DENSITY).clamp(max=1.0)
    # Three products and sums in float32 rather than a matrix product, which a GPU may round to TF32.
    changed = faded * shifts[:, None, :]
    for channel in range(3):
        changed += density[..., channel : channel + 1] * mixes[:, None, channel, :]
    light = 256.0 * torch.exp(-changed.clamp(0.0, 16.0)) - 0.5
    return light.clamp(0.0, 255.0).to(torch.uint8).reshape(images.shape)


def stain_changes(draws: Doubles, strength: float) -> tuple[Floats, Floats]:
    """Turns uniform numbers into what is done to optical densities.

    Args:
        draws: (B, 15) uniform numbers in [-1, 1].
        strength: 0 for no change.

    Returns:
        Matrices (B, 3, 3) that a row of optical densities of R, G, B is multiplied by, and offsets
        (B, 3) added to those of tissue; float32.
    """
    scales = np.exp(strength * AMOUNT * draws[:, :3])
    amounts = strength * SHIFT * draws[:, 3:6]
    vectors = STAINS + strength * TURN * draws[:, 6:].reshape(-1, 3, 3)
    vectors = np.maximum(vectors, 0.0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-6)
    mixes = (np.linalg.inv(STAINS) * scales[:, None, :]) @ vectors
    shifts = (amounts[:, None, :] @ vectors)[:, 0]
    return mixes.astype(np.float32), shifts.astype(np.float32)


def check_strength(strength: Any) -> None:
    """Checks the strength of an augmentation.

    Raises:
        GlomflowError: It is negative or not finite.
    """
    if not (math.isfinite(strength) and strength >= 0.0):
        raise GlomflowError(
            f"the strength of stain augmentation is {strength}; give a number of at least 0, such as 0.5"
        )
