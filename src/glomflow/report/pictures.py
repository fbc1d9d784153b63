"""Figures embedded in the page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable
from pathlib import Path

from glomflow.errors import GlomflowError
from glomflow.report.blocks import Picture
from glomflow.report.captions import FIGURES, words

POINT = 96 / 72
"""CSS pixels in a point."""

LARGE_PNG = 150_000
"""Bytes above which a PNG is embedded as WebP: micrographs shrink tenfold, unseen at quality 85."""

_LENGTH = re.compile(
    rb'<svg\b[^>]*?\b(width|height)="([\d.]+)(pt|px)?"[^>]*?\b(width|height)="([\d.]+)(pt|px)?"'
)


def known(names: Iterable[str]) -> None:
    """Checks that figures have a place in the page.

    Args:
        names: Names of figures.

    Raises:
        GlomflowError: A name is not one of ``FIGURES``.
    """
    for name in names:
        if name.partition("-")[0] not in FIGURES:
            raise GlomflowError(
                f"report: there is no figure '{name}'; known are {', '.join(sorted(FIGURES))}"
            )


def embed(name: str, path: Path, further: str = "") -> Picture:
    """Reads a figure file into a picture of the page.

    Args:
        name: Name of the figure, one of ``FIGURES``, perhaps with a hyphen and of what it is one.
        path: SVG or PNG file.
        further: Sentence added to the caption.

    Returns:
        The picture with a data URI; large PNG files are stored as WebP.

    Raises:
        GlomflowError: The file is missing or is neither SVG nor PNG.
    """
    if not path.is_file():
        raise GlomflowError(f"report: figure {path} is missing; make the figures again")
    told = words(name)
    content = path.read_bytes()
    if path.suffix.lower() == ".svg":
        kind, (width, height) = "image/svg+xml", _svg_size(content, path)
    elif path.suffix.lower() == ".png":
        kind, content, width, height = _raster(content)
    else:
        raise GlomflowError(f"report: figure {path} is neither .svg nor .png")
    source = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    caption = f"{told.caption} {further}".strip()
    return Picture(source=source, alt=told.alt, caption=caption, width=round(width), height=round(height))


def _svg_size(content: bytes, path: Path) -> tuple[float, float]:
    found = _LENGTH.search(content)
    if found is None:
        raise GlomflowError(f"report: figure {path} has no width and height; save it with save_figure")
    sizes = {}
    for name, value, unit in (found.group(1, 2, 3), found.group(4, 5, 6)):
        sizes[name] = float(value) * (POINT if unit == b"pt" else 1.0)
    return sizes[b"width"], sizes[b"height"]


def _raster(content: bytes) -> tuple[str, bytes, float, float]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        dpi = float(image.info.get("dpi", (96.0, 96.0))[0])
        width, height = (96 * size / dpi for size in image.size)
        if len(content) <= LARGE_PNG:
            return "image/png", content, width, height
        packed = io.BytesIO()
        image.convert("RGB").save(packed, "WEBP", quality=85, method=4)
    return "image/webp", packed.getvalue(), width, height
