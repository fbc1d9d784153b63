"""Captioned glomeruli of phantom patients who are in no cohort: what a vision-language model learns from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from glomflow.cohort.phantom.captions import LESIONS, caption_for
from glomflow.cohort.phantom.fields import Array
from glomflow.cohort.phantom.glomerulus import PATTERNS
from glomflow.cohort.phantom.om import draw_field
from glomflow.cohort.phantom.sites import SITES

Bytes = npt.NDArray[np.uint8]
Part = Literal["training", "held_out"]

DOMAIN = int.from_bytes(b"captioned")
"""First word of every seed drawn from here.

The seeds of a cohort start with ``phantom.seed``; none of them equals this number of 72 bits.
"""

_PARTS: dict[Part, int] = {"training": 1, "held_out": 2}
_FIELD, _CAPTION, _PLACE = 1, 2, 3
_WHITE = 255


@dataclass(frozen=True)
class CaptionedCrops:
    """Glomerulus crops with a lesion and a caption each.

    Attributes:
        images: (N, S, S, 3) uint8, each glomerulus within its margin.
        lesions: (N,) int64, place in :data:`LESIONS`.
        captions: N sentences.
        patients: (N,) int64, number of the patient within the part.
        sites: (N,) int64, place in ``SITES``.
    """

    images: Bytes
    lesions: npt.NDArray[np.int64]
    captions: tuple[str, ...]
    patients: npt.NDArray[np.int64]
    sites: npt.NDArray[np.int64]


def patient_seed(seed: int, part: Part, patient: int, purpose: int) -> list[int]:
    """Returns the seed of a draw; see :data:`DOMAIN`.

    Args:
        seed: Seed of the whole.
        part: Training and held-out patients differ.
        patient: Number of the patient.
        purpose: Number of what is drawn.
    """
    return [DOMAIN, seed, _PARTS[part], patient, purpose]


def draw_captioned(
    seed: int,
    part: Part,
    *,
    patients: int,
    glomeruli: int,
    size: int,
    margin: float = 0.15,
    um_per_px: float = 1.0,
    crop_px: int = 224,
    jitter: float = 0.0,
    threads: int = 1,
) -> CaptionedCrops:
    """Draws patients, each with as many glomeruli of every lesion, and cuts these out.

    Sites and the disease patterns of the tufts take turns over the patients, so that neither tells the
    lesion.

    Args:
        seed: Seed of the draw; its patients are in no cohort, whatever ``phantom.seed`` is.
        part: ``training`` or ``held_out``; no patient is in both.
        patients: Number of patients.
        glomeruli: Glomeruli per patient, lesions by turns.
        size: Edge of the crops, px.
        margin: Context around the outline, as ``imaging.om.margin``.
        um_per_px: Resolution that crops are placed at, as ``imaging.om.um_per_px``.
        crop_px: Edge that they have at that resolution, as ``imaging.om.size``; reduced to ``size``.
        jitter: Crops are enlarged or reduced by up to this share, and shifted by up to half of it.
        threads: Threads that draw patients side by side; the result does not depend on it.
    """

    def one(number: int) -> CaptionedCrops:
        return _draw_patient(seed, part, number, glomeruli, size, margin, um_per_px * crop_px, jitter)

    with ThreadPoolExecutor(threads) as pool:
        return _joined(list(pool.map(one, range(patients))))


def _draw_patient(
    seed: int,
    part: Part,
    number: int,
    glomeruli: int,
    size: int,
    margin: float,
    side_um: float,
    jitter: float,
) -> CaptionedCrops:
    field_rng, caption_rng, place_rng = (
        np.random.default_rng(patient_seed(seed, part, number, purpose))
        for purpose in (_FIELD, _CAPTION, _PLACE)
    )
    appearances = tuple(PATTERNS)
    site = number % len(SITES)
    appearance = appearances[number // len(SITES) % len(appearances)]
    lesions = field_rng.permutation((np.arange(glomeruli) + number * glomeruli) % len(LESIONS))
    field = draw_field(field_rng, SITES[site], appearance, [LESIONS[k] for k in lesions])
    smallest = side_um / SITES[site].om_um_per_px
    images = [
        _cut(field.rgb, *_placed(outline, smallest, margin, jitter, place_rng), size)
        for outline in field.outlines
    ]
    return CaptionedCrops(
        images=np.stack(images),
        lesions=lesions.astype(np.int64),
        captions=tuple(caption_for(LESIONS[k], caption_rng) for k in lesions),
        patients=np.full(glomeruli, number),
        sites=np.full(glomeruli, site),
    )


def _placed(
    outline: Array, smallest: float, margin: float, jitter: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Returns the left and the top edge of a crop and its side, px."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    side = max(float((high - low).max()) * (1.0 + 2.0 * margin), smallest)
    scale, across, down = rng.uniform(-1.0, 1.0, 3)
    x, y = (low + high) / 2.0 + 0.5 * jitter * side * np.array([across, down])
    side *= 1.0 + jitter * scale
    return float(x) - side / 2.0, float(y) - side / 2.0, side


def _cut(rgb: Bytes, left: float, top: float, side: float, size: int) -> Bytes:
    """Cuts a square, white beyond the field, and reduces it to ``size``."""
    from PIL import Image

    pad = max(0, int(np.ceil(max(-left, -top, left + side - rgb.shape[1], top + side - rgb.shape[0]))) + 1)
    if pad:
        rgb = np.pad(rgb, ((pad, pad), (pad, pad), (0, 0)), constant_values=_WHITE)
    box = (left + pad, top + pad, left + pad + side, top + pad + side)
    whole = (int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3])))
    part = Image.fromarray(np.ascontiguousarray(rgb[whole[1] : whole[3], whole[0] : whole[2]]))
    inner = (box[0] - whole[0], box[1] - whole[1], box[2] - whole[0], box[3] - whole[1])
    return np.asarray(part.resize((size, size), Image.Resampling.BICUBIC, box=inner))


def _joined(parts: Sequence[CaptionedCrops]) -> CaptionedCrops:
    return CaptionedCrops(
        images=np.concatenate([part.images for part in parts]),
        lesions=np.concatenate([part.lesions for part in parts]),
        captions=tuple(caption for part in parts for caption in part.captions),
        patients=np.concatenate([part.patients for part in parts]),
        sites=np.concatenate([part.sites for part in parts]),
    )
