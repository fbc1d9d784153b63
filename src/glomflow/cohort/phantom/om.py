"""Light microscopy of the phantom: a field of cortex with glomeruli, stained PAS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomflow.cohort.phantom.fields import (
    Array,
    Cells,
    band,
    blend,
    nucleus_stamps,
    paste,
    ramp,
    smooth_noise,
    tessellate,
)
from glomflow.cohort.phantom.glomerulus import Section, draw_glomerulus
from glomflow.cohort.phantom.sites import Site

DIAMETER_UM = (156.0, 188.0)
"""Range of the mean diameter of Bowman's capsule, µm."""

_CELL_UM = 270.0
_MIN_SIDE_PX = 1100
_TUBULE_UM = 50.0


@dataclass(frozen=True)
class Field:
    """A drawn OM field.

    Attributes:
        rgb: (H, W, 3) uint8.
        outlines: For each glomerulus (k, 2) x and y of Bowman's capsule, px from the image's corner.
    """

    rgb: npt.NDArray[np.uint8]
    outlines: list[Array]


def draw_field(rng: np.random.Generator, site: Site, appearance: str, lesions: list[str]) -> Field:
    """Draws a field of cortex.

    Args:
        rng: Source of the draws.
        site: Pixel size, stain matrix, focus and noise.
        appearance: Disease whose pattern the glomeruli show, or ``nondiagnostic``.
        lesions: Lesion class of each glomerulus.
    """
    shape, centres = _lay_out(rng, len(lesions), site.om_um_per_px)
    sections = [
        draw_glomerulus(rng, site.om_um_per_px, rng.uniform(*DIAMETER_UM), lesion, appearance)
        for lesion in lesions
    ]
    haematoxylin, pas = _draw_cortex(rng, shape, site.om_um_per_px, centres, sections)
    outlines = []
    for centre, section in zip(centres, sections, strict=True):
        _place(section, centre, haematoxylin, pas)
        outlines.append(section.outline / np.float32(site.om_um_per_px) + centre + np.float32(0.5))
    return Field(_stain(rng, haematoxylin, pas, site), outlines)


def _lay_out(rng: np.random.Generator, count: int, um_per_px: float) -> tuple[tuple[int, int], Array]:
    """Chooses the size of the field and the centres of the glomeruli, px."""
    cols = int(np.ceil(np.sqrt(count * 1.2)))
    rows = int(np.ceil(count / cols))
    cell = _CELL_UM / um_per_px
    width = max(_MIN_SIDE_PX, int(cols * cell)) + int(rng.integers(0, 60))
    height = max(_MIN_SIDE_PX, int(rows * cell)) + int(rng.integers(0, 60))
    step = np.array([width / cols, height / rows])
    slots = rng.permutation(cols * rows)[:count]
    grid = np.stack([slots % cols, slots // cols], axis=1)
    room = (step - 0.87 * cell) / 2
    return (height, width), ((grid + 0.5) * step + rng.uniform(-1, 1, (count, 2)) * room).round().astype(
        np.float32
    )


def _double(image: npt.NDArray[np.generic], shape: tuple[int, int]) -> Array:
    """Enlarges a half-size field to ``shape`` by linear interpolation."""
    result = image.astype(np.float32)
    for axis, length in enumerate(shape):
        position = np.arange(length, dtype=np.float32) * np.float32(0.5)
        index = position.astype(np.intp)
        weight = (position - np.floor(position)).reshape((-1, 1) if axis == 0 else (1, -1))
        low = result.take(index, axis=axis)
        result = low + weight * (result.take(index + 1, axis=axis) - low)
    return result


def _draw_cortex(
    rng: np.random.Generator,
    shape: tuple[int, int],
    um_per_px: float,
    centres: Array,
    sections: list[Section],
) -> tuple[Array, Array]:
    """Draws tubules and interstitium, which give way to the glomeruli."""
    half = (shape[0] // 2 + 2, shape[1] // 2 + 2)
    cells = _tubules(rng, half, 2 * um_per_px)
    room = np.minimum(cells.border, _clearance(half, centres, sections, um_per_px))
    border = _double(_rounded(room, 6.5, 2 * um_per_px), shape)
    owner = np.repeat(np.repeat(cells.owner, 2, axis=0), 2, axis=1)[: shape[0], : shape[1]]
    texture = smooth_noise(rng, shape, 1.8 / um_per_px)
    kind = rng.random(len(cells.seeds), dtype=np.float32)
    proximal = (kind < 0.6).astype(np.float32)
    height = np.where(kind < 0.6, 16.5, 11.0) + 1.5 * rng.standard_normal(len(kind))
    height[rng.random(len(kind)) < 0.12] = 60.0
    lumen_depth = border - height.astype(np.float32)[owner] - 1.2 * texture
    proximal_map = proximal[owner]

    pas = 0.22 + 0.08 * proximal_map + 0.06 * texture
    haematoxylin = 0.20 - 0.04 * proximal_map + 0.04 * texture
    lumen = ramp(lumen_depth, 0.0, 1.5)
    blend(pas, lumen, 0.03)
    blend(haematoxylin, lumen, 0.03)
    blend(pas, band(lumen_depth, -1.0, 1.2, 1.0) * proximal_map, 0.55)
    blend(pas, ramp(-border, -1.4, 1.0), 0.36 + 0.10 * texture)
    blend(haematoxylin, ramp(-border, -1.4, 1.0), 0.12)
    blend(pas, band(border, 1.2, 2.6, 0.9), 1.0)
    _add_cortex_nuclei(rng, border, lumen_depth, um_per_px, haematoxylin, pas)
    return haematoxylin, pas


def _tubules(rng: np.random.Generator, half: tuple[int, int], um_per_px: float) -> Cells:
    """Tessellates the field into tubules of mixed direction."""
    y, x = np.meshgrid(
        np.arange(half[0], dtype=np.float32) * np.float32(um_per_px),
        np.arange(half[1], dtype=np.float32) * np.float32(um_per_px),
        indexing="ij",
    )
    direction = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(direction)), np.float32(np.sin(direction))
    along, across = (x * cos + y * sin) / np.float32(1.35), y * cos - x * sin
    along += 9 * smooth_noise(rng, half, 45 / um_per_px)
    across += 9 * smooth_noise(rng, half, 45 / um_per_px)
    return tessellate(rng, along, across, _TUBULE_UM, 0.30)


def _rounded(depth: Array, radius: float, um_per_px: float) -> Array:
    """Rounds the corners of the regions of positive depth to that radius, µm."""
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(depth < radius).astype(np.float32) * np.float32(um_per_px)
    return np.where(depth < radius, np.float32(radius) - outside, depth)


def _clearance(half: tuple[int, int], centres: Array, sections: list[Section], um_per_px: float) -> Array:
    """Returns the distance to the nearest glomerulus in µm on the half-size grid, capped."""
    result = np.full(half, 100.0, np.float32)
    for (cx, cy), section in zip(centres.tolist(), sections, strict=True):
        reach = float(np.hypot(*section.outline.T).max()) / um_per_px + 80
        top, bottom = (int(np.clip((cy + s * reach) / 2, 0, half[0])) for s in (-1, 1))
        left, right = (int(np.clip((cx + s * reach) / 2, 0, half[1])) for s in (-1, 1))
        y, x = np.meshgrid(
            np.arange(top, bottom, dtype=np.float32) * 2 - np.float32(cy),
            np.arange(left, right, dtype=np.float32) * 2 - np.float32(cx),
            indexing="ij",
        )
        corners = np.hypot(section.outline[:, 0], section.outline[:, 1])
        turn = (np.arctan2(y, x) / (2 * np.pi) % 1.0) * len(corners)
        edge = np.interp(turn, np.arange(len(corners) + 1), np.append(corners, corners[0]))
        distance = np.hypot(x, y) * np.float32(um_per_px) - edge.astype(np.float32) - np.float32(1.5)
        window = result[top:bottom, left:right]
        np.minimum(window, distance, out=window)
    return result


def _add_cortex_nuclei(
    rng: np.random.Generator,
    border: Array,
    lumen_depth: Array,
    um_per_px: float,
    haematoxylin: Array,
    pas: Array,
) -> None:
    """Lines the tubules with basal nuclei and sprinkles some over the interstitium."""
    step = 8.0 / um_per_px
    rows, cols = int(border.shape[0] / step), int(border.shape[1] / step)
    grid = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 2)
    places = ((grid + rng.uniform(0.2, 0.8, grid.shape)) * step).astype(np.float32)
    index = places.astype(int)
    depth = border[index[:, 1], index[:, 0]]
    basal = (depth > 4.5) & (depth < 10.5) & (lumen_depth[index[:, 1], index[:, 0]] < -2)
    chance = 0.55 * basal + 0.30 * ((depth > -1) & (depth < 1.0))
    centres = places[rng.random(len(places)) < chance]
    stamps = nucleus_stamps(rng, 24, 3.3, 2.9, um_per_px)
    layer = np.zeros_like(haematoxylin)
    paste(layer, stamps, centres, rng.integers(len(stamps), size=len(centres)))
    cover = np.clip(1.6 * layer, 0, 1)
    blend(haematoxylin, cover, 1.15 * layer)
    blend(pas, cover, 0.30)


def _place(section: Section, centre: Array, haematoxylin: Array, pas: Array) -> None:
    """Lays a glomerulus over the cortex in place; its patch has an odd edge."""
    side = section.pas.shape[0]
    left, top = (int(value) - side // 2 for value in centre)
    for canvas, patch in ((haematoxylin, section.haematoxylin), (pas, section.pas)):
        height, width = canvas.shape
        rows, cols = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
        inner = (slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left))
        blend(canvas[rows, cols], section.cover[inner], patch[inner])


def _stain(rng: np.random.Generator, haematoxylin: Array, pas: Array, site: Site) -> npt.NDArray[np.uint8]:
    """Turns concentrations into colours by Beer and Lambert's law, then adds focus blur and noise."""
    from scipy import ndimage

    sigma = site.om_blur / site.om_um_per_px
    strength = rng.uniform(0.9, 1.1, 2)
    blurred = [
        np.clip(ndimage.gaussian_filter(layer, sigma, truncate=3), 0, None) * np.float32(factor)
        for layer, factor in zip((haematoxylin, pas), strength, strict=True)
    ]
    rgb = np.empty((*pas.shape, 3), np.uint8)
    grain = rng.standard_normal((*pas.shape, 3), dtype=np.float32)
    for channel in range(3):
        density = sum(
            layer * np.float32(vector[channel])
            for layer, vector in zip(blurred, site.stain_matrix, strict=True)
        )
        value = 255 * np.exp(-density) + np.float32(site.om_noise) * grain[..., channel]
        rgb[..., channel] = np.clip(np.rint(value), 0, 255)
    return rgb
