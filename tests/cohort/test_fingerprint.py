"""The fingerprint of a shard's files."""

import os
from pathlib import Path

import pandas as pd
import pytest

from glomflow.cohort.fingerprint import require_sheets, shard_fingerprint, shard_rows, sheet_sites
from glomflow.cohort.sheets import shard_of
from glomflow.errors import CohortError
from glomflow.tables import IMAGES, write_table


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    row = dict.fromkeys(IMAGES) | {"image": "a", "patient": "p", "path": "a.tif", "annotation": "a.geojson"}
    frame = pd.DataFrame([row | {"row": 2, "shard": 0, "um_per_px": 1.0, "nm_per_px": float("nan")}])
    write_table(tmp_path / "shard.parquet", frame, IMAGES)
    (tmp_path / "a.tif").write_bytes(b"image")
    (tmp_path / "a.geojson").write_bytes(b"outlines")
    return tmp_path / "shard.parquet"


def test_a_table_to_come_is_pending(tmp_path: Path) -> None:
    assert shard_fingerprint(tmp_path / "none.parquet", tmp_path) == "pending"


def test_a_damaged_table_is_left_to_the_jobs_that_read_it(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-50])
    assert shard_fingerprint(shard, shard.parent) == "unreadable"


@pytest.mark.parametrize("name", ["a.tif", "a.geojson"])
def test_it_changes_with_size_time_and_presence(shard: Path, name: str) -> None:
    seen = [shard_fingerprint(shard, shard.parent)]
    assert shard_fingerprint(shard, shard.parent) == seen[0]
    file = shard.parent / name
    file.write_bytes(b"longer than before")
    seen.append(shard_fingerprint(shard, shard.parent))
    os.utime(file, ns=(1, 1))
    seen.append(shard_fingerprint(shard, shard.parent))
    file.unlink()
    seen.append(shard_fingerprint(shard, shard.parent))
    assert len(set(seen)) == 4


@pytest.mark.parametrize("part", ["a.tif/.zattrs", "a.tif/0/0.0"])
def test_it_changes_with_every_file_of_an_image_that_is_a_folder(shard: Path, part: str) -> None:
    (shard.parent / "a.tif").unlink()
    (shard.parent / "a.tif" / "0").mkdir(parents=True)
    for name in ("a.tif/.zattrs", "a.tif/0/0.0"):
        (shard.parent / name).write_bytes(b"content")
    before = shard_fingerprint(shard, shard.parent)
    assert shard_fingerprint(shard, shard.parent) == before
    os.utime(shard.parent / part, ns=(1, 1))
    assert shard_fingerprint(shard, shard.parent) != before


def test_it_changes_with_the_text_file_beside_a_micrograph(shard: Path) -> None:
    sidecar = shard.parent / "a.txt"
    for modality, counts in (("OM", False), ("TEM", True)):
        write_table(shard, pd.read_parquet(shard).assign(modality=modality), IMAGES)
        sidecar.unlink(missing_ok=True)
        before = shard_fingerprint(shard, shard.parent)
        sidecar.write_text("PixelSize=2.5")
        assert (shard_fingerprint(shard, shard.parent) != before) is counts


def test_a_table_without_modalities_counts_too(shard: Path) -> None:
    pd.read_parquet(shard)[["path", "annotation"]].to_parquet(shard)
    before = shard_fingerprint(shard, shard.parent)
    assert before not in ("pending", "unreadable")
    (shard.parent / "a.geojson").write_bytes(b"other outlines")
    assert shard_fingerprint(shard, shard.parent) != before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"value '.*/none': there is no folder .*/none; correct the path"):
        require_sheets(tmp_path / "none", ["patients.csv"])


def test_a_missing_sheet_gets_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "image.csv").touch()
    with pytest.raises(CohortError) as caught:
        require_sheets(tmp_path, ["patients.csv", "images.csv"])
    assert [str(problem) for problem in caught.value.problems] == [
        f"patients.csv: the sheet is not in {tmp_path}; put it there (docs/cohort.md describes it)",
        f"images.csv: the sheet is not in {tmp_path}; did you mean 'image.csv'?",
    ]
    (tmp_path / "patients.csv").touch()
    require_sheets(tmp_path, ["patients.csv"])


def _sheet(tmp_path: Path, *rows: str, name: str = "images.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(["patient,modality,path", *rows]) + "\n", encoding="utf-8")
    return path


def _digests(path: Path) -> list[str]:
    return [shard_rows([path], shard, 3) for shard in range(3)]


def test_an_added_patient_changes_its_shard_alone(tmp_path: Path) -> None:
    before = _digests(_sheet(tmp_path, "a,OM,a.tif", "b,OM,b.tif"))
    after = _digests(_sheet(tmp_path, "c,OM,c.tif", "a,OM,a.tif", "b,OM,b.tif"))
    changed = [shard for shard in range(3) if before[shard] != after[shard]]
    assert changed == [shard_of("c", 3)]


def test_blanks_around_cells_change_nothing(tmp_path: Path) -> None:
    assert _digests(_sheet(tmp_path, "a,OM,a.tif")) == _digests(_sheet(tmp_path, " a ,OM, a.tif"))


def test_another_header_changes_every_shard(tmp_path: Path) -> None:
    before = _digests(_sheet(tmp_path, "a,OM,a.tif"))
    path = tmp_path / "images.csv"
    path.write_text("patient,modality,path,stain\na,OM,a.tif,PAS\n", encoding="utf-8")
    assert not set(before) & set(_digests(path))


def test_crops_belong_to_the_slide_where_no_patient_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,label,slide\na.png,x,s1\n", encoding="utf-8")
    before = _digests(path)
    path.write_text("image,label,slide\na.png,y,s1\n", encoding="utf-8")
    changed = [shard for shard in range(3) if before[shard] != _digests(path)[shard]]
    assert changed == [shard_of("s1", 3)]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b""])
def test_a_broken_sheet_has_a_digest_too(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.csv"
    path.write_bytes(content)
    assert len(shard_rows([path], 0, 3)) == 64
    assert shard_rows([tmp_path / "none.csv"], 0, 3) != shard_rows([path], 0, 3)


def test_sites_are_read_from_the_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "patients.csv"
    rows = ["patient, site ,label", "a, west ,MN", "b,east,LN", "c,west,MN", "d,,MN", ""]
    sheet.write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    assert sheet_sites(sheet) == ["east", "west"]
    sheet.write_text("patient,label\na,MN\n", encoding="utf-8")
    with pytest.raises(CohortError, match="no patient has a site, so that none can be left out; fill column"):
        sheet_sites(sheet)
    with pytest.raises(CohortError, match=r"absent\.csv.*cannot be read"):
        sheet_sites(tmp_path / "absent.csv")
