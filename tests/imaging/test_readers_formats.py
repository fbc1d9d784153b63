"""The table of formats, and what is said where a library is missing."""

import sys

import pytest

from glomflow.errors import ImageError
from glomflow.imaging.readers import open_image
from glomflow.imaging.readers.formats import FEATURES, READERS, format_rows, reader_info
from glomflow.imaging.readers.formats_docs import MARKDOWN, markdown
from glomflow.imaging.readers.optional import is_installed
from imaging.degenerate import dm3
from imaging.written_images import noise


def test_suffixes_and_names_are_unique():
    suffixes = [suffix for info in READERS for suffix in info.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)
    assert [info.name for info in READERS] == [
        "openslide",
        "tiff",
        "raster",
        "jpeg2000",
        "ome_zarr",
        "czi",
        "lif",
        "dm",
        "mrc",
        "dicom",
    ]
    assert all(info.features <= set(FEATURES) for info in READERS)


def test_extras():
    assert {info.name: info.extra for info in READERS if info.extra} == {
        "czi": "czi",
        "lif": "lif",
        "dm": "electron",
        "dicom": "dicom",
    }
    assert reader_info("czi").library == "pylibCZIrw"
    with pytest.raises(KeyError):
        reader_info("none")


def test_libraries_that_are_no_extra_are_installed():
    assert all(info.is_installed for info in READERS if info.extra is None)


def test_the_page_is_up_to_date(repo):
    text = (repo / MARKDOWN).read_text(encoding="utf-8")
    assert text == markdown(), "run python -m glomflow.imaging.readers.formats_docs"


MISSING = [
    ("a.czi", b"ZISRAWFILE\0\0", "pylibCZIrw", "Zeiss CZI", "czi"),
    ("a.lif", b"\x70\0\0\0\1\0\0\0\x2a", "readlif", "Leica LIF", "lif"),
    ("a.dm3", dm3(noise((4, 4))), "ncempy", "Gatan DM3/DM4", "electron"),
    ("a.dcm", b"\0" * 128 + b"DICM", "wsidicom", "DICOM", "dicom"),
]


@pytest.mark.parametrize(("name", "content", "module", "title", "extra"), MISSING)
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, name, content, module, title, extra):
    (tmp_path / name).write_bytes(content)
    for loaded in [key for key in sys.modules if key.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    assert not is_installed(module)
    with pytest.raises(ImageError) as error:
        open_image(tmp_path / name)
    assert error.value.status == "unsupported_format"
    assert error.value.reason == (
        f"{name}: {title} is read with the library {module}, which is not installed; "
        f'run pip install "glomflow[{extra}]", or export the image as OME-TIFF'
    )
    row = next(row for row in format_rows() if row[3] == module)
    assert row[5] == f'no: pip install "glomflow[{extra}]"'


def test_what_is_installed_shows_in_the_table(monkeypatch):
    monkeypatch.setattr("glomflow.imaging.readers.formats.is_installed", lambda _: True)
    rows = format_rows()
    assert rows[0] == ("format", "suffixes", "reader", "library", "extra", "installed", "features")
    assert rows[6] == (
        "Zeiss CZI",
        ".czi",
        "czi",
        "pylibCZIrw",
        "czi",
        "yes",
        "pyramid lazy channels calibration",
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("renamed.tif", b"ZISRAWFILE\0\0"), ("noname", b"ZISRAWFILE\0\0"), ("a.svs", b"ZISRAWFILE\0\0")],
)
def test_content_decides_before_the_suffix(tmp_path, monkeypatch, name, content):
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(sys.modules, "pylibCZIrw", None)
    monkeypatch.delitem(sys.modules, "pylibCZIrw.czi", raising=False)
    with pytest.raises(ImageError, match="Zeiss CZI is read with the library"):
        open_image(tmp_path / name)
