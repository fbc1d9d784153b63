"""CZI, DM3 and MRC that the tests write; LIF by its description."""

import struct
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from glomflow.errors import ImageError
from glomflow.imaging.inventory import pixel_size_of
from glomflow.imaging.readers import open_image
from glomflow.imaging.readers.czi import _halvings
from glomflow.imaging.readers.lif import _Layout
from imaging.degenerate import dm3
from imaging.written_images import RGB, noise, whole

needs_czi = pytest.mark.skipif("not __import__('importlib').util.find_spec('pylibCZIrw')")
needs_dm = pytest.mark.skipif("not __import__('importlib').util.find_spec('ncempy')")


@pytest.fixture
def czi(tmp_path):
    """Two scenes of 90 x 70 px, the second at (140, 20) from the first; two channels, three z."""
    from pylibCZIrw import czi as library

    scenes = noise((2, 2, 3, 70, 90), np.uint16)
    path = tmp_path / "scenes.czi"
    with library.create_czi(str(path)) as writer:
        for scene, place in enumerate([(-100, 50), (40, 70)]):
            for channel in range(2):
                for z in range(3):
                    plane = {"C": channel, "Z": z, "T": 0}
                    writer.write(
                        scenes[scene, channel, z][..., None], location=place, plane=plane, scene=scene
                    )
        writer.write_metadata("a", channel_names={0: "IgG", 1: "C3"}, scale_x=3.25e-7, scale_y=3.25e-7)
    return path, scenes


@needs_czi
def test_czi_shows_all_scenes_where_they_lie(czi):
    path, scenes = czi
    projected = np.moveaxis(scenes.max(axis=2), 1, 3)
    with open_image(path) as reader:
        reader.check()
        assert (reader.name, reader.levels, reader.channels) == ("czi", ((230, 90),), ("IgG", "C3"))
        assert reader.dtype == np.uint16
        assert reader.pixel_size == pytest.approx((0.325, 0.325))
        pixels = whole(reader)
        part = reader.read_region(150, 30, 60, 40, 60, 40)
    assert np.array_equal(pixels[:70, :90], projected[0])
    assert np.array_equal(pixels[20:, 140:], projected[1])
    assert not pixels[:, 90:140].any()
    assert np.array_equal(part, projected[1][10:50, 10:70])


@needs_czi
def test_czi_in_colour(tmp_path):
    from pylibCZIrw import czi as library

    array = noise((40, 60, 3))
    with library.create_czi(str(tmp_path / "a.czi")) as writer:
        writer.write(np.ascontiguousarray(array[:, :, ::-1]), location=(0, 0), plane={"C": 0, "Z": 0, "T": 0})
        writer.write(np.zeros((40, 60, 3), np.uint8), location=(100, 0), plane={"C": 0, "Z": 0, "T": 0})
    with open_image(tmp_path / "a.czi") as reader:
        assert (reader.channels, reader.fill, reader.pixel_size) == (RGB, 255.0, None)
        pixels = whole(reader)
    assert np.array_equal(pixels[:, :60], array)
    assert (pixels[:, 60:100] == 255).all()
    assert not pixels[:, 100:].any()


class _Block:
    def __init__(self, logical, stored):
        self.logicalRect = SimpleNamespace(w=logical)
        self.physicalSize = SimpleNamespace(w=stored)


@pytest.mark.parametrize(
    ("stored", "size", "halvings"),
    [
        ([512], (9000, 8000), 0),
        ([512, 256, 32], (9000, 8000), 4),
        ([512, 170], (9000, 8000), 1),
        ([512, 1], (40, 3), 1),
    ],
)
def test_czi_levels_are_those_of_its_pyramid(stored, size, halvings):
    def enumerate_subblocks(look):
        assert all(look(index, _Block(512, width)) for index, width in enumerate(stored))

    assert _halvings(SimpleNamespace(enumerate_subblocks=enumerate_subblocks), size) == halvings


@needs_czi
def test_czi_at_a_coarser_level(tmp_path, monkeypatch):
    from pylibCZIrw import czi as library

    y, x = np.mgrid[:97, :131]
    with library.create_czi(str(tmp_path / "a.czi")) as writer:
        samples = (100 * x + y).astype(np.uint16)[..., None]
        writer.write(samples, location=(-37, 5), plane={"C": 0, "Z": 0, "T": 0})
    monkeypatch.setattr("glomflow.imaging.readers.czi._halvings", lambda *_: 2)
    with open_image(tmp_path / "a.czi") as reader:
        assert reader.levels == ((131, 97), (65, 48), (32, 24))
        coarse = reader.read_region(40, 20, 64, 48, 16, 12)[:, :, 0].astype(float)
    across, down = np.meshgrid(40 + 4 * np.arange(16), 20 + 4 * np.arange(12))
    assert np.abs(coarse - (100 * across + down)).max() <= 303  # within a pixel of the level


@needs_czi
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_truncated_czi(czi, share):
    path, _ = czi
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=r"^scenes\.czi: cannot be read .*export it again$") as error:
        open_image(path)
    assert error.value.status == "unreadable"


@needs_dm
@pytest.mark.parametrize("dtype", ["i2", "f4", "u1", "i4", "i1", "u2", "u4", "f8"])
def test_dm3_samples_are_exact(tmp_path, dtype):
    array = noise((5, 7), dtype)
    (tmp_path / "a.dm3").write_bytes(dm3(array))
    with open_image(tmp_path / "a.dm3") as reader:
        assert (reader.levels, reader.channels, reader.dtype) == (((7, 5),), ("gray",), np.dtype(dtype))
        assert np.array_equal(whole(reader)[:, :, 0], array)


@needs_dm
@pytest.mark.parametrize(
    ("scale", "unit", "expected"),
    [(2.0, "nm", 0.002), (0.5, "µm", 0.5), (500.0, "pm", 0.0005), (0.1, "1/nm", None), (1.0, "", None)],
)
def test_dm3_calibration(tmp_path, scale, unit, expected):
    (tmp_path / "a.dm3").write_bytes(dm3(noise((5, 7)), scale, unit))
    with open_image(tmp_path / "a.dm3") as reader:
        assert reader.pixel_size == ((pytest.approx(expected),) * 2 if expected else None)


@needs_dm
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (7, 5, 1, 3)}, "a stack of 3 frames is not one image; export one frame of it"),
        ({"size": (35,)}, "it holds no picture, only spectra or nothing; export the image as TIFF"),
        ({"kind": 23}, "DM samples of type 23 (complex, packed or colours); export it as OME-TIFF"),
    ],
)
def test_dm3_that_is_no_micrograph(tmp_path, options, message):
    (tmp_path / "a.dm3").write_bytes(dm3(noise((5, 7)), **options))
    with pytest.raises(ImageError) as error:
        open_image(tmp_path / "a.dm3")
    assert error.value.status == "unsupported_format"
    assert error.value.reason.startswith(f"a.dm3: {message}")


def mrc(array, *, mode, cell=(70.0, 50.0), order="<", extended=b"", imod=None, sections=1, stamp=b"MAP "):
    header = bytearray(1024)
    rows, columns = array.shape
    struct.pack_into(f"{order}10i", header, 0, columns, rows, sections, mode, 0, 0, 0, columns, rows, 1)
    struct.pack_into(f"{order}3f", header, 40, *cell, 1.0)
    struct.pack_into(f"{order}3i", header, 64, 1, 2, 3)
    struct.pack_into(f"{order}i", header, 92, len(extended))
    if imod is not None:
        struct.pack_into(f"{order}2i", header, 152, 1146047817, imod)
    header[208:212] = stamp
    return bytes(header) + extended + array.astype(array.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize(
    ("dtype", "mode", "imod"),
    [
        ("i1", 0, None),
        ("u1", 0, 0),
        ("i1", 0, 1),
        ("i2", 1, None),
        ("f4", 2, None),
        ("u2", 6, None),
        ("f2", 12, None),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [b"MAP ", b"\0\0\0\0"])
def test_mrc_samples_are_exact(tmp_path, dtype, mode, imod, order, stamp):
    array = noise((5, 7), dtype)
    data = mrc(array, mode=mode, imod=imod, order=order, extended=b"x" * 77, stamp=stamp)
    (tmp_path / "a.mrc").write_bytes(data)
    with open_image(tmp_path / "a.mrc") as reader:
        assert (reader.name, reader.levels, reader.dtype) == ("mrc", ((7, 5),), np.dtype(dtype))
        assert reader.pixel_size == (pytest.approx(0.001), pytest.approx(0.001))
        assert np.array_equal(whole(reader)[:, :, 0], array)
        assert np.array_equal(reader.read_region(2, 1, 4, 3, 4, 3)[:, :, 0], array[1:4, 2:6])


@pytest.mark.parametrize("cell", [(7.0, 5.0), (0.0, 0.0), (float("nan"), 1.0), (-70.0, -50.0)])
def test_mrc_without_calibration(tmp_path, cell):
    (tmp_path / "a.mrc").write_bytes(mrc(noise((5, 7)), mode=0, cell=cell))
    with open_image(tmp_path / "a.mrc") as reader:
        assert reader.pixel_size is None


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"mode": 4}, "unsupported_format", "an MRC of complex samples (mode 4); export it as TIFF"),
        (
            {"mode": 2, "sections": 9},
            "unsupported_format",
            "a stack of 9 frames is not one image; export one",
        ),
        ({"mode": 2, "sections": 0}, "unreadable", "cannot be read (its header says that it has no pixels)"),
        ({"mode": 99}, "unreadable", "cannot be read (its header is not that of an MRC)"),
        ({"mode": 2}, "unreadable", "cannot be read (truncated: it should hold 1164 bytes and holds 1059)"),
    ],
)
def test_mrc_that_is_refused(tmp_path, options, status, message):
    (tmp_path / "a.mrc").write_bytes(mrc(noise((5, 7)), **options))
    with pytest.raises(ImageError) as error:
        open_image(tmp_path / "a.mrc")
    assert error.value.status == status
    assert error.value.reason.startswith(f"a.mrc: {message}")


def test_pixels_that_are_not_square_are_refused_unless_allowed(tmp_path):
    (tmp_path / "a.mrc").write_bytes(mrc(noise((5, 7)), mode=0, cell=(70.0, 200.0)))
    row = {"modality": "TEM", "path": "a.mrc"}
    options = {"um_per_px_default": None, "nm_per_px_default": None}
    with open_image(tmp_path / "a.mrc") as reader:
        with pytest.raises(ImageError, match="its pixels are 1 x 4 nm, not square") as error:
            pixel_size_of(reader, row, allow_anisotropic=False, **options)
        assert error.value.status == "anisotropic"
        assert pixel_size_of(reader, row, allow_anisotropic=True, **options) == (pytest.approx(0.002), "tags")


def _lif(dimensions, channels):
    described = "".join(
        f'<DimensionDescription DimID="{d}" NumberOfElements="{n}" Length="{n - 1}e-6" Unit="m" '
        f'BytesInc="{b}"/>'
        for d, n, b in dimensions
    )
    named = "".join(
        f'<ChannelDescription ChannelTag="{t}" Resolution="{r}" LUTName="{n}" BytesInc="{b}"/>'
        for t, r, n, b in channels
    )
    text = f"<I><Dimensions>{described}</Dimensions><Channels>{named}</Channels></I>"
    return ElementTree.fromstring(text)


def test_lif_layouts(tmp_path):
    gray = [("0", 12, "Green", 0), ("0", 12, "Red", 400)]
    layout = _Layout(tmp_path, _lif([(1, 20, 2), (2, 10, 40), (3, 5, 800)], gray))
    assert (layout.shape, layout.strides) == ((2, 5, 10, 20), (400, 800, 40, 2))
    assert (layout.dtype, layout.channels) == (np.uint16, ("Green", "Red"))
    assert layout.pixel_size == pytest.approx((1.0, 1.0))
    camera = [("1", 8, "Red", 0), ("2", 8, "Green", 1), ("3", 8, "Blue", 2)]
    layout = _Layout(tmp_path, _lif([(1, 20, 3), (2, 10, 60), (4, 7, 600)], camera))
    assert (layout.shape, layout.strides, layout.channels) == ((3, 1, 10, 20), (1, 0, 60, 3), RGB)


@pytest.mark.parametrize(
    ("dimensions", "channels", "message"),
    [
        (
            [(1, 20, 1), (2, 10, 20), (10, 6, 200)],
            [("0", 8, "", 0)],
            "a mosaic of 6 tiles that are not merged",
        ),
        ([(1, 20, 1), (4, 9, 20)], [("0", 8, "", 0)], "its first image is no plane"),
        ([(1, 20, 1), (2, 10, 20)], [], "its first image is no plane"),
        ([(1, 20, 4), (2, 10, 80)], [("0", 32, "", 0)], "stored unevenly or have 32 bits"),
        ([(1, 2, 2), (2, 2, 4)], [("0", 8, "", 0), ("0", 16, "", 8)], "samples of several types"),
    ],
)
def test_lif_that_is_refused(tmp_path, dimensions, channels, message):
    with pytest.raises(ImageError, match=message) as error:
        _Layout(tmp_path / "a.lif", _lif(dimensions, channels))
    assert error.value.status == "unsupported_format"
