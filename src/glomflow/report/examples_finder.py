"""Which held-out fields the report shows of the finder: the best, the middle one and the worst."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.evaluation.detection_summary import FinderSummary
from glomflow.report.figures_finder import DrawnOutline, OutlinePanel
from glomflow.report.figures_images import Pixels
from glomflow.report.numbers import NBSP, number
from glomflow.report.tables import keyed

LONGEST = 900
"""Longest edge of a field in the report, px."""

WINDOW_UM = 2500.0
"""Edge of the part that is shown of a larger image, µm."""

Window = tuple[float, float, float, float]
"""Left, top, width and height, full-resolution px."""


def shown_fields(fields: pd.DataFrame) -> list[tuple[str, str]]:
    """Chooses the fields of highest, median and lowest Dice coefficient.

    Args:
        fields: FINDER_FIELDS rows.

    Returns:
        Name (``best``, ``median``, ``worst``) and image; fewer than three where there are fewer fields
        in which something was annotated or found. The median of an even number is the lower one.
    """
    ranked = fields.dropna(subset=["dice"]).sort_values(["dice", "image"], ascending=[False, True])
    images = ranked["image"].tolist()
    places = {"best": 0, "median": len(images) // 2, "worst": len(images) - 1}
    chosen: dict[str, str] = {}
    for name, place in places.items():
        if images and images[place] not in chosen.values():
            chosen[name] = images[place]
    return list(chosen.items())


def outline_examples(summary: FinderSummary, inventory: pd.DataFrame, folder: Path) -> list[OutlinePanel]:
    """Reads the chosen fields and lays their outlines over them.

    Of an image larger than :data:`WINDOW_UM` the part around the densest glomeruli is shown.

    Args:
        summary: The finder's evaluation.
        inventory: INVENTORY rows; they name the files.
        folder: The cohort folder.

    Returns:
        The panels, the best field first.

    Raises:
        ImageError: An image cannot be read.
    """
    from glomflow.imaging.pixels import as_rgb_uint8
    from glomflow.imaging.readers import open_image

    files, rows = keyed(inventory, "image"), keyed(summary.fields, "image")
    panels = []
    for name, image in shown_fields(summary.fields):
        own = summary.outlines[summary.outlines["image"] == image]
        outlines = [np.array(json.loads(text), dtype=np.float64) for text in own["points"]]
        with open_image(folder / str(files[image,]["path"])) as reader:
            size = (reader.width, reader.height)
            left, top, width, height = window(outlines, size, float(files[image,]["um_per_px"]))
            scale = min(1.0, LONGEST / max(width, height))
            edges = max(1, round(width * scale)), max(1, round(height * scale))
            picture: Pixels = as_rgb_uint8(reader.read_region(left, top, width, height, *edges))
        drawn = [
            DrawnOutline((points - [left, top]) * scale, str(kind), str(outcome))
            for points, kind, outcome in zip(outlines, own["kind"], own["outcome"], strict=True)
        ]
        row = rows[image,]
        found = f"{row['found']} found, {row['hits']} of them right" if row["found"] else "none found"
        caption = f"{image}\n{row['annotated']} annotated, {found}; Dice{NBSP}{number(row['dice'])}"
        panels.append(OutlinePanel(picture, drawn, f"{name} field".capitalize(), caption))
    return panels


def window(outlines: list[NDArray[np.float64]], size: tuple[int, int], um_per_px: float) -> Window:
    """Returns the part of an image to show.

    Args:
        outlines: (K, 2) x and y of what lies in it, px.
        size: Width and height of the image, px.
        um_per_px: Pixel size, µm/px.

    Returns:
        The whole image, or of a larger one a window around the outline with most neighbours.
    """
    edge = WINDOW_UM / um_per_px
    if max(size) <= edge or not outlines:
        return 0.0, 0.0, float(size[0]), float(size[1])
    centres = np.array([points.mean(axis=0) for points in outlines])
    near = np.abs(centres[:, None] - centres[None]).max(axis=2) <= edge / 2
    centre = centres[near.sum(axis=1).argmax()]
    width, height = min(edge, size[0]), min(edge, size[1])
    left = float(np.clip(centre[0] - width / 2, 0, size[0] - width))
    top = float(np.clip(centre[1] - height / 2, 0, size[1] - height))
    return left, top, float(width), float(height)
