"""Stain profiles as rows of a table, and the target of an image's stain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.imaging.stain import StainProfile, Vector
from glomflow.imaging.stain_standards import stain_key


def profile_row(profile: StainProfile) -> dict[str, Any]:
    """Returns a profile as a row of the table ``STAIN_PROFILES``."""

    def text(value: object) -> str | None:
        return None if value is None else json.dumps(value)

    return {
        "slide": profile.slide,
        "method": profile.method,
        "matrix": text(profile.matrix),
        "concentrations": text(profile.concentrations),
        "lab_mean": text(profile.lab_mean),
        "lab_std": text(profile.lab_std),
        "background": text(profile.background),
        "tissue_pixels": profile.tissue_pixels,
        "flag": profile.flag,
    }


def profile_from_row(row: Mapping[Any, Any]) -> StainProfile:
    """Returns the profile that a row of the table ``STAIN_PROFILES`` holds."""

    def numbers(value: object) -> Any:
        return json.loads(value) if isinstance(value, str) and value else None

    def vector(value: object) -> Vector | None:
        found = numbers(value)
        return None if found is None else tuple(found)

    rows = numbers(row["matrix"])
    return StainProfile(
        method=row["method"],
        slide=row["slide"],
        matrix=None if rows is None else tuple(tuple(each) for each in rows),
        concentrations=vector(row["concentrations"]),
        lab_mean=vector(row["lab_mean"]),
        lab_std=vector(row["lab_std"]),
        background=vector(row["background"]) or (),
        tissue_pixels=int(row["tissue_pixels"]),
        flag=row["flag"] if isinstance(row["flag"], str) else "",
    )


def profiles_by_slide(profiles: pd.DataFrame) -> dict[str, StainProfile]:
    """Returns the profiles of a table by slide; of two for one slide, that which rests on more tissue."""
    ordered = profiles.sort_values("tissue_pixels", kind="stable")
    return {str(row["slide"]): profile_from_row(row) for row in ordered.to_dict("records")}


def target_for(targets: Mapping[str, StainProfile], stain: object) -> StainProfile:
    """Returns the target of an image's stain.

    Args:
        targets: What :func:`glomflow.imaging.stain_targets.choose_target` returned.
        stain: Stain as the sheet has it, or a missing value.

    Raises:
        GlomflowError: The stain was not among the images that the targets were chosen for.
    """
    key = stain_key(stain)
    if key not in targets:
        raise GlomflowError(
            f"no stain target was chosen for stain '{key}', only for {sorted(targets)}; "
            "delete the stain profiles and run again"
        )
    return targets[key]
