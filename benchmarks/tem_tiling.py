"""Tiles per second and memory of TEM tiling, next to the same grid cut with scikit-image.

The other side does what a notebook does: read with tifffile, rescale with ``skimage.transform.resize``,
cut every tile, score by ``skimage.measure.shannon_entropy``. It searches no burnt-in graphics, so that
it does less; the strip's height is given to it.

Run: ``python benchmarks/tem_tiling.py [--images 8]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from scipy.ndimage import gaussian_filter

from glomflow.config import TemTiles
from glomflow.imaging.tem import information_score, tile_positions, tile_tem_shard

EDGE, STRIP, NM_PER_PX = 2048, 96, 5.0
SETTINGS = TemTiles(nm_per_px=10.0, max_per_image=10_000, max_instances=1_000_000)


def micrograph(seed: int) -> np.ndarray:
    """Returns a 16-bit field of membranes and grain over a black strip with a white bar."""
    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.normal(size=(EDGE // 4, EDGE // 4)), 8).repeat(4, 0).repeat(4, 1)
    image = 28000 + 9000 * np.tanh(2 * coarse / coarse.std()) + rng.normal(0, 1200, (EDGE, EDGE))
    image[-STRIP:] = 0
    image[-STRIP // 2 - 4 : -STRIP // 2 + 4, 60:460] = 65535
    return image.astype(np.uint16)


def with_scikit_image(path: Path) -> int:
    from skimage.measure import shannon_entropy
    from skimage.transform import resize

    image = tifffile.imread(path)[:-STRIP]
    shape = [round(edge * NM_PER_PX / SETTINGS.nm_per_px) for edge in image.shape]
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip(
        (resize(image, shape, anti_aliasing=True, preserve_range=True) - low) / (high - low), 0, 1
    )
    image = (image * 255).astype(np.uint8)
    corners = [tile_positions(edge, SETTINGS.size, SETTINGS.overlap) for edge in image.shape]
    return len(
        [
            shannon_entropy(image[y : y + SETTINGS.size, x : x + SETTINGS.size])
            for y in corners[0]
            for x in corners[1]
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [f"{number}.tif" for number in range(count)]
        for number, path in enumerate(paths):
            tifffile.imwrite(folder / path, micrograph(number))
        frame = pd.DataFrame(
            {"image": paths, "patient": "p", "modality": "TEM", "path": paths, "slide": paths}
        )
        frame = frame.assign(status="ok", um_per_px=NM_PER_PX / 1000, lesion=None)

        tile_tem_shard(frame[:1], frame[:1], folder, SETTINGS)
        start = time.process_time()
        tiles, _ = tile_tem_shard(frame, frame, folder, SETTINGS)
        ours = time.process_time() - start

        with_scikit_image(folder / paths[0])
        start = time.process_time()
        theirs_count = sum(with_scikit_image(folder / path) for path in paths)
        theirs = time.process_time() - start

        tracemalloc.start()
        tile_tem_shard(frame[:1], frame[:1], folder, SETTINGS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    nothing = np.zeros((SETTINGS.size, SETTINGS.size), np.bool_)
    start = time.process_time()
    for tile in tiles[:100, :, :, 0]:
        information_score(tile, nothing, SETTINGS.nm_per_px)
    score = (time.process_time() - start) / min(100, len(tiles))

    print(
        f"{count} 16-bit micrographs of {EDGE} x {EDGE} px, tiles of {SETTINGS.size} px at 10 nm/px, CPU time"
    )
    print(
        f"glomflow      {len(tiles) / ours:8.1f} tiles/s  {1e3 * ours / count:7.1f} ms/image  ({len(tiles)})"
    )
    print(
        f"scikit-image  {theirs_count / theirs:8.1f} tiles/s  {1e3 * theirs / count:7.1f} ms/image  "
        f"({theirs_count})"
    )
    print(f"ratio         {len(tiles) / ours / (theirs_count / theirs):8.2f}")
    print(f"information score: {1e3 * score:.2f} ms per tile")
    print(f"peak memory of one image: {peak / 2**20:.0f} MiB ({EDGE * EDGE * 2 / 2**20:.0f} MiB of samples)")


if __name__ == "__main__":
    main()
