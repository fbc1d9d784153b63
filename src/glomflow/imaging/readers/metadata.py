"""Pixel sizes and channel names from the tags that microscopes and programs write."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

Size = tuple[float, float]

COARSEST_RESOLUTION_TAG = 5.0
"""µm/px. Resolution tags that say more are print resolutions (5 µm is 5080 dpi), not pixel sizes."""

_MICROMETRES = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "meter": 1e6,
    "metre": 1e6,
    "centimeter": 1e4,
    "millimeter": 1e3,
    "nanometer": 1e-3,
    "picometer": 1e-6,
    "nm": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
}


def plausible(x: float | None, y: float | None) -> Size | None:
    """Returns the pixel size if both edges are believable, else None.

    Args:
        x: Edge along x, µm.
        y: Edge along y, µm.

    Returns:
        The pair, or None if one is missing, not finite, or outside 0.01 nm to 1 mm.
    """
    if x is None or y is None:
        return None
    if not all(math.isfinite(edge) and 1e-5 <= edge <= 1e3 for edge in (x, y)):
        return None
    return float(x), float(y)


def in_micrometres(value: object, unit: str | None) -> float | None:
    """Converts a length to µm; None if the value is no number or the unit no length.

    Args:
        value: Number, or text that holds one.
        unit: Name of the unit; ``µm`` in any of its spellings, ``nm``, ``mm``, ``inch``, ...
    """
    name = (unit or "").strip().lower().replace("\\u00b5", "u").replace("µ", "u").replace("μ", "u")
    try:
        return float(str(value)) * _MICROMETRES[name]
    except (KeyError, ValueError):
        return None


def from_resolution(x: object, y: object, unit_um: float) -> Size | None:
    """Returns the pixel size that resolution tags give, unless it is a print resolution.

    Args:
        x: Pixels per unit along x: a number, or numerator and denominator.
        y: Pixels per unit along y.
        unit_um: Length of the unit, µm.
    """
    edges = [unit_um / number if number else None for number in (_ratio(x), _ratio(y))]
    size = plausible(*edges)
    return size if size and max(size) < COARSEST_RESOLUTION_TAG else None


def _ratio(value: object) -> float | None:
    try:
        if isinstance(value, tuple):
            return float(value[0]) / float(value[1])
        return float(str(value))
    except (ValueError, ZeroDivisionError, IndexError):
        return None


@dataclass(frozen=True)
class Ome:
    """What is used of an OME-XML block, of its first image.

    Attributes:
        channels: Names of the channels, '' where there is none.
        pixel_size: Pixel size along x and y, µm, or None.
    """

    channels: tuple[str, ...]
    pixel_size: Size | None


def read_ome(xml: str) -> Ome:
    """Reads an OME-XML block; what is broken or missing in it comes out empty."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return Ome((), None)
    pixels = root.find("./{*}Image/{*}Pixels")
    if pixels is None:
        return Ome((), None)
    edges = [
        in_micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    ]
    channels = tuple((channel.get("Name") or "").strip() for channel in pixels.findall("{*}Channel"))
    return Ome(channels, plausible(*edges))


def qptiff_name(description: str) -> str:
    """Returns the name of the channel that a page of a QPTIFF shows, or ''."""
    match = re.search(r"<(Name|Biomarker)>([^<]+)</\1>", description)
    return match.group(2).strip() if match else ""


def tiff_pixel_size(file: Any, page: Any) -> Size | None:
    """Returns the pixel size that a TIFF's tags give.

    The dialects are asked in turn: OME-XML, Olympus SIS, FEI / Thermo Fisher, Aperio, ImageJ, and
    at last the resolution tags, which are believed only with a unit of length and a value that is no
    print resolution (see :data:`COARSEST_RESOLUTION_TAG`).

    Args:
        file: ``tifffile.TiffFile``.
        page: Its first page.

    Returns:
        Pixel size along x and y, µm, or None.
    """
    for dialect in (_from_ome, _from_sis, _from_fei, _from_aperio, _from_imagej, _from_tags):
        try:
            size = dialect(file, page)
        except (LookupError, TypeError, ValueError, AttributeError, struct.error):
            continue  # broken metadata is as good as none
        if size is not None:
            return size
    return None


def _tag(page: Any, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value


def _from_ome(file: Any, page: Any) -> Size | None:
    return read_ome(page.description).pixel_size if file.is_ome else None


def _from_sis(file: Any, page: Any) -> Size | None:
    metadata = file.sis_metadata if file.is_sis else None
    return _from_keys(metadata or {}, "pixelsizex", "pixelsizey", "m")


def _from_fei(file: Any, page: Any) -> Size | None:
    metadata = file.fei_metadata if file.is_fei else None
    return _from_keys((metadata or {}).get("Scan", {}), "PixelWidth", "PixelHeight", "m")


def _from_aperio(file: Any, page: Any) -> Size | None:
    if not page.description.startswith("Aperio"):
        return None
    match = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description)
    size = in_micrometres(match.group(1), "um") if match else None
    return plausible(size, size)


def _from_imagej(file: Any, page: Any) -> Size | None:
    metadata = file.imagej_metadata if file.is_imagej else None
    unit_um = in_micrometres(1.0, str((metadata or {}).get("unit", "")))
    if unit_um is None:
        return None
    return from_resolution(_tag(page, "XResolution"), _tag(page, "YResolution"), unit_um)


def _from_tags(file: Any, page: Any) -> Size | None:
    unit_um = {2: 25400.0, 3: 10000.0}.get(int(_tag(page, "ResolutionUnit") or 1))
    if unit_um is None:
        return None
    return from_resolution(_tag(page, "XResolution"), _tag(page, "YResolution"), unit_um)


def _from_keys(metadata: dict[str, Any], x: str, y: str, unit: str) -> Size | None:
    return plausible(in_micrometres(metadata.get(x), unit), in_micrometres(metadata.get(y), unit))
