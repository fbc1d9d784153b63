"""Pixel sizes from the text files beside a micrograph."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomflow.errors import ImageError
from glomflow.imaging.tem_sidecar import sidecar_pixel_size

HITACHI = """[SemImageFile]
InstructName=HT7800
SampleName=case 17
Magnification=8000
DataSize=1280x960
PixelSize=9.921875
"""
JEOL = "$CM_FORMAT JEOL/EO\n$CM_MAG 5000\n$$SM_MICRON_BAR 125\n$$SM_MICRON_MARKER 1um\n"
FEI = "[System]\nType=TEM\n[Scan]\nPixelWidth=2.5e-9\nPixelHeight=2.5e-009\n"
VELOX = (
    '{"Core": {"MetadataVersion": "7.9"}, '
    '"BinaryResult": {"PixelSize": {"width": "1.5e-09", "height": "1.5e-09"}}}'
)
XML = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<Image><Size>2048</Size><PixelSize unit="um">0.0042</PixelSize></Image>'
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    image = folder / "image.tif"
    image.write_bytes(b"II*\0")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return image


@pytest.mark.parametrize(
    ("name", "content", "nm"),
    [
        ("image.txt", HITACHI, 9.921875),
        ("image.tif.txt", HITACHI, 9.921875),
        ("image.txt", HITACHI.encode("utf-16"), 9.921875),
        ("image.txt", JEOL, 8.0),
        ("image.txt", FEI, 2.5),
        ("image.hdr", FEI, 2.5),
        ("image.json", VELOX, 1.5),
        ("image.xml", XML, 4.2),
        ("image.xml", XML.replace("utf-8", "utf-16").encode("utf-16"), 4.2),
        ("image.xml", '<a><p pixelSize="3.5 nm"/></a>', 3.5),
        ("image.json", '{"nm_per_px": 6.5}', 6.5),
        ("image.json", '{"pixel_size": 12, "pixel_size_unit": "Å"}', 1.2),
        ("image.txt", "nm_per_px: 7.25", 7.25),
        ("image.txt", "nm/pixel = 7.25", 7.25),
        ("image.txt", "um_per_px=0.004", 4.0),
        ("image.txt", "µm/px = 0.004".encode("cp1252"), 4.0),
        ("image.txt", "Pixel size: 0.0031 µm", 3.1),
        ("image.txt", "Pixel size: 3,1 nm", 3.1),
        ("image.txt", "PixelSize=2.0\nPixelSizeUnit=nm\n", 2.0),
        ("image.ini", "\ufeff[a]\nPixelSizeX=2.0nm\nPixelSizeY=2.01nm\n", 2.0),
    ],
)
def test_what_microscopes_write(tmp_path: Path, name: str, content: str | bytes, nm: float) -> None:
    assert sidecar_pixel_size(write(tmp_path, name, content)) == pytest.approx(nm)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("other.txt", HITACHI),
        ("image.md", HITACHI),
        ("image.txt", "case 17, nice deposits\npixels are square"),
        ("image.txt", ""),
        ("image.txt", bytes(range(256))),
        ("image.json", "[1, 2, {}]"),
        ("image.json", '{"size": {"width": 2048}}'),
        ("image.xml", "<a/>"),
        ("image.xml", "<!DOCTYPE html><html>"),
        ("image.json", "{"),
        ("image.txt", "x" * 1_000_001 + "\nnm_per_px=3"),
    ],
)
def test_files_that_name_no_pixel_size_are_passed_over(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    assert sidecar_pixel_size(write(tmp_path, name, content)) is None


def test_a_text_that_is_the_image_itself_is_no_sidecar(tmp_path: Path) -> None:
    image = tmp_path / "image.txt"
    image.write_text("nm_per_px=3")
    assert sidecar_pixel_size(image) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image.txt", "PixelSize=unknown", "'pixelsize' is 'unknown', which is no number with a known unit"),
        (
            "image.txt",
            "PixelSize=3 furlong",
            "'pixelsize' is '3 furlong', which is no number with a known unit",
        ),
        ("image.txt", "PixelSize=0.0031", "pixelsize = 0.0031 means 0.0031 nm, and pixels of electron"),
        ("image.txt", "nm_per_px=0", "nmperpx = 0 means 0 nm"),
        ("image.txt", "nm_per_px=-3", "nmperpx = -3 means -3 nm"),
        ("image.txt", "nm_per_px=1e400", "is no number"),
        ("image.txt", "PixelWidth=2e-9\nPixelHeight=3e-9", "'pixelwidth' means 2 nm and 'pixelheight' 3 nm"),
        (
            "image.txt",
            "$$SM_MICRON_BAR 0\n$$SM_MICRON_MARKER 1um",
            r"its micron bar \(0, 1um\) cannot be read",
        ),
        ("image.json", '{"nm_per_px": 3', "is no valid JSON"),
        ("image.xml", "<a><nm_per_px>3</a>", "is no valid XML"),
        ("image.xml", "<!DOCTYPE a><nm_per_px>3</nm_per_px>", "declares a document type"),
    ],
)
def test_pixel_sizes_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        sidecar_pixel_size(write(tmp_path, name, content))
    assert caught.value.status == "no_pixel_size"
    assert caught.value.reason.startswith(f"image.tif: {name} beside it: ")
    assert caught.value.reason.endswith(
        f"mend or remove {name}, or fill column 'nm_per_px' of the image's row in images.csv"
    )


def test_two_sidecars(tmp_path: Path) -> None:
    image = write(tmp_path, "image.txt", "nm_per_px=3")
    write(tmp_path, "image.tif.json", '{"nm_per_px": 3.01}')
    assert sidecar_pixel_size(image) == pytest.approx(3.01)
    write(tmp_path, "image.tif.json", '{"nm_per_px": 6}')
    with pytest.raises(ImageError, match=r"image.txt beside it: says 3 nm/px, but image.tif.json 6 nm/px"):
        sidecar_pixel_size(image)
