"""Outlines that the finder found, as the stages after it take them."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

from glomflow.imaging.annotations import Outline


def found_outlines(found: pd.DataFrame, searched: Iterable[str] = ()) -> dict[str, list[Outline]]:
    """Returns the outlines found in each image.

    Args:
        found: FOUND rows.
        searched: Images that were searched, also in vain.

    Returns:
        Image to outlines, in the order of the rows; none for an image that was searched in vain.
    """
    outlines: dict[str, list[Outline]] = {image: [] for image in searched}
    for row in found[["image", "glomerulus", "points"]].itertuples(index=False):
        polygon = np.array(json.loads(str(row.points)), dtype=np.float64)
        outlines.setdefault(str(row.image), []).append(Outline(polygon, None, str(row.glomerulus)))
    return outlines
