"""The cohort's tables, whichever way it comes."""

from pathlib import Path

import pytest

from glomflow.cohort.sheets import shard_of
from glomflow.cohort.source import read_source
from glomflow.config import Cohort
from glomflow.errors import CohortError

SHEETS = Cohort(source="sheets", folder="here", classes=["MN", "LN"])
CROPS = Cohort(source="crops", folder="here", classes=["a", "b"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "patients.csv").write_text("patient,label,site\np,MN,x\nq,LN,x\n", encoding="utf-8")
    (tmp_path / "images.csv").write_text(
        "patient,modality,path\np,TEM,p.tif\nq,TEM,q.tif\n", encoding="utf-8"
    )
    (tmp_path / "labels.csv").write_text("image,label,slide\n1.png,a,s\n2.png,b,s\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("cohort", [SHEETS, CROPS])
def test_a_shard_has_its_own_rows_and_leaves_files_alone(folder: Path, cohort: Cohort) -> None:
    settings = {"n_splits": 1, "shards": 5, "diagnosis": True}
    names = ["p", "q"] if cohort.source == "sheets" else ["s"]
    for shard in range(5):
        patients, images = read_source(cohort, folder, shard=shard, **settings)
        own = [name for name in names if shard_of(name, 5) == shard]
        assert patients["patient"].tolist() == own
        assert sorted(set(images["patient"])) == own
        assert images["image"].notna().all()
        assert set(images["shard"]) <= {shard}
    with pytest.raises(CohortError, match="2 problems"):
        read_source(cohort, folder, **settings)


def test_with_another_problem_the_files_are_listed_too(folder: Path) -> None:
    sheet = folder / "images.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8").replace("q,TEM", "q,EM"), encoding="utf-8")
    shard = shard_of("q", 2)
    with pytest.raises(CohortError, match="3 problems") as error:
        read_source(SHEETS, folder, n_splits=1, shards=2, diagnosis=True, shard=shard)
    assert "p.tif" in str(error.value)
    assert "'EM'" in str(error.value)


def test_shards_are_stable():
    assert [shard_of(patient, 4) for patient in ("P1", "P2", "P3", "Ä")] == [0, 0, 1, 1]
    assert {shard_of(f"P{number}", 3) for number in range(50)} == {0, 1, 2}
