"""Boxes around glomeruli in a CSV file, of one image or of several."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from glomflow.imaging.annotations.names import choose_image
from glomflow.imaging.annotations.outline import (
    Outline,
    box_polygon,
    no_annotation,
    text_or_none,
    unreadable,
)
from glomflow.suggest import did_you_mean

CORNER_AND_SIZE = ("x", "y", "width", "height")
EDGES = ("left", "top", "right", "bottom")
_FURTHER = ("image", "lesion", "name")
_DELIMITERS = ",;\t"


def header_of(text: str) -> tuple[list[str], str]:
    """Returns the column names of a CSV text, in lower case, and what separates them."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    return [name.strip().strip('"').strip().lower() for name in first.split(delimiter)], delimiter


def is_boxes(text: str) -> bool:
    """Returns whether a text begins like a CSV file of boxes."""
    columns, _ = header_of(text)
    return len(set(columns) & {*CORNER_AND_SIZE, *EDGES}) >= 2


def outlines_of(text: str, where: str, image_name: str | None) -> list[Outline]:
    """Reads the boxes of one image.

    Args:
        text: The file. Its columns are ``x, y, width, height`` (the left upper corner) or ``left, top,
            right, bottom``, px at full resolution, and optionally ``image``, ``lesion`` and ``name``;
            separated by commas, semicolons or tabs.
        where: The file, for messages.
        image_name: Path or name of the image, compared with the column ``image``.

    Returns:
        A box per row.

    Raises:
        ImageError: Columns are missing or unknown, a cell is no number, a box has no area, or the
            image is not in the file. The reason names the row.
    """
    columns, delimiter = header_of(text)
    corners = _corner_columns(columns, where)
    rows = _rows(text, columns, delimiter, where)
    if not rows:
        raise no_annotation(f"{where} lists no box; add a row per glomerulus")
    if "image" in columns:
        blank = [number for number, row in rows if not row["image"]]
        if blank:
            raise unreadable(f"{where}, row {blank[0]}: the column 'image' is empty; fill it in every row")
        names = list(dict.fromkeys(row["image"] for _, row in rows))
        chosen = names[choose_image(names, image_name, where)]
        rows = [(number, row) for number, row in rows if row["image"] == chosen]
    return [_box(row, corners, f"{where}, row {number}", delimiter) for number, row in rows]


def _corner_columns(columns: list[str], where: str) -> tuple[str, ...]:
    allowed = (*CORNER_AND_SIZE, *EDGES, *_FURTHER)
    unknown = [name for name in columns if name not in allowed]
    if unknown:
        groups = f"{', '.join(CORNER_AND_SIZE)} or {', '.join(EDGES)}"
        raise unreadable(
            f"{where}, row 1: unknown column '{unknown[0]}'{did_you_mean(unknown[0], allowed, 0.6)}; the "
            f"columns are {groups}, and optionally {', '.join(_FURTHER)}"
        )
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise unreadable(f"{where}, row 1: the column '{twice[0]}' is there twice; remove one of them")
    complete = [group for group in (CORNER_AND_SIZE, EDGES) if set(group) <= set(columns)]
    if len(complete) != 1:
        problem = "both" if complete else "neither"
        raise unreadable(
            f"{where}, row 1: it has {problem} of {', '.join(CORNER_AND_SIZE)} and {', '.join(EDGES)}; give "
            "the boxes in one of these two ways"
        )
    return complete[0]


def _rows(text: str, columns: list[str], delimiter: str, where: str) -> list[tuple[int, dict[str, str]]]:
    """Returns the filled rows and their numbers; the header is row 1."""
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise unreadable(f"{where} is no CSV file ({error}); save it again") from error
    header = next(number for number, cells in enumerate(lines, 1) if any(cell.strip() for cell in cells))
    rows = []
    for number, cells in enumerate(lines[header:], header + 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise unreadable(
                f"{where}, row {number}: it has {len(cells)} cells, the header {len(columns)}; correct "
                "the row"
            )
        rows.append((number, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    return rows


def _box(row: Mapping[str, str], corners: tuple[str, ...], where: str, delimiter: str) -> Outline:
    values = [_number(row[column], column, where, delimiter) for column in corners]
    if corners == CORNER_AND_SIZE:
        left, top, width, height = values
        values = [left, top, left + width, top + height]
    polygon = box_polygon(values, where)
    return Outline(polygon, text_or_none(row.get("lesion")), text_or_none(row.get("name")), is_box=True)


def _number(cell: str, column: str, where: str, delimiter: str) -> float:
    # Where a comma cannot separate cells, it is a decimal comma.
    plain = cell.replace(",", ".") if delimiter != "," else cell
    try:
        return float(plain)
    except ValueError as error:
        raise unreadable(
            f"{where}: '{cell}' in column '{column}' is no number; write px such as 120.5"
        ) from error
