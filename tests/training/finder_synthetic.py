"""Fields of violet discs on pink ground, and models that need no training, for the finder's tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from glomflow.config_finder import Finder
from glomflow.imaging.annotations import Outline
from glomflow.training.finder_types import FinderField

PINK, VIOLET = (225, 160, 190), (120, 60, 150)


def circle(x: float, y: float, radius: float) -> Outline:
    angle = np.arange(64) * (2 * np.pi / 64)
    return Outline(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1))


def draw(width: int, height: int, discs: list[tuple[float, float, float]], noise: float = 6.0) -> np.ndarray:
    """Discs (x, y, radius) on pink ground with blurred noise, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    for left, top, radius in discs:
        inside |= (x - left) ** 2 + (y - top) ** 2 < radius**2
    picture = np.where(inside[..., None], VIOLET, PINK).astype(np.float32)
    rng = np.random.default_rng(5)
    picture += noise * 4 * gaussian_filter(rng.normal(size=(height, width, 1)), (1.5, 1.5, 0))
    return np.clip(picture, 0, 255).astype(np.uint8)


def field(name: str, discs: list[tuple[float, float, float]], edge: int = 128) -> FinderField:
    """A square field at 2 µm/px."""
    outlines = tuple(circle(*disc) for disc in discs)
    return FinderField(name, draw(edge, edge, discs), 2.0, outlines)


def settings(**changes: Any) -> Finder:
    """A finder for 64 px patches, and no smoothing of outlines beyond half a pixel."""
    training = {"steps": 4, "batch_size": 2, "patch": 64, "validate_every": 2, "validation_patches": 4}
    training |= changes.pop("training", {})
    return Finder(**{"tile": 64, "simplify_um": 1.0, "training": training, **changes})


class Violet:
    """Calls violet pixels glomerulus; works pixel by pixel, so that tiles cannot matter."""

    name = "violet"
    any_size = True

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def predict(self, tiles: np.ndarray) -> np.ndarray:
        self.seen += [tuple(tile.shape) for tile in tiles]
        return ((tiles[..., 1] < 110) * np.float32(0.8))[:, None]
