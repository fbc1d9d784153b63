"""What unmixing does to silver, and what bringing slides to one white level does.

Real silver sections (PASM, Jones), and HE for comparison: SSIM of L* between picture and result, change of
hue of coloured tissue, and what becomes of the darkest fifth of tissue, which in silver is the black of
basement membranes: the chroma that it gains and its contrast. Prints Markdown.

Run with: python benchmarks/stain_silver.py FOLDER, which holds structures and stains.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from glomflow.config import Stain
from glomflow.imaging.stain import (
    StainProfile,
    estimate_background,
    estimate_profile,
    normalise,
    rgb_to_lab,
    tissue_mask,
)
from glomflow.imaging.stain_standards import STANDARD_MACENKO, THREE_DYES
from glomflow.imaging.stain_white import standard_white, white_profile
from stain_quality import MACENKO, UNMIXED, header, read, real_pictures, row, structure, target_of

Change = Callable[[np.ndarray], np.ndarray]


def hue_shift(before: np.ndarray, after: np.ndarray) -> float:
    """Mean change of hue of coloured tissue, degrees."""
    one, two = rgb_to_lab(before), rgb_to_lab(after)
    coloured = tissue_mask(before, estimate_background(before), 0.15)
    coloured &= (np.hypot(one[..., 1], one[..., 2]) > 8) & (np.hypot(two[..., 1], two[..., 2]) > 4)
    turn = np.arctan2(two[..., 2], two[..., 1]) - np.arctan2(one[..., 2], one[..., 1])
    return float(np.degrees(np.abs(np.angle(np.exp(1j * turn[coloured])))).mean())


def dark_fifth(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Chroma gained by the darkest fifth of tissue, and its contrast as a multiple of what it was."""
    one, two = rgb_to_lab(before), rgb_to_lab(after)
    tissue = tissue_mask(before, estimate_background(before), 0.15)
    dark = tissue & (one[..., 0] < np.percentile(one[..., 0][tissue], 20))
    gain = np.hypot(two[..., 1], two[..., 2])[dark].mean() - np.hypot(one[..., 1], one[..., 2])[dark].mean()
    return float(gain), float(two[..., 0][dark].std() / one[..., 0][dark].std())


def crushed(rgb: np.ndarray) -> float:
    """Share of pixels without any light in one channel."""
    return float((rgb.min(axis=-1) == 0).mean())


def matched(images: Sequence[np.ndarray], settings: Stain, dyes: int = 2) -> Change:
    """Returns the change to the median of the images' profiles."""
    initial = THREE_DYES["PASM"] if dyes == 3 else None

    def profile(rgb: np.ndarray, name: str = "") -> StainProfile:
        return estimate_profile(rgb, settings, name, stains=dyes, initial=initial)

    profiles = {str(number): profile(rgb, str(number)) for number, rgb in enumerate(images)}
    target = target_of("PASM", profiles, settings)
    return lambda rgb: normalise(rgb, profile(rgb), target)


def changes(images: Sequence[np.ndarray]) -> dict[str, Change]:
    """Returns what can be done to images of one stain."""

    def put_together(rgb: np.ndarray) -> np.ndarray:
        profile = estimate_profile(rgb, MACENKO)
        return normalise(rgb, profile, profile)

    median = {"target": "cohort_median"}
    return {
        "two stains, own profile as target": put_together,
        "two stains, to the HE standard": lambda rgb: normalise(
            rgb, estimate_profile(rgb, MACENKO), STANDARD_MACENKO["HE"]
        ),
        "two stains, to their median": matched(images, Stain(**median, **UNMIXED)),
        "Reinhard, to their median": matched(images, Stain(method="reinhard", **median, **UNMIXED)),
        "three stains, to their median": matched(images, Stain(three_dyes=["PASM"], **median), dyes=3),
        "white level only (default)": lambda rgb: normalise(
            rgb, white_profile(rgb, MACENKO), standard_white("PASM", MACENKO)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("real", type=Path, help="folder of real renal images")
    folder = parser.parse_args().real
    sets = real_pictures(folder, full=False)
    silver = [picture.rgb for picture in sets["PASM, Omni-Seg"][1]]
    silver.append(read(folder / "stains" / "kidney_03_jones_silver.png"))
    stained = [picture.rgb for picture in sets["HE, Omni-Seg"][1]]
    header(
        "stain",
        "what is done",
        "SSIM of L*",
        "least",
        "hue shift, °",
        "most",
        "chroma gained by the dark",
        "contrast of the dark",
        "without light in a channel, %",
    )
    for name, images in (("silver", silver), ("HE", stained)):
        for what, change in changes(images).items():
            pairs = [(rgb, change(rgb)) for rgb in images]
            likeness = [structure(*pair) for pair in pairs]
            hues = [hue_shift(*pair) for pair in pairs]
            dark = np.array([dark_fifth(*pair) for pair in pairs]).mean(axis=0)
            black = [100 * float(np.mean([crushed(pair[side]) for pair in pairs])) for side in (0, 1)]
            row(
                name,
                what,
                float(np.mean(likeness)),
                min(likeness),
                float(np.mean(hues)),
                max(hues),
                float(dark[0]),
                float(dark[1]),
                f"{black[0]:.1f} -> {black[1]:.1f}",
            )


if __name__ == "__main__":
    main()
