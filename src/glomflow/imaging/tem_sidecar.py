"""Pixel sizes from the small text files that microscopes write beside an image.

Beside ``image.tif`` these are looked for: ``image.tif.txt``, ``image.txt``, and the same with ``.json``,
``.xml``, ``.ini`` and ``.hdr``. A file that names no pixel size is passed over: it may be anything. One
that names it in a way that cannot be used is an error, because the configured default would otherwise
take its place unseen.

=====================  =====================================================================
written by             keys (upper or lower case and punctuation play no part)
=====================  =====================================================================
by hand, ImageJ        ``nm_per_px``, ``nm/pixel``, ``um_per_px``, ``microns per pixel``
Hitachi                ``PixelSize=9.92`` (nm unless it says otherwise)
JEOL                   ``$$SM_MICRON_BAR 132`` (px) with ``$$SM_MICRON_MARKER 1um``
FEI, Thermo Fisher     ``PixelWidth=1.2e-9`` (m unless it says otherwise), Velox ``PixelSize.width``
=====================  =====================================================================
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glomflow.errors import ImageError
from glomflow.image_parts import sidecars

NM_RANGE = (0.01, 1000.0)
"""Pixel sizes that an electron micrograph can have, nm."""
_MOST_BYTES = 1_000_000
_AGREE = 0.01

_NM = {"pm": 1e-3, "a": 0.1, "å": 0.1, "angstrom": 0.1, "nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3}
_NM |= {"micron": 1e3, "microns": 1e3, "mm": 1e6, "m": 1e9}
_KEYS = {
    "nmperpx": "nm",
    "nmperpixel": "nm",
    "nmpx": "nm",
    "nmpixel": "nm",
    "umperpx": "um",
    "umperpixel": "um",
    "umpx": "um",
    "umpixel": "um",
    "micronsperpixel": "um",
    "micronsperpx": "um",
    "pixelsize": "nm",
    "pixelsizex": "nm",
    "pixelsizey": "nm",
    "pixelwidth": "m",
    "pixelheight": "m",
    "pixelsizewidth": "m",
    "pixelsizeheight": "m",
}
"""Keys, and the unit that their value has where neither it nor a key of units says another."""
_UNIT_KEYS = ("pixelsizeunit", "pixelsizeunits", "pixelunit", "pixelunits", "pixelunitx")
_JEOL_BAR, _JEOL_MARKER = "smmicronbar", "smmicronmarker"
_NUMBER = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s/]*)")
_LINE = re.compile(r"^\s*([^=:\s][^=:]*?)\s*[=:]\s*(\S.*?)\s*$")
_MENTION = re.compile(r"pixel|px|micron", re.IGNORECASE)
_JEOL_LINE = re.compile(r"^\s*(\$+\w+)\s+(\S.*?)\s*$")


def sidecar_pixel_size(path: Path) -> float | None:
    """Returns the pixel size that the text files beside an image tell.

    Args:
        path: The image.

    Returns:
        The pixel size, nm; None if there is no such file, or none names a pixel size.

    Raises:
        ImageError: ``no_pixel_size``, if a file names one that cannot be read, that no electron
            micrograph has, that is not square, or that another file contradicts.
    """
    found: dict[Path, float] = {}
    for sidecar in sidecars(path):
        size = _size_in(sidecar, path)
        if size is not None:
            found[sidecar] = size
    if not found:
        return None
    (first, size), *others = found.items()
    for other, different in others:
        if abs(different - size) > _AGREE * size:
            raise _unusable(path, other, f"says {different:g} nm/px, but {first.name} {size:g} nm/px")
    return size


def _size_in(sidecar: Path, image: Path) -> float | None:
    entries = _entries(sidecar, image)
    sizes = {
        key: _in_nm(sidecar, image, key, value, entries) for key, value in entries.items() if key in _KEYS
    }
    if _JEOL_BAR in entries and _JEOL_MARKER in entries:
        bar, marker = entries[_JEOL_BAR], entries[_JEOL_MARKER]
        pixels, length = _length(bar, "nm"), _length(marker, "")
        if length is None or pixels is None or pixels <= 0:
            raise _unusable(image, sidecar, f"its micron bar ({bar}, {marker}) cannot be read")
        sizes[_JEOL_BAR] = _plausible(image, sidecar, "SM_MICRON_MARKER / SM_MICRON_BAR", length / pixels)
    if not sizes:
        return None
    (first, size), *others = sizes.items()
    for key, other in others:
        if abs(other - size) > _AGREE * size:
            raise _unusable(
                image,
                sidecar,
                f"'{first}' means {size:g} nm and '{key}' {other:g} nm; its pixels are not square or the two "
                "contradict each other",
            )
    return size


def _in_nm(sidecar: Path, image: Path, key: str, value: str, entries: dict[str, str]) -> float:
    unit = next((entries[name] for name in _UNIT_KEYS if name in entries), _KEYS[key])
    if key.startswith(("nm", "um", "micron")):
        unit = _KEYS[key]
    length = _length(value, unit)
    if length is None:
        raise _unusable(image, sidecar, f"'{key}' is '{value[:40]}', which is no number with a known unit")
    return _plausible(image, sidecar, f"{key} = {value[:40]}", length)


def _plausible(image: Path, sidecar: Path, what: str, nm: float) -> float:
    if not NM_RANGE[0] <= nm <= NM_RANGE[1]:
        raise _unusable(
            image,
            sidecar,
            f"{what} means {nm:g} nm, and pixels of electron micrographs have {NM_RANGE[0]:g} to "
            f"{NM_RANGE[1]:g} nm; write the unit behind the number",
        )
    return nm


def _length(text: str, default: str) -> float | None:
    """Returns a length in nm, None if it is no number or of an unknown unit."""
    match = _NUMBER.match(text.replace(",", "."))
    if match is None:
        return None
    unit = (match[2] or default).strip().lower()
    factor = _NM.get(unit, _NM.get(unit.removesuffix(".")))
    number = float(match[1])
    return None if factor is None or not math.isfinite(number) else number * factor


def _entries(sidecar: Path, image: Path) -> dict[str, str]:
    """Returns keys, in lower case and without punctuation, and values; the first of a key counts."""
    if sidecar.stat().st_size > _MOST_BYTES:
        return {}
    text = _text(sidecar.read_bytes())
    if _MENTION.search(text) is None:
        return {}
    if sidecar.suffix.lower() == ".json":
        pairs = _json_pairs(text, sidecar, image)
    elif sidecar.suffix.lower() == ".xml":
        pairs = _xml_pairs(text, sidecar, image)
    else:
        pairs = _line_pairs(text)
    entries: dict[str, str] = {}
    for key, value in pairs:
        entries.setdefault(re.sub(r"[^0-9a-z]", "", key.replace("µ", "u").replace("μ", "u").lower()), value)
    return entries


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _line_pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = _JEOL_LINE.match(line) or _LINE.match(line)
        if match is not None:
            yield match[1], match[2]


def _json_pairs(text: str, sidecar: Path, image: Path) -> Iterator[tuple[str, str]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unusable(image, sidecar, f"is no valid JSON ({error})") from error
    yield from _flat("", content)


def _flat(name: str, content: Any) -> Iterator[tuple[str, str]]:
    """Yields the leaves of nested JSON by their own name and by that of their parent with it."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(str(key), value)
            if isinstance(value, dict):
                for inner, leaf in value.items():
                    if not isinstance(leaf, dict | list):
                        yield f"{key}{inner}", str(leaf)
    elif isinstance(content, list):
        for value in content:
            yield from _flat(name, value)
    else:
        yield name, str(content)


def _xml_pairs(text: str, sidecar: Path, image: Path) -> Iterator[tuple[str, str]]:
    from xml.etree import ElementTree

    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise _unusable(image, sidecar, "declares a document type, which is not read; remove the declaration")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*>", "", text))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _unusable(image, sidecar, f"is no valid XML ({error})") from error
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if element.text and element.text.strip():
            yield name, element.text.strip()
        unit = element.get("unit") or element.get("Unit")
        if unit:
            yield f"{name}unit", unit
        yield from element.attrib.items()


def _unusable(image: Path, sidecar: Path, why: str) -> ImageError:
    return ImageError(
        "no_pixel_size",
        f"{image.name}: {sidecar.name} beside it: {why}; mend or remove {sidecar.name}, or fill column "
        "'nm_per_px' of the image's row in images.csv",
    )
