"""Glomerulus crops from light microscopy: cut out, stain-normalised, scored and chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.config import GlomerulusCrops, Stain
from glomflow.errors import GlomflowError, ImageError
from glomflow.imaging.annotations import (
    Outline,
    polygon_mask,
    read_outlines,
    share_inside,
    touches_border,
)
from glomflow.imaging.crop_store import PathLike, crop_writer
from glomflow.imaging.pixels import as_rgb_uint8
from glomflow.imaging.readers import ImageReader, open_image
from glomflow.imaging.stain import StainProfile, is_changed, normalise, optical_density
from glomflow.imaging.stain_targets import profiles_by_slide, target_for
from glomflow.tables import CROPS, write_table

Bytes = npt.NDArray[np.uint8]
Row = Mapping[Any, Any]
White = tuple[float, float, float]
Found = Mapping[str, Sequence[Outline]]

WHITE = 255
ENOUGH_TISSUE = 0.25
"""An outline with less tissue than this share shows a torn or an empty glomerulus."""


@dataclass(frozen=True)
class CropPlan:
    """Where a crop lies in its image.

    Attributes:
        number: Place of the outline in the annotation, from 0.
        x: Left edge, full-resolution px; negative beyond the image.
        y: Top edge.
        side: Edge of the square, full-resolution px.
        um_per_px: Pixel size of the crop, µm/px; NaN if the image's is unknown.
        inside: Share of the outline that the image holds, 0 to 1.
        at_border: Whether the outline touches the edge of the image.
        padded: Whether the crop reaches beyond the image.
        outlines: What is kept when the background is masked; empty: everything.
        lesion: Lesion class, or None.
    """

    number: int
    x: float
    y: float
    side: float
    um_per_px: float
    inside: float
    at_border: bool
    padded: bool
    outlines: tuple[Outline, ...]
    lesion: str | None

    def mask(self, size: int) -> npt.NDArray[np.bool_]:
        """Returns which pixels of the crop belong to the outlines, (size, size) bool; all without any."""
        if not self.outlines:
            return np.ones((size, size), dtype=bool)
        corner = np.array([self.x, self.y])
        return polygon_mask(
            [(outline.polygon - corner) * (size / self.side) for outline in self.outlines], size
        )


def plan_outline(
    outline: Outline,
    number: int,
    image_size: tuple[int, int],
    um_per_px: float,
    settings: GlomerulusCrops,
) -> CropPlan:
    """Places the crop of an outline: a square centred on it that holds it with its margin.

    Args:
        outline: The outline, full-resolution px.
        number: Its place in the annotation, from 0.
        image_size: Width and height of the image, px.
        um_per_px: Pixel size of the image, µm/px.
        settings: Size, resolution and margin of the crops.

    Returns:
        The plan; its pixel size is coarser than ``settings.um_per_px`` where the outline needs it.
    """
    left, top, right, bottom = outline.box
    width, height = image_size
    needed = max(right - left, bottom - top) * (1.0 + 2.0 * settings.margin)
    side = max(needed, settings.size * settings.um_per_px / um_per_px)
    x, y = (left + right - side) / 2.0, (top + bottom - side) / 2.0
    return CropPlan(
        number=number,
        x=x,
        y=y,
        side=side,
        um_per_px=side * um_per_px / settings.size,
        inside=share_inside(outline, image_size),
        at_border=touches_border(outline, image_size),
        padded=x < 0 or y < 0 or x + side > width or y + side > height,
        outlines=(outline,),
        lesion=outline.lesion,
    )


def plan_whole(
    outlines: list[Outline], image_size: tuple[int, int], um_per_px: float, lesion: object, size: int
) -> CropPlan:
    """Places the crop of an image that is one glomerulus already: padded to a square, all of it.

    Args:
        outlines: Outlines of the glomerulus, for masking; may be empty.
        image_size: Width and height of the image, px.
        um_per_px: Pixel size of the image, µm/px, or NaN.
        lesion: Lesion class of the sheet, or a missing value.
        size: Edge of the crop, px.

    Returns:
        The plan.
    """
    width, height = image_size
    side = float(max(width, height))
    return CropPlan(
        number=0,
        x=(width - side) / 2.0,
        y=(height - side) / 2.0,
        side=side,
        um_per_px=side * um_per_px / size,
        inside=1.0,
        at_border=False,
        padded=width != height,
        outlines=tuple(outlines),
        lesion=lesion if isinstance(lesion, str) and lesion else None,
    )


def information(rgb: Bytes, mask: npt.NDArray[np.bool_], background: White, tissue_od: float) -> float:
    """Scores how much a crop has to show.

    The score is the detail of a glomerulus, the mean gradient of its optical density relative to the
    mean optical density, and falls where the outline is nearly empty. Open loops, nuclei and matrix
    side by side score high, an even scar, a blurred or an empty picture low. No label enters.

    Args:
        rgb: (H, W, 3) uint8, H and W at least 2.
        mask: (H, W) bool, the pixels of the glomerulus.
        background: White level of R, G, B of the picture.
        tissue_od: Mean optical density of R, G and B above which a pixel is tissue.

    Returns:
        The score, at least 0; 0 without tissue.
    """
    density = optical_density(rgb, background).mean(axis=2)
    down, across = np.gradient(density)
    inside = density[mask]
    share = float((inside > tissue_od).mean()) if inside.size else 0.0
    if share == 0.0:
        return 0.0
    detail = float(np.hypot(down, across)[mask].mean())
    return detail / max(float(inside.mean()), tissue_od) * min(1.0, share / ENOUGH_TISSUE)


def select_crops(crops: pd.DataFrame, settings: GlomerulusCrops) -> npt.NDArray[np.bool_]:
    """Chooses the crops that represent each patient.

    Crops of an excluded lesion class are left out where the patient has others; of the rest the most
    informative ``max_instances`` are taken.

    Args:
        crops: Rows with the columns ``patient``, ``crop``, ``lesion`` and ``information``.
        settings: Excluded lesions and number of crops.

    Returns:
        (N,) bool.
    """
    excluded = crops["lesion"].isin(settings.exclude_lesions)
    # Where all crops of a patient are of an excluded class, none is left out.
    eligible = ~excluded | excluded.groupby(crops["patient"]).transform("all")
    ranked = crops[eligible].sort_values(["information", "crop"], ascending=[False, True], kind="stable")
    chosen = ranked.groupby("patient").head(settings.max_instances).index
    return np.asarray(crops.index.isin(chosen), dtype=bool)


def iterate_crops(
    inventory: pd.DataFrame,
    images: pd.DataFrame,
    profiles: pd.DataFrame,
    targets: Mapping[str, StainProfile],
    folder: Path,
    settings: GlomerulusCrops,
    stain: Stain,
    found: Found | None = None,
) -> Iterator[tuple[Bytes, dict[str, Any]]]:
    """Yields the crops of a shard one by one, with their rows less ``row`` and ``selected``.

    An image that cannot be read, or whose annotation cannot, gives no crop and a line on standard
    output. The arguments are those of :func:`crop_glomeruli_shard`.
    """
    by_slide = profiles_by_slide(profiles)
    sheet = images.set_index("image")[["stain", "annotation", "kind", "lesion"]]
    usable = inventory[(inventory["modality"] == "OM") & (inventory["status"] == "ok")]
    usable = usable.join(sheet, on="image")
    for image in usable.to_dict("records"):
        source = by_slide.get(str(image["slide"]))
        if source is None:
            raise GlomflowError(
                f"slide '{image['slide']}' has no stain profile; delete the stain profiles and run again"
            )
        target = target_for(targets, image["stain"])
        try:
            outlines = (found or {}).get(str(image["image"]))
            crops = _crops_of_image(image, source, target, folder, settings, stain, outlines)
        except ImageError as error:
            print(f"no glomerulus crops of image '{image['image']}': {error.reason}")
            continue
        yield from crops


def crop_glomeruli_shard(
    inventory: pd.DataFrame,
    images: pd.DataFrame,
    profiles: pd.DataFrame,
    targets: Mapping[str, StainProfile],
    folder: Path,
    settings: GlomerulusCrops,
    stain: Stain,
    found: Found | None = None,
) -> tuple[Bytes, pd.DataFrame]:
    """Cuts the glomeruli out of a shard's light microscopy images.

    Args:
        inventory: Rows of the inventory; those of OM images with status ``ok`` are used.
        images: Rows of the sheet for these images.
        profiles: ``STAIN_PROFILES`` rows of their slides.
        targets: Targets by stain, of :func:`glomflow.imaging.stain_targets.choose_target`.
        folder: Cohort folder.
        settings: How crops are cut and chosen.
        stain: Stain normalisation.
        found: Outlines by image, of images that have no annotation: what the finder found.

    Returns:
        (N, size, size, 3) uint8, and N rows as ``CROPS``; images in the order of the inventory,
        outlines in the order of their annotation.

    Raises:
        GlomflowError: A slide has no profile or a stain no target.
    """
    pairs = list(iterate_crops(inventory, images, profiles, targets, folder, settings, stain, found))
    crops = np.zeros((len(pairs), settings.size, settings.size, 3), np.uint8)
    for row, (crop, _) in enumerate(pairs):
        crops[row] = crop
    return crops, _index([record for _, record in pairs], settings)


def write_glomeruli_shard(
    npy_path: PathLike,
    parquet_path: PathLike,
    inventory: pd.DataFrame,
    images: pd.DataFrame,
    profiles: pd.DataFrame,
    targets: Mapping[str, StainProfile],
    folder: Path,
    settings: GlomerulusCrops,
    stain: Stain,
    found: Found | None = None,
) -> int:
    """Writes the crop store of a shard crop by crop, holding those of one image at a time.

    Args:
        npy_path: The store's ``.npy`` file.
        parquet_path: The store's index.
        inventory: See :func:`crop_glomeruli_shard`, also for the other arguments.
        images: Rows of the sheet.
        profiles: Stain profiles.
        targets: Targets by stain.
        folder: Cohort folder.
        settings: How crops are cut and chosen.
        stain: Stain normalisation.
        found: Outlines found in images without annotation.

    Returns:
        The number of crops.
    """
    records = []
    with crop_writer(npy_path, (settings.size, settings.size, 3)) as writer:
        for crop, record in iterate_crops(
            inventory, images, profiles, targets, folder, settings, stain, found
        ):
            writer.append(crop)
            records.append(record)
    write_table(parquet_path, _index(records, settings), CROPS)
    return len(records)


def _index(records: list[dict[str, Any]], settings: GlomerulusCrops) -> pd.DataFrame:
    if not records:
        return pd.DataFrame({column: [] for column in CROPS})
    frame = pd.DataFrame(records)
    frame["row"] = np.arange(len(frame))
    frame["selected"] = select_crops(frame, settings)
    return frame[list(CROPS)]


def _crops_of_image(
    image: Row,
    source: StainProfile,
    target: StainProfile,
    folder: Path,
    settings: GlomerulusCrops,
    stain: Stain,
    found: Sequence[Outline] | None,
) -> list[tuple[Bytes, dict[str, Any]]]:
    with open_image(folder / image["path"]) as reader:
        if np.issubdtype(reader.dtype, np.integer):
            reader.fill = float(np.iinfo(reader.dtype).max)
        return [
            _cut(reader, plan, image, source, target, settings, stain)
            for plan in _plans(reader, image, folder, settings, found)
        ]


def _plans(
    reader: ImageReader,
    image: Row,
    folder: Path,
    settings: GlomerulusCrops,
    found: Sequence[Outline] | None,
) -> list[CropPlan]:
    size = reader.width, reader.height
    annotation = image["annotation"] if isinstance(image["annotation"], str) else ""
    whole = image["kind"] == "crop"
    outlines = [] if whole or annotation or found is None else list(found)
    if annotation and (settings.mask_background or not whole):
        outlines = read_outlines(folder / annotation, image_size=size, image_name=str(image["path"]))
    if whole:
        return [plan_whole(outlines, size, image["um_per_px"], image["lesion"], settings.size)]
    if not outlines:
        if found is not None:
            raise ImageError("no_annotation", f"no glomerulus was found in image '{image['path']}'")
        raise ImageError(
            "no_annotation",
            f"image '{image['path']}' has no annotation; fill the column 'annotation' of images.csv with the "
            "file of its outlines",
        )
    return [
        plan_outline(outline, number, size, image["um_per_px"], settings)
        for number, outline in enumerate(outlines)
    ]


def _cut(
    reader: ImageReader,
    plan: CropPlan,
    image: Row,
    source: StainProfile,
    target: StainProfile,
    settings: GlomerulusCrops,
    stain: Stain,
) -> tuple[Bytes, dict[str, Any]]:
    size = settings.size
    changed = is_changed(source, target)
    crop = as_rgb_uint8(reader.read_region(plan.x, plan.y, plan.side, plan.side, size, size))
    crop = normalise(crop, source, target)
    mask = plan.mask(size)
    red, green, blue = (target if changed else source).background
    score = plan.inside * information(crop, mask, (red, green, blue), stain.tissue_od)
    if settings.mask_background:
        crop = np.where(mask[:, :, None], crop, np.uint8(WHITE))
    notes = {
        "stain_unchanged": source.method != "none" and not changed,
        "at_border": plan.at_border,
        "padded": plan.padded,
    }
    record = {
        "crop": f"{image['image']}#{plan.number}",
        "patient": image["patient"],
        "image": image["image"],
        "slide": image["slide"],
        "modality": "OM",
        "x": plan.x,
        "y": plan.y,
        "width": plan.side,
        "height": plan.side,
        "um_per_px": plan.um_per_px,
        "lesion": plan.lesion,
        "information": score,
        "flag": ";".join(note for note, true in notes.items() if true),
    }
    return crop, record
