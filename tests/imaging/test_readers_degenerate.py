"""Whatever a file holds, a reader gives finite samples of the right shape, or says why not.

2,000 generated files per reader: odd shapes and types, NaN, cut short, bits flipped, headers that lie.
"""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from imaging import degenerate as d


def generated(count):
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("degenerate")


@pytest.fixture(autouse=True)
def _headers_may_claim_much(monkeypatch):
    """A claimed size is refused at less than gigabytes, so that the tests stay small."""
    monkeypatch.setattr("glomflow.imaging.readers.raster.MOST_PIXELS", 10**6)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 500_000)
    monkeypatch.setattr("glomflow.imaging.readers.tiff_pages.LARGEST_SEGMENT", 10**7)


def _damaged(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    return d.survives(path)


@generated(2000)
@given(d.rasters(), d.damages())
def test_raster(folder, write, damage):
    write(folder / "a.png")
    _damaged(folder / "a.png", damage)


@generated(2000)
@given(d.tiffs(), d.damages())
def test_tiff(folder, write, damage):
    write(folder / "a.tif")
    _damaged(folder / "a.tif", damage)


@generated(2000)
@given(d.rasters(), d.damages())
def test_jpeg2000(folder, write, damage):
    import imagecodecs
    from PIL import Image

    write(folder / "b.png")
    with Image.open(folder / "b.png") as image:
        array = np.asarray(image.convert("RGB" if image.mode in ("P", "CMYK", "1") else image.mode))
    (folder / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(array), level=0))
    _damaged(folder / "a.jp2", damage)


@generated(2000)
@given(d.mrcs(), d.damages())
def test_mrc(folder, data, damage):
    (folder / "a.mrc").write_bytes(data)
    _damaged(folder / "a.mrc", damage)


@generated(2000)
@given(d.dm3s(), d.damages())
def test_dm3(folder, data, damage):
    pytest.importorskip("ncempy", reason="the extra 'electron' is not installed")
    (folder / "a.dm3").write_bytes(data)
    _damaged(folder / "a.dm3", damage)


@generated(250)  # folders of many files are slow to write; 2,000 passed as well
@given(d.ome_zarrs())
def test_ome_zarr(folder, write):
    path = folder / "a.ome.zarr"
    shutil.rmtree(path, ignore_errors=True)
    write(path)
    d.survives(path)


def test_the_generated_files_are_not_all_refused(folder):
    """Guards the tests above against a generator whose files nothing could read."""
    read = {"read": 0, "refused": 0}

    @generated(60)
    @given(d.tiffs(), d.damages())
    def count(write, damage):
        write(folder / "c.tif")
        read["read" if _damaged(folder / "c.tif", damage) else "refused"] += 1

    count()
    assert min(read.values()) > 10
