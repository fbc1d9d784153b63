"""Immunofluorescence crops: one colour picture per patient, brightness kept comparable.

The IM images of a patient come in one of three forms: a file with a channel per marker, a file per
marker, or a colour composite. Each form becomes one RGB crop in which a colour stands for a group of
markers. Samples are scaled by the range of their type and ``max_level``, never by the image itself:
how bright a marker is *is* the finding, and a dark one a finding like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.config import ImCrops
from glomflow.errors import ImageError
from glomflow.imaging.im_background import THUMBNAIL_PX, background_at, background_of
from glomflow.imaging.im_channels import (
    COLOUR,
    Levels,
    as_bytes,
    brightness,
    channel_markers,
    compose,
    has_one_hue,
    plain,
    same_marker,
)
from glomflow.tables import CROPS

if TYPE_CHECKING:
    from glomflow.imaging.annotations import Outline
    from glomflow.imaging.readers import ImageReader

Array = npt.NDArray[Any]

OUTLINE_MARGIN = 0.15
"""Context around an annotated glomerulus, as a share of its longer edge."""
DARK_LEVEL = 0.25
"""A crop is flagged dark if 99 % of its pixels are below this share of full brightness."""
COMPOSITE = "0"
"""What stands for the marker in the identifier of a crop that shows several."""
_HUE_PX = 256
"""Longest edge of the picture that a colour image's hues are looked for in."""

__all__ = [
    "DARK_LEVEL",
    "brightness",
    "channel_markers",
    "compose",
    "crop_im_shard",
    "entropy",
    "has_one_hue",
    "marker_of",
    "same_marker",
]


@dataclass(frozen=True)
class _Member:
    """One file of a set. ``markers`` names its channels; empty: a colour image of unnamed markers."""

    image: str
    path: str
    slide: str
    annotation: str | None
    um_per_px: float
    lesion: str | None
    markers: tuple[str, ...]
    colour: bool

    @property
    def is_composite(self) -> bool:
        return not self.markers


@dataclass(frozen=True)
class _Square:
    """Where the crop lies in an image of ``width`` x ``height`` px, full-resolution px."""

    x: float
    y: float
    edge: float
    width: int
    height: int
    lesion: str | None = None
    is_cut: bool = False
    """Whether the outline that it holds touches the edge of the image."""

    @property
    def reaches_out(self) -> bool:
        low, high = min(self.x, self.y), (self.x + self.edge, self.y + self.edge)
        return low < -0.5 or high[0] > self.width + 0.5 or high[1] > self.height + 0.5


@dataclass(frozen=True)
class _Shown:
    """What a file shows within its square: ``level``, (size, size, C) shares of full brightness."""

    member: _Member
    square: _Square
    level: Levels
    flags: set[str]

    @property
    def levels(self) -> dict[str, Levels]:
        """Brightness by marker; none of a composite."""
        return {name: self.level[..., place] for place, name in enumerate(self.member.markers)}


_Crop = tuple[npt.NDArray[np.uint8], dict[str, Any]]
"""A crop and its row of the index."""


def crop_im_shard(
    inventory: pd.DataFrame, images: pd.DataFrame, folder: Path, settings: ImCrops
) -> tuple[npt.NDArray[np.uint8], pd.DataFrame]:
    """Makes each patient's RGB crops from the patient's immunofluorescence images.

    With ``instances: composite`` a patient gets one crop, ``<image>#0``. With ``marker`` it is one per
    configured marker that is there, ``<image>#<marker>``, the marker in grey; its ``information`` is the
    marker's place in the configured order, from 1 downwards. A composite of unnamed markers stays one crop.

    A patient's sets are tried from the one that shows the most of the configured markers, then in the
    order of the sheet; composites come last. What cannot be used or is left over is printed.

    Args:
        inventory: Rows of :data:`glomflow.tables.INVENTORY`; those that are not IM or not ``ok`` are
            passed over.
        images: Rows of :data:`glomflow.tables.IMAGES` of the same images.
        folder: Folder that the images' and annotations' paths are relative to.
        settings: Size, resolution and colours.

    Returns:
        The crops, uint8 (N, size, size, 3), and their index, rows of :data:`glomflow.tables.CROPS`,
        ordered by patient and marker. The box is that in the set's first file, or in the marker's own,
        and may reach beyond it.
    """
    usable = inventory[(inventory["modality"] == "IM") & (inventory["status"] == "ok")]
    sheet = images.set_index("image")
    crops: list[npt.NDArray[np.uint8]] = []
    rows: list[dict[str, Any]] = []
    for patient, of_patient in sorted(usable.groupby("patient"), key=lambda pair: str(pair[0])):
        order = sheet.loc[of_patient["image"], "row"].to_numpy().argsort(kind="stable")
        members = _members(of_patient.iloc[order], sheet)
        sets = sorted(_sets(members), key=lambda some: -_markers_shown(some, settings))
        for number, some in enumerate(sets):
            try:
                made = _crops(some, folder, settings)
            except ImageError as error:
                print(f"warning: IM of patient {patient} is left out: {error.reason}", flush=True)
                continue
            for crop, row in made:
                rows.append({**row, "row": len(rows), "patient": patient})
                crops.append(crop)
            for left_over in sets[number + 1 :]:
                print(f"note: IM of patient {patient}: {some[0].path} is used, not {left_over[0].path}")
            break
    size = settings.size
    stack = np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)
    return stack, pd.DataFrame(rows, columns=list(CROPS))


def _members(rows: pd.DataFrame, sheet: pd.DataFrame) -> list[_Member]:
    members = []
    for row in rows.to_dict("records"):
        listed = sheet.loc[row["image"]]
        channels = tuple(str(row["channels"]).split(";"))
        try:
            markers = channel_markers(row["path"], channels, _text(listed["marker"]))
        except ImageError as error:
            print(f"warning: IM image {row['path']} is left out: {error.reason}", flush=True)
            continue
        members.append(
            _Member(
                image=row["image"],
                path=row["path"],
                slide=row["slide"],
                annotation=_text(listed["annotation"]),
                um_per_px=float(row["um_per_px"]),
                lesion=_text(listed["lesion"]),
                markers=markers,
                colour=channels == COLOUR,
            )
        )
    return members


def _sets(members: list[_Member]) -> list[list[_Member]]:
    """Groups the images of a patient: single markers by slide (together if no two share one)."""
    singles = [member for member in members if len(member.markers) == 1]
    apart = len({member.slide for member in singles}) == len(singles)
    sets: dict[str, list[_Member]] = {}
    for member in members:
        is_single = len(member.markers) == 1
        key = f"slide {'' if apart else member.slide}" if is_single else f"image {member.image}"
        some = sets.setdefault(key, [])
        if is_single and any(same_marker(member.markers[0], other.markers[0]) for other in some):
            print(f"note: IM image {member.path} is not used: {member.markers[0]} is there already")
            continue
        some.append(member)
    return list(sets.values())


def _markers_shown(some: list[_Member], settings: ImCrops) -> int:
    wanted = {plain(name) for name in _wanted(settings)}
    return len(wanted & {plain(name) for member in some for name in member.markers})


def _wanted(settings: ImCrops) -> list[str]:
    return list(dict.fromkeys(name for names in settings.colours for name in names))


def _crops(some: list[_Member], folder: Path, settings: ImCrops) -> list[_Crop]:
    """Makes the crops of a set: one, or one per marker."""
    from glomflow.imaging.readers import open_image

    names = [name for member in some for name in member.markers]
    if names and not _markers_shown(some, settings):
        raise _none_of_the_markers(some[0], names, settings)
    guide = next((member for member in some if member.annotation), None)
    outlined = _outlined_square(guide, folder, settings) if guide else None
    shown: list[_Shown] = []
    for member in some:
        with open_image(folder / member.path) as reader:
            square = _scaled(outlined, reader) if outlined else _centred(reader, member, settings)
            level, further = _levels_of(reader, square, member, settings)
        shown.append(_Shown(member, square, level, further))
    if some[0].is_composite:
        level = shown[0].level
        crop = as_bytes(np.broadcast_to(level, (*level.shape[:2], 3)))
        return [(crop, _index_row(shown, crop))]
    if settings.instances == "marker":
        return _marker_crops(shown, settings)
    crop = compose({name: level for one in shown for name, level in one.levels.items()}, settings)
    return [(crop, _index_row(shown, crop))]


def _marker_crops(shown: list[_Shown], settings: ImCrops) -> list[_Crop]:
    """Makes a grey crop of each configured marker that is there, in the configured order."""
    crops: list[_Crop] = []
    wanted = _wanted(settings)
    for place, marker in enumerate(wanted):
        for one in shown:
            there = [level for name, level in one.levels.items() if same_marker(name, marker)]
            if not there:
                continue
            gray = as_bytes(np.mean(there, axis=0))
            crop = np.repeat(gray[:, :, None], 3, axis=2)
            order = {"crop": f"{one.member.image}#{marker}", "information": 1.0 - place / len(wanted)}
            crops.append((crop, {**_index_row([one], crop), **order}))
            break
    return crops


def marker_of(crop: str) -> str | None:
    """Returns the marker that an IM crop shows alone; None for a composite."""
    marker = crop.rpartition("#")[2]
    return None if marker == COMPOSITE else marker


def _levels_of(
    reader: ImageReader, square: _Square, member: _Member, settings: ImCrops
) -> tuple[Levels, set[str]]:
    """Reads the square as shares of full brightness, (size, size, C), and says what to flag.

    C is the number of markers; for an unnamed colour image 3, or 1 if it shows one fluorophore.
    """
    flags = set()
    merged = member.colour and len(member.markers) == 1
    level = brightness(_read(reader, square, member, settings.size), member.path)
    if member.is_composite and settings.unnamed_colour == "detect":
        merged = has_one_hue(brightness(reader.thumbnail(_HUE_PX), member.path))
        if merged:
            flags.add("one_hue")
            print(
                f"note: {member.path} shows a single hue and is taken for a photograph of one marker, shown "
                "in grey; name it in the column marker of images.csv, or set imaging.im.unnamed_colour: "
                "composite"
            )
    if merged:
        level = level.max(axis=2, keepdims=True)
    if settings.background != "none":
        whole = brightness(reader.thumbnail(THUMBNAIL_PX[settings.background]), member.path)
        floor, bounded = background_of(whole.max(axis=2, keepdims=True) if merged else whole, settings)
        if bounded:
            flags.add("bright_background")
        image_size = reader.width, reader.height
        level = level - background_at(floor, square.x, square.y, square.edge, image_size, settings.size)
    return np.clip(level / settings.max_level, 0.0, 1.0).astype(np.float32), flags


def _index_row(shown: list[_Shown], crop: npt.NDArray[np.uint8]) -> dict[str, Any]:
    first, square = shown[0].member, shown[0].square
    flags = {flag for one in shown for flag in one.flags}
    notes = {
        "at_border": square.is_cut,
        "padded": any(one.square.reaches_out for one in shown),
        "dark": bool(np.percentile(crop.max(axis=2), 99) < DARK_LEVEL * 255),
        "one_hue": "one_hue" in flags,
        "bright_background": "bright_background" in flags,
    }
    return {
        "crop": f"{first.image}#{COMPOSITE}",
        "image": first.image,
        "slide": first.slide,
        "modality": "IM",
        "x": square.x,
        "y": square.y,
        "width": square.edge,
        "height": square.edge,
        "um_per_px": first.um_per_px * square.edge / crop.shape[0],
        "lesion": square.lesion or first.lesion,
        "information": entropy(crop.max(axis=2)),
        "selected": True,
        "flag": ";".join(note for note, true in notes.items() if true),
    }


def entropy(gray: npt.NDArray[np.uint8]) -> float:
    """Returns the Shannon entropy of the grey levels (32 bins) as a share of its maximum, 0 to 1."""
    counts = np.bincount(gray.reshape(-1) >> 3, minlength=32)
    share = counts[counts > 0] / gray.size
    return float(-(share * np.log2(share)).sum() / 5.0) + 0.0


def _centred(reader: ImageReader, member: _Member, settings: ImCrops) -> _Square:
    edge = float(min(reader.width, reader.height))
    if settings.um_per_px is not None and math.isfinite(member.um_per_px):
        edge = settings.size * settings.um_per_px / member.um_per_px
    return _Square((reader.width - edge) / 2, (reader.height - edge) / 2, edge, reader.width, reader.height)


def _outlined_square(member: _Member, folder: Path, settings: ImCrops) -> _Square:
    """Returns the square around the largest outline of an image's annotation."""
    from glomflow.imaging.annotations import polygon_area, read_outlines, touches_border
    from glomflow.imaging.readers import open_image

    with open_image(folder / member.path) as reader:
        width, height = reader.width, reader.height
    size = width, height
    outlines = read_outlines(folder / str(member.annotation), image_size=size, image_name=member.path)
    outline: Outline = max(outlines, key=lambda some: polygon_area(some.polygon))
    low, high = outline.polygon.min(axis=0), outline.polygon.max(axis=0)
    edge = float((high - low).max()) * (1.0 + 2.0 * OUTLINE_MARGIN)
    if settings.um_per_px is not None and math.isfinite(member.um_per_px):
        edge = max(edge, settings.size * settings.um_per_px / member.um_per_px)
    x, y = (low + high) / 2 - edge / 2
    return _Square(float(x), float(y), edge, width, height, outline.lesion, touches_border(outline, size))


def _scaled(square: _Square, reader: ImageReader) -> _Square:
    """Carries a square over to another image of the same field."""
    factor = reader.width / square.width
    if abs(reader.height / square.height - factor) > 0.01 * factor:
        raise ImageError(
            "unsupported_format",
            f"{reader.path.name}: {reader.width} x {reader.height} px is another shape than the annotated "
            f"image of its set ({square.width} x {square.height} px), so that the outline does not fit; "
            "annotate each image, or give images of one field the same shape",
        )
    edge = square.edge * factor
    return replace(
        square, x=square.x * factor, y=square.y * factor, edge=edge, width=reader.width, height=reader.height
    )


def _read(reader: ImageReader, square: _Square, member: _Member, size: int) -> Array:
    channels = 3 if member.colour else len(member.markers)
    if len(reader.channels) != channels:
        raise ImageError(
            "unreadable",
            f"{member.path}: has {len(reader.channels)} channels now, {channels} by the inventory; run the "
            "inventory again",
        )
    reader.fill = 0.0
    return reader.read_region(square.x, square.y, square.edge, square.edge, size, size)


def _none_of_the_markers(first: _Member, names: list[str], settings: ImCrops) -> ImageError:
    wanted = ", ".join(_wanted(settings))
    return ImageError(
        "unsupported_format",
        f"{first.path}: shows none of the configured markers ({wanted}) but {', '.join(names)}; name its "
        "markers in the column marker of images.csv, or change imaging.im.markers (or red, green and blue)",
    )


def _text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) and value.strip() else None
