"""Converting annotations of any format to GeoJSON for QuPath."""

from __future__ import annotations

from pathlib import Path

from glomflow.imaging.annotations.geojson import write_geojson
from glomflow.imaging.annotations.read import read_outlines


def convert_annotations(source: Path, image: Path, out: Path) -> str:
    """Reads the annotation of an image and writes it as GeoJSON.

    Args:
        source: The annotation, of any format that :func:`read_outlines` reads.
        image: The image that was annotated; only its size is read.
        out: The GeoJSON file.

    Returns:
        What was written, as a line to print.

    Raises:
        ImageError: The image or the annotation cannot be used.
    """
    from glomflow.imaging.readers import open_image

    with open_image(image) as reader:
        size = reader.width, reader.height
    outlines = read_outlines(source, image_size=size, image_name=image.as_posix())
    write_geojson(out, outlines)
    boxes = sum(outline.is_box for outline in outlines)
    kinds = f", {boxes} of them boxes" if boxes else ""
    return f"wrote {len(outlines)} outline{'s'[: len(outlines) != 1]}{kinds} to {out}"
