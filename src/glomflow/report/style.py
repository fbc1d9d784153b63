"""Colours, type and saving of figures: one look for all of them, the same bytes every time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glomflow.errors import GlomflowError
from glomflow.files import atomic_path

P = ParamSpec("P")

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's colours, told apart with any common colour vision deficiency."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)), (0, (3, 1)), "-", "-")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")

INK = "#22262b"
MUTED = "#6b7280"
RULE = "#d7dade"
DEPOSIT = "#E69F00"

WIDTH = 9.0
"""Width of a full figure, inches."""

IMAGE_DPI = 130
"""Resolution of figures made of images, dots per inch."""

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "glomflow",
}


def colour(index: int) -> str:
    """Returns the colour of the ``index``-th class, model or method."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """Returns the marker of the ``index``-th class, model or method."""
    return MARKERS[index % len(MARKERS)]


def dashes(index: int) -> Any:
    """Returns the line style of the ``index``-th class, model or method."""
    return DASHES[index % len(DASHES)]


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Runs a figure function with the style of the report."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return function(*args, **kwargs)

    return inner


def new_figure(
    width: float, height: float, *, columns: int = 1, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with a row of axes.

    Args:
        width: Width, inches.
        height: Height, inches.
        columns: Axes beside each other.
        ratios: Relative widths of the axes.

    Returns:
        The figure and its axes from left to right.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, columns, squeeze=False, width_ratios=ratios)
    return figure, list(grid[0])


def save_figure(figure: Figure, path: str | Path, *, dpi: int = IMAGE_DPI) -> None:
    """Saves a figure atomically as SVG or PNG; the same figure gives the same bytes.

    Args:
        figure: The figure.
        path: Target; its suffix chooses the format.
        dpi: Resolution of a PNG and of images within an SVG, dots per inch.

    Raises:
        GlomflowError: The suffix is neither ``.svg`` nor ``.png``.
    """
    suffix = Path(path).suffix.lower()
    metadata: dict[str, dict[str, None]] = {
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
    }
    if suffix not in metadata:
        raise GlomflowError(f"figure {path}: cannot be saved as '{suffix}'; name it .svg or .png")
    with mpl.rc_context(RC), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata=metadata[suffix], facecolor="white")
