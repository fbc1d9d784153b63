"""Electron-dense deposits of the phantom's micrographs: where each disease lays them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glomflow.cohort.phantom.factors import NONDIAGNOSTIC
from glomflow.cohort.phantom.fields import Array, Mask, blend, draw_outline, ramp, smooth_noise
from glomflow.cohort.phantom.wall import SOFT_NM, Wall

_DENSE = 0.15
_REACH_NM = 1750.0
"""Deposits are laid this far from the middle of the image at most."""


@dataclass(frozen=True)
class Deposit:
    """One deposit in the coordinates of the wall, nm.

    Attributes:
        along: Position of the middle along the membrane.
        across: Position of the middle across it, positive towards the podocyte.
        half_length: Half extent along.
        half_height: Half extent across.
    """

    along: float
    across: float
    half_length: float
    half_height: float


@dataclass(frozen=True)
class Layout:
    """The deposits of one image and what they do to the wall.

    Attributes:
        row: Deposits along the wall.
        outer: Height of new matrix on the outer side of the membrane, nm (0: none).
        mesangial: Number of deposits to lay into the mesangial matrix.
        fused: Whether foot processes are effaced where deposits are.
    """

    row: tuple[Deposit, ...] = ()
    outer: float = 0.0
    mesangial: int = 0
    fused: bool = False

    def envelope(self, along: Array, half: float, *, outside: bool) -> Array:
        """Returns how far the deposits push the cells off one side of the membrane, nm.

        Args:
            along: (H, W) position along the membrane.
            half: Half thickness of the membrane.
            outside: The podocyte's side; else the endothelium's.
        """
        sign = 1.0 if outside else -1.0
        line = np.linspace(-6000, 6000, 1201)
        height = np.zeros_like(line)
        for deposit in self.row:
            top = sign * deposit.across + deposit.half_height - half + 20
            if top > 30:
                away = (line - deposit.along) / (1.25 * deposit.half_length)
                height = np.maximum(height, top * np.sqrt(np.clip(1 - away**2, 0, 1)))
        if outside:
            height = np.maximum(height, self.outer)
        return np.interp(along, line, height).astype(np.float32)


def lay_out(rng: np.random.Generator, appearance: str, stage: str | None, view: str, half: float) -> Layout:
    """Draws the deposits of one image.

    Args:
        rng: Source of the draws.
        appearance: Disease, or ``nondiagnostic``: small deposits within the membrane.
        stage: Stage of membranous nephropathy (I: few and small; II: many, with spikes of membrane
            between them; III: within a thickened membrane); not used for other diseases.
        view: ``capillary`` or ``mesangium``.
        half: Half thickness of the membrane, nm.
    """
    if appearance == NONDIAGNOSTIC:
        return Layout(_row(rng, 1050, (130, 170), (90, 120), lambda height: rng.uniform(-40, 40)))
    if appearance == "MN":
        return _membranous(rng, stage or "II", half)
    if appearance == "IgAN":
        return Layout(mesangial=int(rng.integers(8, 13)))
    wire_loop = _row(rng, 520, (290, 350), (200, 270), lambda height: -half - 0.92 * height)
    return Layout(wire_loop, mesangial=int(rng.integers(2, 5)) if view == "mesangium" else 0)


def _membranous(rng: np.random.Generator, stage: str, half: float) -> Layout:
    if stage == "I":
        humps = _row(rng, 620, (140, 190), (125, 150), lambda height: half + 0.8 * height)
        return Layout(humps, fused=True)
    if stage == "II":
        humps = _row(rng, 450, (150, 185), (170, 220), lambda height: half + 0.9 * height)
        return Layout(humps, outer=230.0, fused=True)
    within = _row(rng, 430, (160, 230), (140, 200), lambda height: half + rng.uniform(120, 420))
    return Layout(within, outer=640.0, fused=True)


def _row(
    rng: np.random.Generator,
    spacing: float,
    lengths: tuple[float, float],
    heights: tuple[float, float],
    across: Callable[[float], float],
) -> tuple[Deposit, ...]:
    """Draws a row of deposits along the membrane, about ``spacing`` apart."""
    count = int(2 * _REACH_NM / spacing)
    start = -spacing * (count - 1) / 2
    row = []
    for k in range(count):
        along = start + (k + rng.uniform(-0.12, 0.12)) * spacing
        height = rng.uniform(*heights)
        row.append(Deposit(along, across(height), rng.uniform(*lengths), height))
    return tuple(row)


def paint_deposits(
    rng: np.random.Generator, wall: Wall, layout: Layout, matrix: Mask | None, image: Array
) -> Mask:
    """Paints the deposits in place.

    Args:
        rng: Source of the draws.
        wall: Coordinates.
        layout: What to paint.
        matrix: Where mesangial deposits may lie, if the view shows mesangium.
        image: (H, W) brightness.

    Returns:
        (H, W) mask of the deposits.
    """
    nm = wall.nm_per_px
    rough = smooth_noise(rng, image.shape, 75 / nm)
    depth = np.full_like(image, -1000)
    for deposit in layout.row:
        _deepen(depth, wall, deposit, rough)
    if matrix is not None:
        for row, col in _mesangial_places(rng, matrix, layout.mesangial, nm):
            _deepen_blob(rng, depth, row, col, nm, rough)
    texture = smooth_noise(rng, image.shape, 20 / nm)
    blend(image, ramp(depth, 0, 1.3 * SOFT_NM), _DENSE + 0.03 * texture)
    return depth > 0


def _deepen(depth: Array, wall: Wall, deposit: Deposit, rough: Array) -> None:
    step = 6
    near = (np.abs(wall.along[::step, ::step] - deposit.along) < 1.5 * deposit.half_length + 60) & (
        np.abs(wall.across[::step, ::step] - deposit.across) < 1.5 * deposit.half_height + 60
    )
    hits = np.argwhere(near) * step
    if not len(hits):
        return
    (top, left), (bottom, right) = hits.min(axis=0) - step, hits.max(axis=0) + step
    window = (slice(max(0, top), bottom + 1), slice(max(0, left), right + 1))
    u = (wall.along[window] - np.float32(deposit.along)) / np.float32(deposit.half_length)
    v = (wall.across[window] - np.float32(deposit.across)) / np.float32(deposit.half_height)
    own = (1 + 0.10 * rough[window] - np.sqrt(u * u + v * v)) * np.float32(deposit.half_height)
    np.maximum(depth[window], own, out=depth[window])


def _mesangial_places(rng: np.random.Generator, matrix: Mask, count: int, nm: float) -> list[tuple[int, int]]:
    """Chooses places in the matrix, not too close to one another nor to the image's edge."""
    height, width = matrix.shape
    reach = int(_REACH_NM / nm)
    top, left = max(0, height // 2 - reach), max(0, width // 2 - reach)
    candidates = np.argwhere(matrix[top : top + 2 * reach : 4, left : left + 2 * reach : 4]) * 4
    places: list[tuple[int, int]] = []
    for row, col in rng.permutation(candidates).tolist():
        if len(places) == count:
            break
        if all(np.hypot(row - r, col - c) * nm > 560 for r, c in places):
            places.append((row, col))
    return [(row + top, col + left) for row, col in places]


def _deepen_blob(rng: np.random.Generator, depth: Array, row: int, col: int, nm: float, rough: Array) -> None:
    radius = rng.uniform(190, 310)
    outline = draw_outline(rng, radius, (2, 3), 0.20)
    half = int(1.5 * radius / nm)
    rows = slice(max(0, row - half), row + half + 1)
    cols = slice(max(0, col - half), col + half + 1)
    target = depth[rows, cols]
    y, x = np.meshgrid(
        (np.arange(rows.start, rows.start + target.shape[0], dtype=np.float32) - row) * np.float32(nm),
        (np.arange(cols.start, cols.start + target.shape[1], dtype=np.float32) - col) * np.float32(nm),
        indexing="ij",
    )
    own = outline.at(np.arctan2(y, x)) - np.hypot(x, y) + 18 * rough[rows, cols]
    np.maximum(target, own, out=target)
