"""Files that cannot be read say so, and what to do."""

import contextlib
import logging
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from glomflow.errors import ImageError
from glomflow.imaging.readers import open_image
from imaging.written_images import noise, pyramid


def _use(path):
    with open_image(path) as reader:
        reader.check()
        reader.thumbnail(64)


def _refused(path):
    with pytest.raises(ImageError) as caught:
        _use(path)
    assert path.name in caught.value.reason
    return caught.value


def test_missing_file(tmp_path):
    error = _refused(tmp_path / "none.tif")
    assert error.status == "missing_file"
    assert error.reason.endswith("none.tif: there is no such file; correct the path in images.csv")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".svs", ".jp2", ".czi"])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    error = _refused(path)
    assert error.status == "unreadable"
    assert "it is empty" in error.reason


@pytest.mark.parametrize(
    "name", ["a.tif", "a.png", "a.jpeg", "a.jp2", "a.ome.tiff", "a.czi", "a.lif", "a.dm3", "a.dcm"]
)
def test_text_that_calls_itself_an_image(tmp_path, name):
    (tmp_path / name).write_text("patient,label\nP1,MN\n")
    error = _refused(tmp_path / name)
    assert error.status == "unreadable"
    assert "its content is no image: it starts with b'patient,'" in error.reason
    assert error.reason.endswith("the file is damaged or not an image: export it again")


@pytest.mark.parametrize("name", ["a.docx", "notes"])
def test_other_files(tmp_path, name):
    (tmp_path / name).write_text("some text or other")
    error = _refused(tmp_path / name)
    assert error.status == "unsupported_format"
    assert "is not handled; SVS, NDPI, SCN, MRXS, BIF, VMS, TIFF, OME-TIFF, QPTIFF, PNG" in error.reason
    assert error.reason.endswith("can be read ('glomflow formats' says more)")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.nd2", b"\xda\xce\xbe\x0a\0\0\0\0", "Nikon ND2"),
        ("renamed.tif", b"\xda\xce\xbe\x0a\0\0\0\0", "Nikon ND2"),
        ("a.ims", b"\x89HDF\r\n\x1a\n\0\0", "HDF5 (Imaris and others)"),
        ("a.oif", b"[Acquisition]", "Olympus OIF"),
        ("a.vsi", b"II*\0\x08\0\0\0", "Olympus VSI"),
    ],
)
def test_formats_of_other_programs_are_named(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    error = _refused(tmp_path / name)
    assert error.status == "unsupported_format"
    assert error.reason == f"{name}: {what} is not handled; export the image as OME-TIFF"


def test_an_mrxs_without_its_folder(tmp_path):
    (tmp_path / "a.mrxs").write_bytes(b"the thumbnail of a slide")
    error = _refused(tmp_path / "a.mrxs")
    assert error.status == "unreadable"
    assert error.reason.startswith("a.mrxs: cannot be read ('a/', which belongs to it, is not beside it)")
    (tmp_path / "a").mkdir()
    assert "not a slide that OpenSlide knows" in _refused(tmp_path / "a.mrxs").reason


def _cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.001, 0.3, 0.95])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 8},
        {"compression": "zlib"},
        {"tile": (64, 64)},
        {"tile": (64, 64), "compression": "jpeg"},
        {"compression": "lzw", "rowsperstrip": 16},
    ],
    ids=lambda options: "-".join(map(str, options)) or "plain",
)
def test_truncated_tiff(tmp_path, options, share):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, noise((256, 256, 3)), photometric="rgb", **options)
    _cut(path, share)
    error = _refused(path)
    assert error.status == "unreadable"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["raw", "zlib"])
def test_truncation_shows_also_without_the_check(tmp_path, options):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, noise((256, 256)), photometric="minisblack", rowsperstrip=32, **options)
    _cut(path, 0.8)
    with open_image(path) as reader:
        assert reader.read_region(0, 0, 64, 64, 64, 64).any()
        with pytest.raises(ImageError, match=r"cut\.tif: .*truncated: the pixels end before the image does"):
            reader.read_region(0, 200, 56, 56, 56, 56)


def test_a_truncated_pyramid_shows_in_the_check(tmp_path):
    path = tmp_path / "cut.tif"
    pyramid(path, noise((512, 512)), (2, 4))
    size = path.stat().st_size
    _cut(path, 0.97)
    with (
        open_image(path) as reader,
        pytest.raises(ImageError, match=r"should hold \d+ bytes and holds \d+") as e,
    ):
        reader.check()
    assert e.value.status == "unreadable"
    assert str(int(size * 0.97)) in e.value.reason


@pytest.mark.parametrize("share", [0.01, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_truncated_raster(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise((100, 100, 3))).save(path)
    _cut(path, share)
    assert _refused(path).status == "unreadable"


def test_truncated_jpeg2000(tmp_path):
    import imagecodecs

    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(noise((99, 111, 3)), level=0)[:60])
    assert _refused(tmp_path / "a.jp2").status == "unreadable"


@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_never_crash(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "damaged.tif"
    pyramid(path, noise((128, 128, 3)), (2,))
    data = bytearray(path.read_bytes())
    for position in rng.integers(0, 600, 40):
        data[position] = rng.integers(0, 256)
    path.write_bytes(bytes(data))
    with contextlib.suppress(ImageError):
        _use(path)


def test_corrupted_tiles(tmp_path):
    path = tmp_path / "corrupted.tif"
    tifffile.imwrite(path, noise((128, 128)), photometric="minisblack", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[2]
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = bytes(64)
    path.write_bytes(bytes(data))
    assert _refused(path).status == "unreadable"


def test_broken_files_are_not_logged_about(tmp_path, capfd):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, noise((64, 64)), photometric="minisblack", resolution=(1, 1))
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", len(data) + 100)
    path.write_bytes(bytes(data))
    handlers = logging.getLogger("tifffile").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
    assert _refused(path).status == "unreadable"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("photometric", "samples", "named"), [("separated", 4, "SEPARATED"), ("cielab", 3, "CIELAB")]
)
def test_other_colour_spaces(tmp_path, photometric, samples, named):
    path = tmp_path / "a.tif"
    array = noise((8, 8, samples))
    tifffile.imwrite(path, array, photometric=photometric, planarconfig="contig", metadata=None)
    error = _refused(path)
    assert error.status == "unsupported_format"
    assert error.reason == f"a.tif: the colour space {named} is not handled; export it as RGB"


def test_complex_samples(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), np.complex64), photometric="minisblack")
    error = _refused(tmp_path / "a.tif")
    assert error.reason == "a.tif: samples of type complex64 are not handled; export it as OME-TIFF"


def test_images_too_large_to_decode_whole(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.fromarray(noise((40, 50))).save(path)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 900)
    error = _refused(path)
    assert error.status == "unsupported_format"
    assert error.reason.startswith("bomb.png: it is too large for a format that can only be decoded whole")
    assert error.reason.endswith("export it as tiled TIFF")


def test_large_images_below_the_limit_open_without_a_warning(tmp_path, monkeypatch, recwarn):
    path = tmp_path / "large.png"
    Image.fromarray(noise((40, 50))).save(path)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1500)
    with open_image(path) as reader:
        assert reader.width == 50
    assert not recwarn.list


def test_jpeg2000_too_large(tmp_path, monkeypatch):
    import imagecodecs

    monkeypatch.setattr("glomflow.imaging.readers.raster.MOST_PIXELS", 50)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(noise((9, 11)), level=0))
    assert "11 x 9 px are too large" in _refused(tmp_path / "a.jp2").reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_finite_numbers(tmp_path, value):
    array = noise((64, 64), np.float32)
    array[40, 50] = value
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    error = _refused(tmp_path / "a.tif")
    assert error.status == "unsupported_format"
    assert error.reason == (
        "a.tif: it holds samples that are no finite numbers (NaN or infinite); "
        "replace them and export the image again"
    )


def test_strips_too_large_to_decode(tmp_path, monkeypatch):
    monkeypatch.setattr("glomflow.imaging.readers.tiff_pages.LARGEST_SEGMENT", 1000)
    tifffile.imwrite(tmp_path / "a.tif", noise((64, 64)), photometric="minisblack", compression="zlib")
    error = _refused(tmp_path / "a.tif")
    assert error.status == "unsupported_format"
    assert "compressed in one piece of 64 x 64 px" in error.reason
    assert error.reason.endswith("export it as tiled TIFF")


def test_codecs_that_are_not_there(tmp_path, monkeypatch):
    import imagecodecs

    def absent(*_, **__):
        raise imagecodecs.DelayedImportError("zlib_decode")

    tifffile.imwrite(tmp_path / "a.tif", noise((64, 64)), photometric="minisblack", compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "decode", property(absent))
    error = _refused(tmp_path / "a.tif")
    assert error.status == "unsupported_format"
    assert "stored in a way that cannot be decoded" in error.reason


def test_images_beyond_memory(tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError

    tifffile.imwrite(tmp_path / "a.tif", noise((64, 64)), photometric="minisblack", compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "decode", property(exhausted))
    error = _refused(tmp_path / "a.tif")
    assert error.status == "unsupported_format"
    assert error.reason == "a.tif: too large to be decoded in memory; export it as OME-TIFF"


def test_axes_that_are_not_those_of_pages(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", noise((32, 32, 32)), volumetric=True, tile=(16, 16, 16), photometric="minisblack"
    )
    error = _refused(tmp_path / "a.tif")
    assert error.status == "unsupported_format"
    assert "a TIFF whose axes" in error.reason


def test_a_header_that_claims_more_tiles_than_there_are(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((64, 64)), photometric="minisblack", tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageWidth"].overwrite(60000)
    assert "its header lists 16 strips or tiles, too few for its size" in _refused(path).reason


def test_a_header_without_pixels(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((64, 64)), photometric="minisblack", compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageLength"].overwrite(0)
    assert "its header says that it has no pixels" in _refused(path).reason
