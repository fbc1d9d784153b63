"""Images of several files in the sheets: folders, and slides with companions."""

from pathlib import Path

import pytest

from glomflow.cohort.sheets import read_cohort
from glomflow.errors import CohortError


def _cohort(folder: Path, *rows: str) -> list[str]:
    (folder / "patients.csv").write_text("patient,label,site\n1,MN,a\n2,MN,a\n", encoding="utf-8")
    (folder / "images.csv").write_text(
        "\n".join(["patient,modality,path,annotation", *rows]) + "\n", encoding="utf-8"
    )
    try:
        _, images = read_cohort(folder, "patients.csv", "images.csv", classes=["MN"], n_splits=2, shards=1)
    except CohortError as error:
        return [str(problem) for problem in error.problems if problem.source == "images.csv"]
    return list(images["image"])


def _zarr(folder: Path, content: bytes = b"chunk") -> None:
    (folder / "0").mkdir(parents=True)
    (folder / ".zattrs").write_text("{}")
    (folder / "0" / "0.0").write_bytes(content)


def test_folders_that_are_images_are_taken(tmp_path: Path) -> None:
    _zarr(tmp_path / "a.ome.zarr")
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert _cohort(tmp_path, "1,OM,a.ome.zarr,", "2,OM,slide/,") == ["a", "slide"]


def test_other_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "slide").mkdir()
    assert _cohort(tmp_path, "1,OM,slide,") == [
        "images.csv, row 2, column 'path', value 'slide': this is a folder without an OME-Zarr or DICOM "
        "slide in it; name the image file in it"
    ]


def test_a_folder_is_no_annotation(tmp_path: Path) -> None:
    _zarr(tmp_path / "a.zarr")
    _zarr(tmp_path / "mask.zarr")
    assert _cohort(tmp_path, "1,OM,a.zarr,mask.zarr") == [
        "images.csv, row 2, column 'annotation', value 'mask.zarr': this is a folder; name the file in it"
    ]


@pytest.mark.parametrize(("content", "shared"), [(b"chunk", True), (b"CHUNK", False), (b"chunks", False)])
def test_two_patients_sharing_a_folder(tmp_path: Path, content: bytes, shared: bool) -> None:
    _zarr(tmp_path / "a.zarr")
    _zarr(tmp_path / "b.zarr", content)
    found = _cohort(tmp_path, "1,OM,a.zarr,", "2,OM,b.zarr,")
    assert (found == ["a", "b"]) is not shared
    if shared:
        assert found[0].startswith("images.csv, row 3, column 'path', value 'b.zarr': patients '1' and '2'")


def test_an_mrxs_needs_its_folder_and_is_compared_with_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mrxs").write_bytes(b"the same head")
    assert _cohort(tmp_path, "1,OM,a.mrxs,") == [
        "images.csv, row 2, column 'path', value 'a.mrxs': 'a/', which belongs to this image, is missing; "
        "copy it there, too"
    ]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Data0.dat").write_bytes(name.encode())
    assert _cohort(tmp_path, "1,OM,a.mrxs,", "2,OM,b.mrxs,") == ["a", "b"]
    (tmp_path / "b" / "Data0.dat").write_bytes(b"a")
    assert "patients '1' and '2' share one file" in _cohort(tmp_path, "1,OM,a.mrxs,", "2,OM,b.mrxs,")[0]
