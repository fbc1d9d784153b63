"""Pixel sizes by the files' own tags."""

import pytest
from PIL import Image

from glomflow.imaging.readers import open_image
from glomflow.imaging.readers.metadata import from_resolution, in_micrometres, read_ome
from imaging.written_images import noise, open_tiff


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((40000, 20000), "CENTIMETER", (0.25, 0.5)),
        ((500000, 500000), "CENTIMETER", (0.02, 0.02)),
        ((50800, 50800), "INCH", (0.5, 0.5)),
        ((72, 72), "INCH", None),
        ((96, 96), "INCH", None),
        ((300, 300), "INCH", None),
        ((1200, 1200), "INCH", None),
        ((118.11, 118.11), "CENTIMETER", None),
        ((4, 4), "NONE", None),
        ((1, 1), "CENTIMETER", None),
    ],
)
def test_resolution_tags(tmp_path, resolution, unit, expected):
    with open_tiff(
        tmp_path,
        noise((8, 8)),
        resolution=resolution,
        resolutionunit=unit,
        metadata=None,
        photometric="minisblack",
    ) as reader:
        assert reader.pixel_size == (pytest.approx(expected) if expected else None)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("micron", 0.5), ("\\u00B5m", 0.5), ("nm", 0.0005), ("pixel", None), ("inch", None)],
)
def test_units_of_imagej(tmp_path, unit, expected):
    options = {"imagej": True, "resolution": (2, 2), "metadata": {"unit": unit}}
    with open_tiff(tmp_path, noise((8, 8)), **options) as reader:
        assert reader.pixel_size == ((expected, expected) if expected else None)


def test_fei_pixel_width(tmp_path):
    text = b"[Scan]\r\nPixelWidth=2.5e-009\r\nPixelHeight=2.5e-009\r\n"
    options = {"extratags": [(34682, "s", 0, text, True)], "photometric": "minisblack", "metadata": None}
    with open_tiff(tmp_path, noise((8, 8)), **options) as reader:
        assert reader.pixel_size == (pytest.approx(0.0025), pytest.approx(0.0025))


@pytest.mark.parametrize(
    ("text", "expected"), [("MPP = 0.2520", (0.252, 0.252)), ("MPP = .", None), ("", None)]
)
def test_aperio_description(tmp_path, text, expected):
    description = f"Aperio Image Library v10\r\n8x8 |AppMag = 20|{text}|Left = 25"
    options = {"description": description, "metadata": None, "photometric": "rgb", "tile": (16, 16)}
    with open_tiff(tmp_path, noise((64, 64, 3)), **options) as reader:
        assert reader.pixel_size == expected


def test_png_resolution(tmp_path):
    for name, dpi in (("fine.png", 101600), ("print.png", 300)):
        Image.fromarray(noise((8, 8))).save(tmp_path / name, dpi=(dpi, dpi))
    with open_image(tmp_path / "fine.png") as fine, open_image(tmp_path / "print.png") as printed:
        assert fine.pixel_size == (pytest.approx(0.25), pytest.approx(0.25))
        assert printed.pixel_size is None


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        ("0.5", "µm", 0.5),
        ("0.5", "μm", 0.5),
        (2, "nm", 0.002),
        ("1e-3", "mm", 1.0),
        ("3", "Å", 0.0003),
        ("1", "pixel", None),
        ("1", "reference frame", None),
        ("much", "µm", None),
        (None, "µm", None),
    ],
)
def test_lengths(value, unit, expected):
    assert in_micrometres(value, unit) == (pytest.approx(expected) if expected else None)


@pytest.mark.parametrize("x", [0, (1, 0), (0, 0), "x", None, float("nan"), -40000])
def test_broken_resolutions(x):
    assert from_resolution(x, (40000, 1), 10000.0) is None


@pytest.mark.parametrize(
    "attributes",
    ['PhysicalSizeX="0" PhysicalSizeY="0"', 'PhysicalSizeX="0.5"', 'PhysicalSizeX="NaN" PhysicalSizeY="1"'],
)
def test_broken_ome_sizes(attributes):
    assert read_ome(
        f'<OME><Image><Pixels {attributes}><Channel Name="a"/></Pixels></Image></OME>'
    ).channels == ("a",)
    assert read_ome(f"<OME><Image><Pixels {attributes}/></Image></OME>").pixel_size is None


@pytest.mark.parametrize("xml", ["", "<OME", "<OME/>"])
def test_broken_ome(xml):
    assert (read_ome(xml).channels, read_ome(xml).pixel_size) == ((), None)
