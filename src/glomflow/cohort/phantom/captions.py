"""Captions of phantom glomeruli: what a pathologist would note of the lesion, nothing of the site."""

from __future__ import annotations

import numpy as np

LESIONS = ("normal", "globally_sclerotic", "segmentally_sclerotic", "ischaemic", "crescentic")
"""Lesion classes of the outlines, the most frequent first."""

_OPENINGS = (
    "{}.",
    "PAS stain: {}.",
    "A glomerulus; {}.",
    "Light microscopy shows {}.",
    "On this section, {}.",
)

_FINDINGS = {
    "normal": (
        "a glomerulus with patent capillary loops and an open Bowman's space",
        "an intact tuft without sclerosis, crescent or collapse",
        "a tuft that fills its capsule, its capillary lumens open",
        "no sclerosis and no crescent, the capsule thin and the loops patent",
    ),
    "globally_sclerotic": (
        "a globally sclerotic glomerulus, the whole tuft replaced by PAS-positive matrix",
        "global sclerosis with obliterated capillary lumens and few nuclei left",
        "a solid, shrunken tuft of matrix without open loops",
        "complete obsolescence of the tuft, which is a PAS-positive ball",
    ),
    "segmentally_sclerotic": (
        "segmental sclerosis, part of the tuft solidified and adherent to the capsule",
        "a segment of the tuft replaced by matrix, the remaining loops open",
        "a focal scar of the tuft with adhesion to Bowman's capsule",
        "sclerosis of one segment while the rest of the tuft is preserved",
    ),
    "ischaemic": (
        "an ischaemic glomerulus, the tuft collapsed and wrinkled in a wide Bowman's space",
        "a retracted tuft with wrinkled walls and a thickened capsule",
        "ischaemic collapse of the tuft towards the vascular pole",
        "a shrunken tuft, its loops wrinkled, within a wide urinary space",
    ),
    "crescentic": (
        "a cellular crescent filling part of Bowman's space and compressing the tuft",
        "a crescentic glomerulus with layers of cells along the capsule",
        "extracapillary proliferation that pushes the tuft aside",
        "a crescent of proliferated cells between capsule and tuft",
    ),
}


def caption_for(lesion: str, rng: np.random.Generator) -> str:
    """Returns one sentence on a glomerulus of that lesion class.

    Args:
        lesion: One of ``LESIONS``.
        rng: Draws the template.
    """
    findings = _FINDINGS[lesion]
    opening = _OPENINGS[int(rng.integers(len(_OPENINGS)))]
    sentence = opening.format(findings[int(rng.integers(len(findings)))])
    return sentence[0].upper() + sentence[1:]
