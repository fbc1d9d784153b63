"""Macenko stain normalisation: glomflow against torchstain (NumPy backend), alternating in one process.

Both get the same settings (alpha 1, beta 0.15, white level 240, percentiles over the whole image) and
the same target, once with torchstain's own reference and once with a profile fitted to another field.
Prints the time per megapixel of fit and transform, the ratio, and how far the results differ.

Run with: python benchmarks/stain_vs_torchstain.py [image ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer

from glomflow.config import Stain
from glomflow.imaging.stain import PUBLISHED_BACKGROUND, StainProfile, estimate_profile, normalise
from glomflow.imaging.stain_targets import STANDARD_MACENKO

SETTINGS = Stain(method="macenko", tissue_od=0.15, percentile=1.0)


def synthetic_field(seed: int, edge: int = 1000) -> np.ndarray:
    """Draws an H&E-like field of two stains, (edge, edge, 3) uint8, for a machine without images."""
    generator = np.random.default_rng(seed)
    coarse = generator.gamma(1.5, 0.4, (edge // 8, edge // 8, 2))
    amounts = np.kron(coarse, np.ones((8, 8, 1))) * generator.uniform(0.8, 1.2, (edge, edge, 1))
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    density = amounts @ vectors + generator.normal(0, 0.02, (edge, edge, 3))
    return np.clip(240.0 * np.exp(-density), 0, 255).astype(np.uint8)


def estimate(rgb: np.ndarray) -> StainProfile:
    return estimate_profile(rgb, SETTINGS, background=PUBLISHED_BACKGROUND, concentrations_over="image")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def compare(name: str, rgb: np.ndarray, repeats: int) -> None:
    seconds: dict[str, list[float]] = {key: [] for key in ("fit", "fit_peer", "both", "both_peer", "apply")}
    target = STANDARD_MACENKO["HE"]
    peer = NumpyMacenkoNormalizer()
    for _ in range(repeats):
        elapsed, profile = timed(lambda: estimate(rgb))
        seconds["fit"].append(elapsed)
        seconds["fit_peer"].append(timed(lambda: NumpyMacenkoNormalizer().fit(rgb))[0])
        elapsed, ours = timed(lambda: normalise(rgb, estimate(rgb), target))
        seconds["both"].append(elapsed)
        elapsed, theirs = timed(lambda: peer.normalize(rgb, stains=False)[0])
        seconds["both_peer"].append(elapsed)
        seconds["apply"].append(timed(lambda: normalise(rgb, profile, target))[0])  # noqa: B023
    fitted = NumpyMacenkoNormalizer()
    fitted.fit(rgb)
    matrix = np.abs(np.array(profile.matrix).T - fitted.HERef).max()
    concentrations = np.abs(np.array(profile.concentrations) - fitted.maxCRef).max()
    gap = np.abs(ours.astype(int) - theirs.astype(int))
    # torchstain adds 1 before the logarithm, does not take it off again, and truncates.
    rounding = np.abs(ours.astype(int) + 0.5 - theirs.astype(int))
    megapixels = rgb.shape[0] * rgb.shape[1] / 1e6
    print(f"{name} ({megapixels:.2f} megapixels)")
    for label, key in (("fit", "fit"), ("fit and transform", "both")):
        own, other = (np.median(seconds[part]) / megapixels * 1e3 for part in (key, f"{key}_peer"))
        print(
            f"  {label}: glomflow {own:.1f} ms, torchstain {other:.1f} ms per megapixel, {other / own:.1f} x"
        )
    print(
        f"  transform alone: glomflow {np.median(seconds['apply']) / megapixels * 1e3:.1f} ms per megapixel"
    )
    print(f"  largest difference of stain vectors {matrix:.1e}, of concentrations {concentrations:.1e}")
    print(
        f"  difference of results: mean {gap.mean():.3f}, at most {gap.max()} grey levels "
        f"({np.abs(rounding - 0.5).mean():.3f} on average beyond torchstain's offset of 1 and truncation)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help="8-bit images; two synthetic fields by default")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    fields = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in arguments.images}
    if not fields:
        fields = {f"synthetic field {seed}": synthetic_field(seed) for seed in (0, 1)}
    for name, rgb in fields.items():
        compare(name, rgb, arguments.repeats)


if __name__ == "__main__":
    main()
