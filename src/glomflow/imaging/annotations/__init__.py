"""Outlines of glomeruli, from every format they are drawn in and back to QuPath."""

from __future__ import annotations

from glomflow.imaging.annotations.convert import convert_annotations
from glomflow.imaging.annotations.geojson import write_geojson
from glomflow.imaging.annotations.masks import outlines_of_labels
from glomflow.imaging.annotations.outline import (
    BORDER_PX,
    Outline,
    Points,
    polygon_area,
    polygon_mask,
    share_inside,
    touches_border,
)
from glomflow.imaging.annotations.read import FORMATS, read_outlines, verify_annotation

__all__ = [
    "BORDER_PX",
    "FORMATS",
    "Outline",
    "Points",
    "convert_annotations",
    "outlines_of_labels",
    "polygon_area",
    "polygon_mask",
    "read_outlines",
    "share_inside",
    "touches_border",
    "verify_annotation",
    "write_geojson",
]
