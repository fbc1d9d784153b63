"""Background of immunofluorescence images: what would be there without any staining."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glomflow.config import ImCrops

Levels = npt.NDArray[np.float32]

THUMBNAIL_PX = {"percentile": 512, "rolling": 96}
"""Longest edge of the picture that background is estimated on; averaging also takes the noise away."""
MOST = 0.25
"""Background is at most this share of full brightness: more than that is signal that fills the image."""


def background_of(picture: Levels, settings: ImCrops) -> tuple[Levels, bool]:
    """Estimates the background of each channel of a whole image.

    - ``percentile``: a low percentile of the brightness, one value per channel.
    - ``rolling``: the brightness that a ball rolling underneath reaches (Sternberg, Computer 16(1),
      1983): a grey-scale opening with a ball of ``background_radius``, flattened to the height that
      background may have.

    It is bounded by :data:`MOST` of full brightness, so that an image full of signal is not emptied.

    Args:
        picture: (h, w, C) brightness of the whole image, at most ``THUMBNAIL_PX`` px, 0 to 1.
        settings: Method and parameters.

    Returns:
        The background, (1, 1, C) or (h, w, C), nowhere above ``picture`` with ``rolling``; and whether
        it was bounded in more than half of the image.

    Raises:
        ValueError: ``settings.background`` is ``none``.
    """
    if settings.background == "percentile":
        floor = np.percentile(picture, settings.background_percentile, axis=(0, 1), keepdims=True)
    elif settings.background == "rolling":
        floor = np.stack([_rolled(plane, settings) for plane in np.moveaxis(picture, 2, 0)], axis=2)
    else:
        raise ValueError("there is no background to estimate with background: none")
    most = MOST * settings.max_level
    return np.minimum(floor, most).astype(np.float32), bool(np.median(floor) > most)


def background_at(
    floor: Levels, x: float, y: float, edge: float, image_size: tuple[int, int], size: int
) -> Levels:
    """Samples a background at the pixels of a square crop, bilinearly.

    Args:
        floor: (h, w, C), or (1, 1, C) for one value.
        x: Left edge of the crop, full-resolution px.
        y: Top edge.
        edge: Edge of the crop, full-resolution px.
        image_size: Width and height of the image, px.
        size: Edge of the crop, px.

    Returns:
        (size, size, C), or (1, 1, C).
    """
    from scipy.ndimage import map_coordinates

    height, width, channels = floor.shape
    if height == width == 1:
        return floor
    steps = (np.arange(size) + 0.5) * (edge / size)
    rows = (y + steps) * (height / image_size[1]) - 0.5
    columns = (x + steps) * (width / image_size[0]) - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    planes = [
        map_coordinates(floor[:, :, channel], grid, order=1, mode="nearest") for channel in range(channels)
    ]
    return np.stack(planes, axis=2).astype(np.float32)


def _rolled(plane: Levels, settings: ImCrops) -> Levels:
    from scipy.ndimage import grey_opening

    radius = max(1, round(settings.background_radius * min(plane.shape)))
    offset = np.arange(-radius, radius + 1) / radius
    squared = offset[:, None] ** 2 + offset**2
    ball = MOST * settings.max_level * (np.sqrt(np.clip(1.0 - squared, 0.0, None)) - 1.0)
    opened = grey_opening(plane.astype(np.float64), footprint=squared <= 1.0, structure=ball)
    floor: Levels = np.clip(np.minimum(opened, plane), 0.0, None).astype(np.float32)
    return floor
