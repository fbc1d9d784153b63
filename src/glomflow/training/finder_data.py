"""What the finder learns from: patches of annotated fields, drawn and changed at random.

Every draw depends on the seed, the step and the patch's place in its batch alone, so that neither
threads nor a resumed training change a bit.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.config_finder import FinderTraining
from glomflow.errors import GlomflowError
from glomflow.imaging.annotations import Outline
from glomflow.imaging.annotations.outline import ellipse_polygon
from glomflow.imaging.readers import open_image
from glomflow.imaging.stain.augment import augment_stains
from glomflow.training.finder_image import ScaledImage, mirrored
from glomflow.training.finder_types import Bytes, FinderField
from glomflow.training.seeds import derive_seed

GLOMERULUS, DISTANCE = 3, 4
"""Channels of a prepared field behind R, G and B."""
_CHANNELS = 5
_BAND = 512
_TRIES = 8
_BRIGHT = 220
_ENOUGH_TISSUE = 0.05
_BLURRED = 0.2


@dataclass(frozen=True, eq=False)
class PreparedField:
    """A field at the finder's resolution, with what the network is to say of it.

    Attributes:
        image: Identifier.
        canvas: (H, W, 5) uint8: R, G, B, glomerulus (0 or 255), distance from the outline (0 to 255).
        centres: (n, 2) x and y of the glomeruli, px.
    """

    image: str
    canvas: Bytes
    centres: npt.NDArray[np.float64]


def prepare_field(field: FinderField, um_per_px: float, folder: Path) -> PreparedField:
    """Reads a field once, band by band, into a file that is gone when the field is.

    Args:
        field: The field.
        um_per_px: Resolution of the finder, µm/px.
        folder: Folder with room for 5 bytes per pixel.

    Returns:
        The field; an outline that lies outside the image is left out.

    Raises:
        ImageError: The image cannot be read.
        GlomflowError: Its pixel size cannot be used.
    """
    if isinstance(field.source, Path):
        with open_image(field.source) as reader:
            return _prepared(field, ScaledImage(reader, field.um_per_px, um_per_px), folder)
    return _prepared(field, ScaledImage(field.source, field.um_per_px, um_per_px), folder)


def _prepared(field: FinderField, image: ScaledImage, folder: Path) -> PreparedField:
    shape = (image.height, image.width, _CHANNELS)
    with tempfile.TemporaryFile(dir=folder) as handle:
        os.posix_fallocate(handle.fileno(), 0, math.prod(shape))
        canvas: Bytes = np.memmap(handle, dtype=np.uint8, mode="w+", shape=shape)
    for top in range(0, image.height, _BAND):
        rows = min(_BAND, image.height - top)
        canvas[top : top + rows, :, :GLOMERULUS] = image.read(0, top, image.width, rows)
    centres = []
    for outline in field.outlines:
        if _draw(canvas, outline, image.step):
            left, top, right, bottom = np.array(outline.box) / image.step
            centres.append([(left + right) / 2.0, (top + bottom) / 2.0])
    return PreparedField(field.image, canvas, np.array(centres, dtype=np.float64).reshape(-1, 2))


def _draw(canvas: Bytes, outline: Outline, step: float) -> bool:
    """Draws a glomerulus into the last two channels; tells whether any of it lies in the image."""
    from scipy.ndimage import distance_transform_edt
    from skimage.draw import polygon2mask

    height, width = canvas.shape[:2]
    left, top, right, bottom = box = np.array(outline.box) / step
    # A ring of background around it, but not beyond the image: a cut glomerulus has no outline there.
    x, y = max(0, int(left) - 1), max(0, int(top) - 1)
    columns, rows = min(width, int(right) + 2) - x, min(height, int(bottom) + 2) - y
    if columns < 1 or rows < 1:
        return False
    polygon = outline.polygon / step
    if outline.is_box:  # of a box, the ellipse that fits it is nearer to the glomerulus
        centre, radius = (box[:2] + box[2:]) / 2.0, (box[2:] - box[:2]) / 2.0
        polygon = ellipse_polygon((*centre, *radius), "box")
    # Pixel centres lie at half-integers.
    corners = (polygon - np.array([x, y]) - 0.5)[:, ::-1]
    mask = polygon2mask((rows, columns), corners)  # type: ignore[no-untyped-call]
    if not mask.any():
        return False
    distance = np.ones(mask.shape)
    if not mask.all():
        distance = distance_transform_edt(mask)
        distance /= distance.max()
    part = canvas[y : y + rows, x : x + columns]
    part[mask, GLOMERULUS] = 255
    part[..., DISTANCE] = np.maximum(part[..., DISTANCE], np.rint(255.0 * distance * mask))
    return True


class PatchSource:
    """Draws patches from fields.

    Args:
        fields: Annotated fields.
        settings: How patches are drawn and changed.
        seed: Base seed.

    Raises:
        GlomflowError: There is no field, or none shows a glomerulus.
    """

    def __init__(self, fields: Sequence[PreparedField], settings: FinderTraining, seed: int) -> None:
        counts = np.array([len(field.centres) for field in fields], dtype=np.float64)
        if not counts.sum():
            raise GlomflowError(
                f"finder: none of the {len(fields)} annotated images that it should learn from shows a "
                "glomerulus; outline glomeruli in some images"
            )
        self._fields = fields
        self._settings = settings
        self._seed = seed
        # The root keeps one slide with hundreds of glomeruli from crowding out the small fields.
        self._by_glomeruli = np.sqrt(counts) / np.sqrt(counts).sum()
        areas = np.sqrt([float(field.canvas.shape[0] * field.canvas.shape[1]) for field in fields])
        self._by_area = areas / areas.sum()

    def batch(self, *parts: object, count: int, changed: bool, pool: Executor) -> tuple[Bytes, Bytes]:
        """Draws a batch.

        Args:
            parts: What the batch is for, such as a step's number; the draws depend on it.
            count: Patches.
            changed: Change scale, orientation and colours at random.
            pool: Runs the patches.

        Returns:
            (B, P, P, 3) uint8 images and (B, P, P, 2) uint8 targets: glomerulus, distance.
        """
        draws = [np.random.default_rng(derive_seed(self._seed, *parts, number)) for number in range(count)]
        patches = np.stack(list(pool.map(lambda rng: self._patch(rng, changed), draws)))
        return patches[..., :GLOMERULUS], patches[..., GLOMERULUS:]

    def _patch(self, rng: np.random.Generator, changed: bool) -> Bytes:
        edge, settings = self._settings.patch, self._settings
        size = edge
        if changed:
            reach = float(np.log(settings.scale))
            size = max(8, round(edge * float(np.exp(rng.uniform(-reach, reach)))))
        window = self._window(rng, size)
        if not changed:
            return window
        window = _turned(_resized(window, edge), int(rng.integers(8)))
        rgb = np.ascontiguousarray(window[..., :GLOMERULUS])
        if settings.stain:
            rgb = augment_stains(rgb, rng, settings.stain)
        if settings.colour:
            rgb = _recoloured(rgb, rng, settings.colour)
        return np.concatenate([rgb, window[..., GLOMERULUS:]], axis=2)

    def _window(self, rng: np.random.Generator, size: int) -> Bytes:
        if rng.random() < self._settings.glomeruli:
            field = self._fields[rng.choice(len(self._fields), p=self._by_glomeruli)]
            centre = field.centres[rng.integers(len(field.centres))]
            return _cut(field.canvas, centre + rng.uniform(-0.4, 0.4, 2) * size, size)
        field = self._fields[rng.choice(len(self._fields), p=self._by_area)]
        height, width = field.canvas.shape[:2]
        for _ in range(_TRIES):
            window = _cut(field.canvas, rng.uniform(0.0, 1.0, 2) * (width, height), size)
            if (window[::8, ::8, :GLOMERULUS].min(axis=2) < _BRIGHT).mean() > _ENOUGH_TISSUE:
                break
        return window


def _cut(canvas: Bytes, centre: npt.NDArray[Any], size: int) -> Bytes:
    """Cuts a square that lies in the field, or is mirrored at its edges where the field is smaller."""
    height, width = canvas.shape[:2]
    left, top = (round(float(place) - size / 2.0) for place in centre)
    left = min(max(left, 0), width - size) if width >= size else (width - size) // 2
    top = min(max(top, 0), height - size) if height >= size else (height - size) // 2
    if width >= size and height >= size:
        return np.array(canvas[top : top + size, left : left + size])
    rows, columns = mirrored(top, size, height), mirrored(left, size, width)
    return np.array(canvas[rows[:, None], columns[None, :]])


def _resized(window: Bytes, edge: int) -> Bytes:
    from PIL import Image

    if window.shape[0] == edge:
        return window
    parts = [window[..., :GLOMERULUS], window[..., GLOMERULUS], window[..., DISTANCE]]
    pictures = [Image.fromarray(np.ascontiguousarray(part)) for part in parts]
    sized = [np.asarray(each.resize((edge, edge), Image.Resampling.BILINEAR)) for each in pictures]
    return np.concatenate([sized[0], sized[1][..., None], sized[2][..., None]], axis=2)


def _turned(window: Bytes, way: int) -> Bytes:
    """Turns a square one of eight ways: four right angles, as it is or mirrored."""
    turned = np.rot90(window, way % 4)
    return turned[:, ::-1] if way >= 4 else turned


def _recoloured(rgb: Bytes, rng: np.random.Generator, strength: float) -> Bytes:
    """Changes contrast, brightness and the balance of the channels, and blurs now and then."""
    from PIL import Image, ImageFilter

    gamma = np.exp(rng.uniform(-strength, strength))
    gain = 1.0 + rng.uniform(-0.5, 0.5, 3) * strength
    level = np.linspace(0.0, 1.0, 256)[:, None] ** gamma * gain + rng.uniform(-0.3, 0.3) * strength
    table = np.clip(np.rint(255.0 * level), 0, 255).astype(np.uint8)
    changed: Bytes = table[rgb, np.arange(3)]
    radius = rng.uniform(0.3, 1.2) if rng.random() < _BLURRED else 0.0
    if not radius:
        return changed
    return np.asarray(Image.fromarray(changed).filter(ImageFilter.GaussianBlur(radius)))
