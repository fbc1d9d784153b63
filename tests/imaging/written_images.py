"""Images that the tests of readers write."""

import numpy as np
import tifffile

from glomflow.imaging.readers import open_image

RGB = ("R", "G", "B")


def noise(shape, dtype=np.uint8, seed=0):
    if np.dtype(dtype).kind == "f":
        return np.random.default_rng(seed).random(shape).astype(dtype)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def whole(reader):
    return reader.read_region(0, 0, reader.width, reader.height, reader.width, reader.height)


def open_tiff(tmp_path, array, **options):
    path = tmp_path / options.pop("name", "image.tif")
    tifffile.imwrite(path, array, **options)
    return open_image(path)


def pyramid(path, level0, factors, **options):
    """Writes a tiled pyramid with area-averaged SubIFDs; sizes are rounded down."""
    with tifffile.TiffWriter(path, **options) as writer:
        common = {"tile": (64, 64), "photometric": "rgb" if level0.ndim == 3 else "minisblack"}
        writer.write(level0, subifds=len(factors), **common)
        for factor in factors:
            height, width = level0.shape[0] // factor, level0.shape[1] // factor
            cut = level0[: height * factor, : width * factor]
            blocks = cut.reshape(height, factor, width, factor, *level0.shape[2:])
            writer.write(blocks.mean(axis=(1, 3)).astype(level0.dtype), subfiletype=1, **common)
