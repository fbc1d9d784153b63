"""Crops that were stored as scanned, recoloured to the targets of a fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.imaging.crop_store import PathLike, crop_writer
from glomflow.imaging.stain import StainProfile, is_changed, normalise
from glomflow.imaging.stain_profiles import profiles_by_slide, target_for
from glomflow.tables import CROPS, write_table

Bytes = npt.NDArray[np.uint8]

CHUNK = 64
"""Most crops recoloured at a time."""
UNCHANGED = "stain_unchanged"
"""Note in a crop's flag: normalisation was asked for, but there was nothing to match."""


def renormalise_store(
    crops: Bytes,
    index: pd.DataFrame,
    profiles: pd.DataFrame,
    targets: Mapping[str, StainProfile],
    images: pd.DataFrame,
    *,
    keep_white: bool = False,
) -> tuple[Bytes, pd.DataFrame]:
    """Recolours the crops of a store that holds them as scanned.

    Args:
        crops: (N, H, W, 3) uint8; a memory map is read ``CHUNK`` crops at a time.
        index: Their ``CROPS`` rows.
        profiles: ``STAIN_PROFILES`` rows of their slides.
        targets: Targets by stain, as of :func:`glomflow.imaging.stain_targets.fit_target`.
        images: ``IMAGES`` rows of their images.
        keep_white: Leave pure white pixels as they are; for crops whose background is painted white.

    Returns:
        (N, H, W, 3) uint8, and the rows with ``stain_unchanged`` noted in ``flag`` where it holds.

    Raises:
        GlomflowError: A slide has no profile, a stain no target, or an image is not in the sheet.
    """
    pairs = _pairs(index, profiles, targets, images)
    recoloured = np.empty(crops.shape, np.uint8)
    for start, chunk in _recoloured(crops, pairs, keep_white):
        recoloured[start : start + len(chunk)] = chunk
    return recoloured, _noted(index, pairs)


def write_renormalised_store(
    npy_path: PathLike,
    parquet_path: PathLike,
    crops: Bytes,
    index: pd.DataFrame,
    profiles: pd.DataFrame,
    targets: Mapping[str, StainProfile],
    images: pd.DataFrame,
    *,
    keep_white: bool = False,
) -> None:
    """Writes :func:`renormalise_store`'s result as a store, holding ``CHUNK`` crops at a time.

    Args:
        npy_path: The new store's ``.npy`` file.
        parquet_path: The new store's index.
        crops: See :func:`renormalise_store`, also for the other arguments.
        index: Their ``CROPS`` rows.
        profiles: Stain profiles.
        targets: Targets by stain.
        images: Rows of the sheet.
        keep_white: Leave pure white pixels as they are.
    """
    pairs = _pairs(index, profiles, targets, images)
    height, width, channels = crops.shape[1:]
    with crop_writer(npy_path, (height, width, channels)) as writer:
        for _, chunk in _recoloured(crops, pairs, keep_white):
            for crop in chunk:
                writer.append(crop)
    write_table(parquet_path, _noted(index, pairs), CROPS)


def _pairs(
    index: pd.DataFrame,
    profiles: pd.DataFrame,
    targets: Mapping[str, StainProfile],
    images: pd.DataFrame,
) -> list[tuple[StainProfile, StainProfile]]:
    """Returns the source and the target of every crop; of crops of one image, the same objects."""
    by_slide = profiles_by_slide(profiles)
    stains = images.set_index("image")["stain"]
    by_image = {}
    for image, slide in set(zip(index["image"], index["slide"].astype(str), strict=True)):
        if slide not in by_slide:
            raise GlomflowError(
                f"slide '{slide}' has no stain profile; delete the stain profiles and run again"
            )
        if image not in stains.index:
            raise GlomflowError(
                f"image '{image}' of a crop is not in the sheet; delete the crops and run again"
            )
        by_image[image] = by_slide[slide], target_for(targets, stains[image])
    return [by_image[image] for image in index["image"]]


def _recoloured(
    crops: Bytes, pairs: list[tuple[StainProfile, StainProfile]], keep_white: bool
) -> Iterator[tuple[int, Bytes]]:
    """Yields pieces of consecutive crops of one source and target, with the place of the first."""
    start = 0
    while start < len(pairs):
        stop = start + 1
        while stop < min(len(pairs), start + CHUNK) and pairs[stop] == pairs[start]:
            stop += 1
        chunk: Bytes = np.asarray(crops[start:stop])
        changed = normalise(chunk, *pairs[start])
        if keep_white:
            changed = np.where((chunk == 255).all(axis=-1, keepdims=True), chunk, changed)
        yield start, changed
        start = stop


def _noted(index: pd.DataFrame, pairs: list[tuple[StainProfile, StainProfile]]) -> pd.DataFrame:
    flags = []
    for flag, (source, target) in zip(index["flag"], pairs, strict=True):
        notes = [note for note in str(flag or "").split(";") if note and note != UNCHANGED]
        if source.method != "none" and not is_changed(source, target):
            notes.insert(0, UNCHANGED)
        flags.append(";".join(notes))
    return index.assign(flag=flags)
