"""How often injected defects are flagged, and how often clean images are: the flags of imaging.quality.

Every clean image gets every defect of its modality ``--seeds`` times; an image counts as found if the
defect's flag is set. False alarms are the clean images with that flag, less those that have the defect
in truth.

Run it with real images (see --real) and, after a run of the demo, with phantom images::

    python benchmarks/quality_injection.py --real ../shared/data/real --phantom results/phantom
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from glomflow.config_quality import Quality
from glomflow.imaging.quality import Views, judge, measure
from glomflow.imaging.readers import open_image

INKS = {"black": (25, 25, 30), "blue": (25, 50, 160), "green": (15, 120, 70), "red": (205, 25, 45)}
TRULY = {("fold", "kidney_13_ihc.png")}
"""Clean images that are known to have a defect."""


def images(real: Path, phantom: Path, count: int) -> Iterator[tuple[str, str, Path, float]]:
    """Yields source, modality, file and pixel size in µm (of the real fields as estimated by eye)."""
    for path in sorted(real.glob("stains/*.png")):
        yield "real", "OM", path, 0.5
    for path in sorted(real.glob("ihc_rois/*.jpg")):
        yield "real", "OM", path, 0.8
    for path in sorted(real.glob("if/*.jpg")):
        yield "real", "IM", path, 0.4
    sizes = {"fpw_good": 10, "fpw_good2": 10, "fpw_okay": 10, "fpw_bad": 10}
    for name, size in (sizes | {"olympus_sis": 15.15, "gbm_scalebar": 5}).items():
        for path in real.glob(f"tem/{name}.*"):
            yield "real", "TEM", path, size / 1000
    for modality in ("OM", "IM", "TEM"):
        paths = sorted((phantom / modality).glob("*.tif"))
        for path in paths[:: max(1, len(paths) // count)][:count]:
            with open_image(path) as reader:
                size = reader.pixel_size
            if size is not None:
                yield "phantom", modality, path, size[0]


def stroke(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Returns a slightly bent stroke near the middle, 0 to 1, (h, w)."""
    height, breadth = shape[:2]
    y, x = np.mgrid[:height, :breadth].astype(np.float32)
    centre = np.array((height, breadth)) * (0.5 + rng.uniform(-0.2, 0.2, 2))
    angle, length = rng.uniform(0, math.pi), rng.uniform(0.4, 0.8) * min(height, breadth)
    along = (y - centre[0]) * math.sin(angle) + (x - centre[1]) * math.cos(angle)
    across = (x - centre[1]) * math.sin(angle) - (y - centre[0]) * math.cos(angle)
    across += rng.uniform(-0.1, 0.1) * along**2 / length
    inside = (np.abs(across) < width / 2) & (np.abs(along) < length / 2)
    return ndimage.gaussian_filter(inside.astype(np.float32), width / 30)[:, :, None]


def pen(name: str) -> Callable[..., np.ndarray]:
    """Felt pen: transmits its own colour times that of the tissue."""

    def ink(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
        mark = stroke(rng, pixels.shape, rng.uniform(60, 200) / um)
        colour = np.clip(np.array(INKS[name]) / 255 * rng.uniform(0.85, 1.1, 3), 0, 1)
        return pixels * (1 - mark) + pixels * colour * mark

    return ink


def fold(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
    """The section lies double: the density of another place is added, out of focus."""
    band = stroke(rng, pixels.shape, rng.uniform(30, 100) / um)
    density = -np.log(np.maximum(pixels, 1) / 255)
    other = ndimage.gaussian_filter(np.roll(density[::-1], (37, 53), (0, 1)), (3 / um, 3 / um, 0))
    return 255 * np.exp(-(density + band * other))


def shadow(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
    """A fold out of the plane of focus: grey with soft borders, as in a real field."""
    band = stroke(rng, pixels.shape, rng.uniform(40, 100) / um)
    return pixels * np.exp(-0.35 * ndimage.gaussian_filter(band, (8 / um, 8 / um, 0)))


def blur(um_blur: float) -> Callable[..., np.ndarray]:
    """Out of focus: a Gaussian, and then noise."""

    def blurred(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
        soft = ndimage.gaussian_filter(pixels, (um_blur / um, um_blur / um, 0))
        return soft + rng.normal(0, 0.02 * np.ptp(pixels), pixels.shape)

    return blurred


def underexposed(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
    """Hardly any light: a hundredth of a level is left of the range, and camera noise."""
    return 12 + rng.normal(0, 3, pixels.shape) + pixels * (0.5 / max(pixels.max(), 1))


def overexposed(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
    """Exposed until a tenth of the pixels is clipped."""
    level = np.percentile(pixels.max(axis=2), 90)
    return pixels * (np.iinfo(np.uint16).max if pixels.max() > 255 else 255) / max(level, 1)


def bleached(share: float) -> Callable[..., np.ndarray]:
    """A rectangle of 30 to 60 % of the edges keeps only a share of its signal."""

    def dimmed(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
        height, width = pixels.shape[:2]
        size = rng.uniform(0.3, 0.6)
        rows, columns = int(height * size), int(width * size)
        y, x = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        dark = np.percentile(pixels, 1, axis=(0, 1))
        box = np.s_[y : y + rows, x : x + columns]
        pixels[box] = dark + (pixels[box] - dark) * share
        return pixels

    return dimmed


def drifted(um_drift: float) -> Callable[..., np.ndarray]:
    """The stage drifts along a random direction; detector noise is added after."""

    def smeared(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(0, math.pi)
        way = um_drift / um
        parts = [
            ndimage.shift(
                pixels,
                (step * way * math.sin(angle), step * way * math.cos(angle), 0),
                order=1,
                mode="nearest",
            )
            for step in np.linspace(-0.5, 0.5, 9)
        ]
        return np.mean(parts, axis=0) + rng.normal(0, 0.05 * pixels.std(), pixels.shape)

    return smeared


def dirt(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
    """Precipitate: black discs of 60 to 250 nm radius, 2 % of the image."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    covered = np.zeros((height, width), dtype=bool)
    while covered.mean() < 0.02:
        radius = rng.uniform(0.06, 0.25) / um
        covered |= (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2 < radius**2
    return np.where(covered[:, :, None], 0.05 * np.percentile(pixels, 95), pixels)


def empty(pixels: np.ndarray, um: float, rng: np.random.Generator) -> np.ndarray:
    """Nine tenths are bright resin with a little noise."""
    edge = int(0.9 * pixels.shape[0])
    level = np.percentile(pixels, 97)
    pixels[:edge] = level + rng.normal(0, 0.01 * np.ptp(pixels), pixels[:edge].shape)
    return pixels


DEFECTS: dict[str, list[tuple[str, str, Callable[..., np.ndarray]]]] = {
    "OM": [
        *((f"{name} ink", "pen", pen(name)) for name in INKS),
        ("double section", "fold", fold),
        ("shadow of a fold", "fold", shadow),
        ("blur, sigma 1 µm", "blurred", blur(1.0)),
        ("blur, sigma 2 µm", "blurred", blur(2.0)),
    ],
    "IM": [
        ("blur, sigma 2 µm", "blurred", blur(2.0)),
        ("blur, sigma 4 µm", "blurred", blur(4.0)),
        ("no light", "underexposed", underexposed),
        ("10 % clipped", "overexposed", overexposed),
        ("bleached to 50 %", "bleached", bleached(0.5)),
        ("bleached to 35 %", "bleached", bleached(0.35)),
    ],
    "TEM": [
        ("blur, sigma 20 nm", "blurred", blur(0.02)),
        ("blur, sigma 40 nm", "blurred", blur(0.04)),
        ("drift by 100 nm", "drift", drifted(0.1)),
        ("drift by 200 nm", "drift", drifted(0.2)),
        ("dirt, 2 % of the area", "contaminated", dirt),
        ("90 % resin", "blank_area", empty),
    ],
}


def flags_of(path: Path, modality: str, um: float) -> set[str]:
    """Returns the flags of a file."""
    settings = Quality()
    with open_image(path) as reader:
        views = Views(reader)
        quality = measure(views, views.thumbnail(384), modality, um, settings)
    return {finding.flag for finding in judge(vars(quality), modality, settings)}


def _write(path: Path, pixels: np.ndarray, dtype: np.dtype) -> None:
    rounded = np.clip(np.rint(pixels), 0, np.iinfo(dtype).max).astype(dtype)
    colour = rounded.shape[2] == 3
    planes = rounded if colour else np.moveaxis(rounded, 2, 0)
    tifffile.imwrite(path, planes, photometric="rgb" if colour else "minisblack", metadata=None)


def main() -> None:
    """Prints a table: source, modality, defect, flag, found, false alarms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, default=Path("../shared/data/real"))
    parser.add_argument("--phantom", type=Path, default=Path("results/phantom"))
    parser.add_argument("--count", type=int, default=8, help="phantom images of each modality")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modality", choices=list(DEFECTS), action="append")
    options = parser.parse_args()
    found: dict[tuple[str, str, str, str], list[bool]] = {}
    alarms: dict[tuple[str, str, str], list[bool]] = {}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "defect.tif"
        for source, modality, path, um in images(options.real, options.phantom, options.count):
            if options.modality and modality not in options.modality:
                continue
            with open_image(path) as reader:
                size = reader.width, reader.height
                pixels, dtype = reader.read_region(0, 0, *size, *size), reader.dtype
            clean = flags_of(path, modality, um)
            for flag in {flag for _, flag, _ in DEFECTS[modality]}:
                if (flag, path.name) not in TRULY:
                    alarms.setdefault((source, modality, flag), []).append(flag in clean)
            for name, flag, inject in DEFECTS[modality]:
                for seed in range(options.seeds):
                    spoiled = inject(pixels.astype(np.float32), um, np.random.default_rng(seed))
                    _write(target, spoiled, dtype)
                    hit = flag in flags_of(target, modality, um)
                    found.setdefault((source, modality, name, flag), []).append(hit)
    print(f"{'source':8} {'':4} {'defect':22} {'flag':13} {'found':>14} {'false alarms':>14}")
    for (source, modality, name, flag), hits in sorted(found.items()):
        false = alarms[source, modality, flag]
        shown = f"{sum(hits)} of {len(hits)}", f"{sum(false)} of {len(false)}"
        print(f"{source:8} {modality:4} {name:22} {flag:13} {shown[0]:>14} {shown[1]:>14}")


if __name__ == "__main__":
    main()
