"""Images of several files."""

import hashlib
import os

import pytest

from glomflow.image_parts import image_stamp, is_dicom, missing_companion
from glomflow.imaging.readers.parts import image_digest, image_exists, image_parts


@pytest.fixture
def mrxs(tmp_path):
    (tmp_path / "s.mrxs").write_bytes(b"head")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "Slidedat.ini").write_bytes(b"index")
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"tiles")
    return tmp_path / "s.mrxs"


@pytest.fixture
def zarr(tmp_path):
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / ".zattrs").write_text("{}")
    (folder / "0" / "0.0").write_bytes(b"chunk")
    return folder


def test_a_file_is_itself(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"image")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other").write_bytes(b"x")
    assert image_parts(tmp_path / "a.tif") == [tmp_path / "a.tif"]
    assert image_digest(tmp_path / "a.tif") == (hashlib.sha256(b"image").hexdigest(), 5)
    assert image_stamp(tmp_path / "a.tif") == (5, (tmp_path / "a.tif").stat().st_mtime_ns)
    assert image_exists(tmp_path / "a.tif")


def test_what_is_not_there(tmp_path):
    assert not image_exists(tmp_path / "a.tif")
    assert image_parts(tmp_path / "a.tif") == []
    assert image_stamp(tmp_path / "a.tif") == (-1, -1)
    with pytest.raises(FileNotFoundError, match="there is no image"):
        image_digest(tmp_path / "a.tif")


def test_folders_that_are_images(tmp_path, zarr):
    (tmp_path / "empty").mkdir()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    assert [image_exists(tmp_path / name) for name in ("a.zarr", "dicom", "empty")] == [True, True, False]
    assert is_dicom(tmp_path / "dicom" / "IM0001")
    assert not is_dicom(zarr / ".zattrs")
    assert not is_dicom(tmp_path / "none")


def test_parts(tmp_path, mrxs, zarr):
    names = [part.relative_to(tmp_path).as_posix() for part in image_parts(mrxs)]
    assert names == ["s.mrxs", "s/Data0000.dat", "s/Slidedat.ini"]
    names = [part.relative_to(tmp_path).as_posix() for part in image_parts(zarr)]
    assert names == ["a.zarr/.zattrs", "a.zarr/0/0.0"]


def test_companions_of_vms(tmp_path):
    (tmp_path / "a.vms").write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\nMapFile=m.jpg\nX=1\n")
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert missing_companion(tmp_path / "a.vms") == "m.jpg"
    (tmp_path / "m.jpg").write_bytes(b"x")
    assert missing_companion(tmp_path / "a.vms") == ""
    assert [part.name for part in image_parts(tmp_path / "a.vms")] == ["a.vms", "a.jpg", "m.jpg"]


@pytest.mark.parametrize("kind", ["mrxs", "zarr"])
def test_every_part_counts(request, kind):
    path = request.getfixturevalue(kind)
    digests, stamps = [image_digest(path)], [image_stamp(path)]
    assert (image_digest(path), image_stamp(path)) == (digests[0], stamps[0])
    part = image_parts(path)[-1]
    size = part.stat().st_size
    part.write_bytes(b"y" * size)
    os.utime(part, ns=(1, 1))
    digests.append(image_digest(path))
    stamps.append(image_stamp(path))
    (part.parent / "new").write_bytes(b"")
    digests.append(image_digest(path))
    stamps.append(image_stamp(path))
    assert len({digest for digest, _ in digests}) == len(set(stamps)) == 3
    assert len({size for _, size in digests}) == 1


@pytest.mark.parametrize("kind", ["mrxs", "zarr"])
def test_a_copy_under_another_name_has_the_same_digest(request, kind):
    path = request.getfixturevalue(kind)
    before = image_digest(path)
    copy = path.with_name(f"other{path.suffix}")
    path.rename(copy)
    if kind == "mrxs":
        path.with_suffix("").rename(copy.with_suffix(""))
    assert image_digest(copy) == before


def test_what_file_browsers_leave_behind_does_not_count(zarr):
    before = image_digest(zarr)
    (zarr / ".DS_Store").write_bytes(b"x")
    assert image_digest(zarr) == before


def test_an_mrxs_without_its_folder(mrxs):
    assert missing_companion(mrxs) == ""
    mrxs.with_suffix("").rename(mrxs.parent / "elsewhere")
    assert missing_companion(mrxs) == "s/"
    assert image_parts(mrxs) == [mrxs]
