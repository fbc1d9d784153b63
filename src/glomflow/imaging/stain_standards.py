"""Names of histological stains, and the fixed profiles that each can be matched to."""

from __future__ import annotations

from collections.abc import Mapping

from glomflow.config import Stain
from glomflow.imaging.stain import StainProfile, Vector
from glomflow.imaging.stain_white import standard_white

_HE_CONCENTRATIONS: Vector = (1.9705, 1.0308)
STANDARD_MACENKO: Mapping[str, StainProfile] = {
    "HE": StainProfile(
        "macenko",
        "standard HE",
        matrix=((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)),
        concentrations=_HE_CONCENTRATIONS,
    ),
    "PAS": StainProfile(
        "macenko",
        "standard PAS",
        matrix=((0.644211, 0.716556, 0.266844), (0.175411, 0.972178, 0.154589)),
        concentrations=_HE_CONCENTRATIONS,
    ),
    "TRICHROME": StainProfile(
        "macenko",
        "standard TRICHROME",
        matrix=((0.799511, 0.591352, 0.105287), (0.099972, 0.737386, 0.668033)),
        concentrations=(1.7, 2.7),
    ),
}
"""Fixed Macenko targets, of two dyes.

HE: the reference of Macenko's method as published with its first implementation, at white level 240.
PAS: haematoxylin and periodic acid-Schiff of Ruifrok and Johnston (2001), as tabulated in the colour
deconvolution literature. No concentrations are published for these two; those of HE are kept.
TRICHROME (Masson): methyl blue and ponceau fuchsin as measured by Landini for the colour deconvolution of
ImageJ (after Ruifrok and Johnston 2001). The third dye, iron haematoxylin, is tabulated there with the
remark that it is confused with the other two: its vector is 0.06 off their plane (condition number of the
three 35), so that two describe the stain. No concentrations are published; these are rounded medians over
ten 256 px patches of Omni-Seg.
"""

STANDARD_VAHADANE: Mapping[str, StainProfile] = {
    "HE": StainProfile(
        "vahadane",
        "standard HE",
        matrix=((0.647, 0.692, 0.319), (0.226, 0.889, 0.399)),
        concentrations=(1.9, 1.5),
    ),
    "PAS": StainProfile(
        "vahadane",
        "standard PAS",
        matrix=((0.666, 0.675, 0.317), (0.400, 0.869, 0.290)),
        concentrations=(2.2, 2.1),
    ),
    "TRICHROME": StainProfile(
        "vahadane",
        "standard TRICHROME",
        matrix=((0.610, 0.675, 0.415), (0.194, 0.792, 0.579)),
        concentrations=(2.1, 3.0),
    ),
}
"""Fixed Vahadane targets, of two dyes, at white level 240.

No reference is published for this method, and Macenko's does not fit: Vahadane's vectors are the usual
colours of a dye, not the extreme ones, and come with larger amounts, so that Macenko's targets pull the
two dyes apart and bleach them (docs/stain.md). These are rounded medians over the same images as Reinhard's.
"""

STANDARD_REINHARD: Mapping[str, StainProfile] = {
    "HE": StainProfile("reinhard", "standard HE", lab_mean=(60.0, 21.0, -23.0), lab_std=(10.0, 8.0, 8.0)),
    "PAS": StainProfile("reinhard", "standard PAS", lab_mean=(52.0, 24.0, -26.0), lab_std=(11.0, 8.0, 7.5)),
    "TRICHROME": StainProfile(
        "reinhard", "standard TRICHROME", lab_mean=(44.0, 32.0, -3.0), lab_std=(12.0, 12.5, 10.0)
    ),
}
"""Fixed Reinhard targets.

There is no published CIELAB reference for kidney. These are rounded medians over the tissue of public
kidney images of each stain: ten 256 px patches of Omni-Seg (capsule and tuft) and, for HE and PAS, one
field of the multi-stain set of Nisar et al.
"""

_STANDARDS = {
    "macenko": STANDARD_MACENKO,
    "vahadane": STANDARD_VAHADANE,
    "reinhard": STANDARD_REINHARD,
}

THREE_DYES: Mapping[str, tuple[Vector, ...]] = {
    "PASM": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.577, 0.577, 0.577)),
    "TRICHROME": (
        (0.799511, 0.591352, 0.105287),
        (0.099972, 0.737386, 0.668033),
        (0.658823, 0.664142, 0.353366),
    ),
}
"""Where the search for three dyes starts, so that slides name them in one order; not a target.

PASM: haematoxylin and eosin of Ruifrok and Johnston (2001), and silver, which is grey. TRICHROME: methyl
blue, ponceau fuchsin and iron haematoxylin of Landini.
"""

_SYNONYMS = {
    "H&E": "HE",
    "H-E": "HE",
    "H+E": "HE",
    "HES": "HE",
    "HAEMATOXYLIN AND EOSIN": "HE",
    "HEMATOXYLIN AND EOSIN": "HE",
    "PAS-H": "PAS",
    "PASH": "PAS",
    "PERIODIC ACID-SCHIFF": "PAS",
    "JONES": "PASM",
    "JONES SILVER": "PASM",
    "SILVER": "PASM",
    "PAMS": "PASM",
    "JMS": "PASM",
    "METHENAMINE SILVER": "PASM",
    "MASSON": "TRICHROME",
    "MASSON TRICHROME": "TRICHROME",
    "MASSON'S TRICHROME": "TRICHROME",
    "MASSON-TRICHROME": "TRICHROME",
    "MASSON-GOLDNER": "TRICHROME",
}


def stain_key(stain: object) -> str:
    """Returns the name that targets go by: ``HE``, ``PAS``, ``PASM``, any other in capitals, or ''.

    Args:
        stain: Stain as the sheet has it, or a missing value.
    """
    if not isinstance(stain, str):
        return ""
    name = " ".join(stain.upper().replace("_", " ").split())
    return _SYNONYMS.get(name, name)


def is_white_only(stain: str, settings: Stain) -> bool:
    """Tells whether slides of a stain (a :func:`stain_key`) are only brought to one white level."""
    named = stain in {stain_key(name) for name in settings.white_only}
    return named and number_of_dyes(stain, settings) == 2


def number_of_dyes(stain: str, settings: Stain) -> int:
    """Returns how many dyes a stain (a :func:`stain_key`) is unmixed into: 2 or 3."""
    return 3 if stain in {stain_key(name) for name in settings.three_dyes} else 2


def standard_target(stain: str, settings: Stain) -> StainProfile:
    """Returns the fixed profile that images of a stain are matched to.

    Args:
        stain: A :func:`stain_key`.
        settings: Method, other than ``none``, and how each stain is modelled.

    Returns:
        The target; flagged, so that images pass through unchanged, where none is published.
    """
    if is_white_only(stain, settings):
        return standard_white(stain, settings)
    name = f"standard {stain}".strip()
    standards = _STANDARDS[settings.method]
    if not stain:
        flag = (
            "the sheet names no stain; fill the column 'stain' of images.csv (HE or PAS), or set "
            "imaging.stain.target to cohort_median"
        )
    elif stain not in standards:
        flag = (
            f"there is no published standard for stain {stain} (only for {_listed(standards)}); set "
            "imaging.stain.target to cohort_median to match the slides to each other"
        )
    elif settings.method != "reinhard" and number_of_dyes(stain, settings) == 3:
        flag = (
            f"there is no published standard of three dyes for stain {stain}; take it out of "
            "imaging.stain.three_dyes, or set imaging.stain.target to cohort_median"
        )
    else:
        return standards[stain]
    return StainProfile(settings.method, name, flag=flag)


def _listed(names: Mapping[str, StainProfile]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"
