"""Tiles per second and memory of TEM tiling, next to bare decoding and resizing, and to scikit-image.

- *bare*: the same reader decodes the image and area-averages it to the tiles' resolution; nothing else.
- *glomflow*: the whole stage: overlay search, scale-bar check, measures and ranking of all tiles, and
  the 8-bit pixels of those that are kept (``--keep`` of an image; the default keeps two).
- *scikit-image*: what a notebook does: tifffile, ``skimage.transform.resize``, every tile cut and scored
  by ``skimage.measure.shannon_entropy``. It searches no graphics; the strip's height is given to it.

Runs alternate; medians of CPU time.

Run: ``python benchmarks/tem_tiling.py [--images 4] [--runs 5] [--keep 2] [--compression none zlib]``
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from scipy.ndimage import gaussian_filter

from glomflow.config import TemTiles
from glomflow.imaging.readers import open_image
from glomflow.imaging.tem import tile_positions, tile_tem_shard
from glomflow.imaging.tem_overlay import overlay_boxes
from glomflow.imaging.tem_score import score_maps

EDGE, STRIP, NM_PER_PX, TILE_NM = 2048, 96, 5.0, 10.0


def micrograph(seed: int) -> np.ndarray:
    """Returns a 16-bit field of membranes and grain over a black strip with a white bar of 2 µm."""
    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.normal(size=(EDGE // 4, EDGE // 4)), 8).repeat(4, 0).repeat(4, 1)
    image = 28000 + 9000 * np.tanh(2 * coarse / coarse.std()) + rng.normal(0, 1200, (EDGE, EDGE))
    image[-STRIP:] = 0
    image[-STRIP // 2 - 4 : -STRIP // 2 + 4, 60:460] = 65535
    return image.astype(np.uint16)


def bare(path: Path) -> np.ndarray:
    height = EDGE - STRIP
    size = round(EDGE * NM_PER_PX / TILE_NM), round(height * NM_PER_PX / TILE_NM)
    with open_image(path) as reader:
        return reader.read_region(0, 0, EDGE, height, *size)


def with_scikit_image(path: Path, settings: TemTiles) -> int:
    from skimage.measure import shannon_entropy
    from skimage.transform import resize

    image = tifffile.imread(path)[:-STRIP]
    shape = [round(edge * NM_PER_PX / TILE_NM) for edge in image.shape]
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip(
        (resize(image, shape, anti_aliasing=True, preserve_range=True) - low) / (high - low), 0, 1
    )
    image = (image * 255).astype(np.uint8)
    corners = [tile_positions(edge, settings.size, settings.overlap) for edge in image.shape]
    size = settings.size
    return len([shannon_entropy(image[y : y + size, x : x + size]) for y in corners[0] for x in corners[1]])


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.process_time() - start


def compare(compression: str, images: int, runs: int, keep: int) -> None:
    settings = TemTiles(nm_per_px=TILE_NM, max_per_image=keep, max_instances=1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{number}.tif" for number in range(images)]
        for number, path in enumerate(paths):
            options = {} if compression == "none" else {"compression": compression, "rowsperstrip": 64}
            tifffile.imwrite(path, micrograph(number), **options)
        names = [path.name for path in paths]
        frame = pd.DataFrame(
            {"image": names, "patient": "p", "modality": "TEM", "path": names, "slide": names}
        ).assign(status="ok", um_per_px=NM_PER_PX / 1000, lesion=None)
        work: dict[str, Callable[[], object]] = {
            "bare": lambda: [bare(path) for path in paths],
            "glomflow": lambda: tile_tem_shard(frame, frame, folder, settings),
            "scikit-image": lambda: [with_scikit_image(path, settings) for path in paths],
        }
        for one in work.values():
            seconds(one)
        measured: dict[str, list[float]] = {key: [] for key in work}
        for _ in range(runs):
            for key, one in work.items():
                measured[key].append(seconds(one) / images)
        tracemalloc.start()
        seconds(lambda: tile_tem_shard(frame[:1], frame[:1], folder, settings))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        tiles = with_scikit_image(paths[0], settings)
    print(f"\ncompression {compression}, {tiles} tiles per image, {keep} kept")
    median = {key: float(np.median(values)) for key, values in measured.items()}
    for key, value in median.items():
        print(f"{key:<14}{tiles / value:8.0f} tiles/s  {1e3 * value:7.1f} ms/image")
    print(f"glomflow / bare throughput:         {median['bare'] / median['glomflow']:.2f}")
    print(f"glomflow / scikit-image throughput: {median['scikit-image'] / median['glomflow']:.2f}")
    print(f"peak memory of one image: {peak / 2**20:.0f} MiB ({EDGE * EDGE * 2 / 2**20:.0f} MiB of samples)")


def parts(runs: int) -> None:
    image = micrograph(0)
    small = image[: EDGE - STRIP : 2, ::2]
    for name, work in (
        ("overlay search", lambda: overlay_boxes(image)),
        ("measures of the image", lambda: score_maps(small, TILE_NM)),
    ):
        print(f"{name}: {1e3 * float(np.median([seconds(work) for _ in range(runs)])):.1f} ms/image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--compression", nargs="+", default=["none", "zlib"])
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, CPU time")
    print(f"{EDGE} x {EDGE} px, 16 bit, tiles of 224 px at {TILE_NM:g} nm/px")
    for compression in options.compression:
        compare(compression, options.images, options.runs, options.keep)
    parts(options.runs)


if __name__ == "__main__":
    main()
