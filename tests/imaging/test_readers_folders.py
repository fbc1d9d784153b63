"""Images that are folders: OME-Zarr and whole slides in DICOM."""

import json

import numpy as np
import pytest

from glomflow.errors import ImageError
from glomflow.imaging.readers import open_image
from imaging.degenerate import write_ome_zarr
from imaging.written_images import RGB, noise, whole

needs_dicom = pytest.mark.skipif("not __import__('importlib').util.find_spec('wsidicom')")


def _use(path):
    with open_image(path) as reader:
        reader.check()
        reader.thumbnail(64)


def _refused(path):
    with pytest.raises(ImageError) as error:
        _use(path)
    assert error.value.reason.startswith(path.name)
    return error.value


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "shape", "pick"),
    [
        ("yx", (50, 70), lambda a: a[..., None]),
        ("cyx", (4, 50, 70), lambda a: np.moveaxis(a, 0, 2)),
        ("zyx", (3, 50, 70), lambda a: a.max(0)[..., None]),
        ("tyx", (3, 50, 70), lambda a: a[0][..., None]),
        ("tczyx", (2, 2, 3, 50, 70), lambda a: np.moveaxis(a[0].max(1), 0, 2)),
    ],
)
def test_axes_of_ome_zarr(tmp_path, version, axes, shape, pick):
    array = noise(shape, np.uint16)
    write_ome_zarr(tmp_path / "a.ome.zarr", [array], version=version, axes=axes, scale=0.25)
    with open_image(tmp_path / "a.ome.zarr") as reader:
        reader.check()
        assert (reader.name, reader.levels, reader.dtype) == ("ome_zarr", ((70, 50),), np.uint16)
        assert reader.pixel_size == (0.25, 0.25)
        assert np.array_equal(whole(reader), pick(array))
        assert np.array_equal(reader.read_region(60, 30, 10, 20, 10, 20), pick(array)[30:, 60:])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_of_ome_zarr(tmp_path, version):
    base = noise((3, 128, 160))
    write_ome_zarr(
        tmp_path / "a.zarr", [base, base[:, ::2, ::2], base[:, ::4, ::4]], version=version, scale=0.5
    )
    with open_image(tmp_path / "a.zarr") as reader:
        assert reader.levels == ((160, 128), (80, 64), (40, 32))
        assert reader.pixel_size == (0.5, 0.5)
        quarter = reader.read_region(0, 0, 160, 128, 40, 32)
    assert np.array_equal(quarter, np.moveaxis(base[:, ::4, ::4], 0, 2))


@pytest.mark.parametrize(
    ("labels", "colours", "expected"),
    [
        (["IgG", "IgA", "C3"], ["FF0000", "00FF00", "0000FF"], ("IgG", "IgA", "C3")),
        (["Red", "Green", "Blue"], ["", "", ""], RGB),
        (["Channel 0", "Channel 1", "Channel 2"], ["FF0000", "00FF00", "0000FF"], RGB),
        (["", "", ""], ["0000FF", "00FF00", "FF0000"], ("C0", "C1", "C2")),
        (["IgG"], ["FF0000"], ("C0", "C1", "C2")),
    ],
)
def test_channels_of_ome_zarr(tmp_path, labels, colours, expected):
    channels = [{"label": name, "color": colour} for name, colour in zip(labels, colours, strict=True)]
    write_ome_zarr(tmp_path / "a.zarr", [noise((3, 8, 9))], omero={"channels": channels})
    with open_image(tmp_path / "a.zarr") as reader:
        assert reader.channels == expected
        assert reader.pixel_size is None
        assert reader.fill == (255.0 if expected == RGB else 0.0)


def _change(folder, change):
    file = folder / ".zattrs"
    values = json.loads(file.read_text())
    change(values["multiscales"][0])
    file.write_text(json.dumps(values))


def test_units_of_ome_zarr(tmp_path):
    folder = tmp_path / "a.zarr"
    write_ome_zarr(folder, [noise((2, 8, 9))], scale=300.0)
    _change(folder, lambda image: [axis.update(unit="nanometer") for axis in image["axes"][1:]])
    with open_image(folder) as reader:
        assert reader.pixel_size == pytest.approx((0.3, 0.3))
    whole_scale = [{"type": "scale", "scale": [1, 2, 0.5]}]
    _change(folder, lambda image: image.update(coordinateTransformations=whole_scale))
    with open_image(folder) as reader:
        assert reader.pixel_size == pytest.approx((0.15, 0.6))
    _change(folder, lambda image: [axis.pop("unit") for axis in image["axes"][1:]])
    with open_image(folder) as reader:
        assert reader.pixel_size is None


def test_the_first_image_of_a_converted_file_is_read(tmp_path):
    import zarr

    first = noise((2, 8, 9))
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write_ome_zarr(tmp_path / "a.zarr" / "0", [first])
    write_ome_zarr(tmp_path / "a.zarr" / "1", [noise((2, 20, 30))])
    with open_image(tmp_path / "a.zarr") as reader:
        assert np.array_equal(whole(reader), np.moveaxis(first, 0, 2))


def test_chunks_that_were_left_out_have_the_fill_value(tmp_path):
    folder = tmp_path / "a.zarr"
    write_ome_zarr(folder, [np.full((1, 32, 16), 7, np.uint8)])
    (folder / "0" / "0.1.0").unlink()
    with open_image(folder) as reader:
        reader.check()
        assert whole(reader)[:, 0, 0].tolist() == [7] * 16 + [0] * 16


def test_only_chunks_of_the_region_are_read(tmp_path):
    folder = tmp_path / "a.zarr"
    write_ome_zarr(folder, [np.full((1, 64, 64), 7, np.uint8)])
    (folder / "0" / "0.0.0").write_bytes(b"damaged")
    with open_image(folder) as reader:
        assert (reader.read_region(20, 20, 40, 40, 40, 40) == 7).all()
    assert _refused(folder).status == "unreadable"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (
            lambda i: i.update(axes=[{"name": n} for n in "xyz"]),
            "unsupported_format",
            "the axes x, y, z are not",
        ),
        (
            lambda i: i.update(axes=[{"name": n} for n in "zyx"] * 2),
            "unsupported_format",
            "the axes z, y, x, z",
        ),
        (
            lambda i: i.update(axes=[{"name": "y"}, {"name": "x"}]),
            "unreadable",
            "a level of it is no array of 2 axes",
        ),
        (lambda i: i.update(datasets=[]), "unreadable", "it holds no image"),
        (lambda i: i.update(datasets=[{"path": "9"}]), "unreadable", "cannot be read"),
        (lambda i: i.pop("datasets"), "unreadable", "cannot be read"),
    ],
)
def test_ome_zarr_that_is_refused(tmp_path, change, status, message):
    write_ome_zarr(tmp_path / "a.zarr", [noise((2, 8, 9))])
    _change(tmp_path / "a.zarr", change)
    error = _refused(tmp_path / "a.zarr")
    assert error.status == status
    assert message in error.reason


def test_zarr_groups_that_are_no_image(tmp_path):
    import zarr

    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    assert "holds no OME image ('multiscales')" in _refused(tmp_path / "a.zarr").reason
    root.attrs["plate"] = {"wells": []}
    error = _refused(tmp_path / "a.zarr")
    assert error.reason == "a.zarr: a plate of wells is not one image; name one field of it in images.csv"


def test_an_empty_chunk_shows_in_the_check(tmp_path):
    folder = tmp_path / "a.zarr"
    write_ome_zarr(folder, [noise((1, 32, 16))])
    (folder / "0" / "0.1.0").write_bytes(b"")
    assert "the file 0/0.1.0 in it is empty" in _refused(folder).reason


def test_complex_ome_zarr_and_chunks_beyond_memory(tmp_path, monkeypatch):
    write_ome_zarr(tmp_path / "a.zarr", [np.ones((1, 8, 9), np.complex64)])
    assert "samples of type complex64 are not handled" in _refused(tmp_path / "a.zarr").reason
    monkeypatch.setattr("glomflow.imaging.readers.ome_zarr.LARGEST_CHUNK", 50)
    write_ome_zarr(tmp_path / "b.zarr", [noise((1, 8, 9))])
    error = _refused(tmp_path / "b.zarr")
    assert error.status == "unsupported_format"
    assert "its chunks of (1, 8, 9) samples are too large to decode" in error.reason


def test_folders_that_are_no_image(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(b"x" * 200)
    error = _refused(tmp_path / "folder")
    assert error.status == "unsupported_format"
    assert error.reason == (
        "folder: this is a folder without an OME-Zarr or DICOM slide in it; "
        "name the image file in it in images.csv"
    )


@pytest.fixture
def slide(tmp_path):
    from imaging.written_dicom import write_level

    array = noise((150, 200, 3))
    folder = tmp_path / "slide"
    folder.mkdir()
    write_level(folder / "b.dcm", array, 0.25)
    write_level(folder / "a.dcm", array[::2, ::2], 0.5, number=2)
    return folder, array


@needs_dicom
def test_a_slide_in_dicom(slide):
    folder, array = slide
    with open_image(folder) as reader:
        reader.check()
        assert (reader.name, reader.levels) == ("dicom", ((200, 150), (100, 75)))
        assert (reader.channels, reader.dtype, reader.fill) == (RGB, np.uint8, 255.0)
        assert reader.pixel_size == pytest.approx((0.25, 0.25))
        assert np.array_equal(whole(reader), array)
        assert np.array_equal(reader.read_region(70, 20, 60, 100, 60, 100), array[20:120, 70:130])
        assert np.array_equal(reader.read_region(0, 0, 200, 150, 100, 75), array[::2, ::2])


@needs_dicom
def test_one_file_of_a_slide_in_dicom(slide):
    folder, array = slide
    with open_image(folder / "a.dcm") as reader:
        assert reader.levels == ((100, 75),)
        assert reader.pixel_size == pytest.approx((0.5, 0.5))
        assert np.array_equal(whole(reader), array[::2, ::2])


@needs_dicom
def test_a_truncated_slide_in_dicom(slide):
    folder, _ = slide
    file = folder / "b.dcm"
    file.write_bytes(file.read_bytes()[:-5000])
    assert _refused(folder).status == "unreadable"


@needs_dicom
def test_folders_of_several_slides(slide):
    from imaging.written_dicom import write_level

    folder, array = slide
    write_level(folder / "c.dcm", array, 0.25, series="another")
    error = _refused(folder)
    assert error.status == "unsupported_format"
    assert error.reason == "slide: the folder holds 2 DICOM series; put each slide into a folder of its own"


@needs_dicom
def test_dicom_that_is_no_slide(tmp_path):
    from imaging.written_dicom import write_level

    write_level(tmp_path / "a.dcm", noise((64, 64, 3)), 0.25, kind="1.2.840.10008.5.1.4.1.1.2")
    error = _refused(tmp_path / "a.dcm")
    assert error.reason == "a.dcm: DICOM that is no whole-slide image is not handled; export it as TIFF"
