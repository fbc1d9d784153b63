"""What the glomerulus finder is trained on, what it is, and what it finds.

The library's interface to the finder:

- ``glomflow.training.finder_fit.train_finder(training, validation, settings, files, ...)`` trains one;
- ``glomflow.training.finder_models.load_finder(settings, weights, description, ...)`` loads one, trained
  here or brought along as a file;
- ``glomflow.training.finder_predict.find(image, um_per_px, finder, settings)`` applies it to an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glomflow.imaging.annotations import Outline

Bytes = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FinderField:
    """An image in which every glomerulus is outlined.

    Attributes:
        image: Identifier, for messages and random draws.
        source: The file, or the pixels, (H, W, 3) uint8.
        um_per_px: Pixel size at full resolution, µm/px.
        outlines: The glomeruli, full-resolution px; none for a field that is known to show none.
    """

    image: str
    source: Path | Bytes
    um_per_px: float
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class FinderFiles:
    """Where a training writes.

    Attributes:
        weights: Weights, safetensors.
        description: What is needed to rebuild the model, and how it was trained, JSON.
        history: One row per look at the validation patches, FINDER_HISTORY.
        checkpoint: State of an unfinished training; removed at the end.
    """

    weights: Path
    description: Path
    history: Path
    checkpoint: Path


@dataclass(frozen=True, eq=False)
class Found:
    """A glomerulus that the finder found.

    Attributes:
        polygon: (K, 2) x and y, full-resolution px of the image; the last point joins the first.
        score: Mean probability over its area, 0 to 1; detections are ranked by it.
        area_um2: Area, µm².
        at_border: Whether it is cut by the border of the image.
    """

    polygon: Points
    score: float
    area_um2: float
    at_border: bool

    @property
    def outline(self) -> Outline:
        """The outline, as annotations have it."""
        return Outline(self.polygon, None, None)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge, px."""
        return self.outline.box


class GlomerulusModel(Protocol):
    """A model that maps tiles to glomeruli."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def any_size(self) -> bool:
        """Whether it takes tiles of any size, or only those of the size in the configuration."""

    def predict(self, tiles: Bytes) -> npt.NDArray[Any]:
        """Predicts tiles.

        Args:
            tiles: (N, H, W, 3) uint8 at the finder's resolution, H and W multiples of 32.

        Returns:
            (N, C, H, W) float32, 0 to 1. Channel 0: probability of glomerulus. Channel 1, if the
            model has one: distance from the glomerulus's outline as a share of its largest.
        """
