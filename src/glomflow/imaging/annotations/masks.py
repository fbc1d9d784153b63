"""Label masks: pictures in which each glomerulus has a number."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from glomflow.imaging.annotations.outline import (
    SPECK,
    Array,
    Outline,
    image_scale,
    no_annotation,
    region_contour,
    unreadable,
)

NEARLY_WHITE = 240
THRESHOLD = 128


def outlines_of(content: bytes, where: str, image_size: tuple[int, int], *, is_png: bool) -> list[Outline]:
    """Reads the outlines of a mask.

    Args:
        content: The file, PNG or TIFF.
        where: Its name, for messages.
        image_size: Width and height of the image at full resolution, px.
        is_png: Whether it is PNG.

    Returns:
        The outlines, full-resolution px, in the order of the labels.

    Raises:
        ImageError: The file is damaged, no mask, empty, or that of an image of another shape.
    """
    labels, values = _label_image(_decode(content, where, is_png=is_png), where)
    height, width = labels.shape
    scale = image_scale((width, height), image_size, where)
    outlines = outlines_of_labels(labels)
    if values:
        return [
            Outline(outline.polygon * scale, None, str(value))
            for outline, value in zip(outlines, values, strict=True)
        ]
    areas = np.bincount(labels.reshape(-1))[1:]
    return [
        Outline(outline.polygon * scale)
        for outline, area in zip(outlines, areas, strict=True)
        if area >= SPECK * areas.max()
    ]


def outlines_of_labels(labels: npt.NDArray[np.int32]) -> list[Outline]:
    """Returns the outline of the largest part of each label, px of the label image.

    Args:
        labels: (H, W), 0 for background, else 1 to the number of labels without gaps.

    Returns:
        An outline per label, by label.
    """
    from scipy.ndimage import find_objects

    return [
        Outline(region_contour(labels[box] == label, box[1].start, box[0].start))
        for label, box in enumerate(find_objects(labels), 1)
    ]


def _decode(content: bytes, where: str, *, is_png: bool) -> Array:
    """Returns the samples of a mask, (H, W) of integers."""
    try:
        if is_png:
            from PIL import Image

            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                mask = np.asarray(picture)
        else:
            import tifffile

            mask = tifffile.imread(io.BytesIO(content), key=0)
    except Exception as error:
        # Decoders raise whatever the damage leads them to.
        raise unreadable(f"{where} cannot be decoded ({error}); save the mask again") from error
    if mask.ndim == 3 and mask.shape[2] in (2, 4):
        mask = mask[:, :, :-1]
    if mask.ndim == 3 and mask.shape[2] in (1, 3) and (mask == mask[:, :, :1]).all():
        mask = mask[:, :, 0]
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise unreadable(
            f"{where} is no label mask: {mask.dtype} samples of shape {mask.shape}; save it as one channel "
            "of integers, 0 for background"
        )
    if mask.dtype.kind == "i" and mask.size and mask.min() < 0:
        raise unreadable(f"{where} holds negative labels; save them as 1, 2, 3 ...")
    return mask


def _label_image(mask: Array, where: str) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Returns labels from 1 without gaps and their values in the mask (none for a binary mask)."""
    if mask.dtype == np.uint8 and _has_grey_edges(mask):
        mask = mask >= THRESHOLD
    values = np.unique(mask)
    values = values[values > 0]
    if not values.size:
        raise no_annotation(f"{where} is empty: every pixel is 0; outline at least one glomerulus")
    if values.size > 1:
        known = np.concatenate([np.zeros(1, values.dtype), values])
        return np.searchsorted(known, mask).astype(np.int32), [int(value) for value in values]
    from scipy.ndimage import label

    return label(mask > 0, structure=np.ones((3, 3)), output=np.int32)[0], []


def _has_grey_edges(mask: Array) -> bool:
    """Returns whether an 8-bit mask is white on black with grey edges only.

    A label fills an area, a grey edge never does: among the values that fill some 3 x 3 pixels, only
    black and nearly white ones are found.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    if not ((mask > 0) & (mask < NEARLY_WHITE)).any() or mask.max() < NEARLY_WHITE:
        return False
    flat = minimum_filter(mask, 3) == maximum_filter(mask, 3)
    filling = mask[flat & (mask > 0)]
    return bool(filling.size) and bool((filling >= NEARLY_WHITE).all())
