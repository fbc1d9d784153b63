"""A folder of ready-made crops."""

from pathlib import Path

import pytest

from glomflow.cohort.crops_folder import read_crops_folder
from glomflow.errors import CohortError
from glomflow.tables import IMAGES, PATIENTS, write_table

LINES = [
    "image,label,slide,mask,stain",
    "a/1.png,sclerosed,S1,m/1.png,PAS",
    "a/2.png,normal,S1,,PAS",
    "a/3.png,normal,S2,,",
]


def build(folder: Path, lines: list[str]) -> Path:
    for name in ("a/1.png", "a/2.png", "a/3.png", "a/4.png", "m/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def read(folder: Path, classes: list[str] | None = None):
    return read_crops_folder(folder, "labels.csv", classes=classes or ["sclerosed", "normal"], shards=2)


def problems(folder: Path, classes: list[str] | None = None) -> list[str]:
    with pytest.raises(CohortError) as caught:
        read(folder, classes)
    return [str(problem) for problem in caught.value.problems]


def test_reads_the_tables(tmp_path):
    patients, images = read(build(tmp_path, LINES))
    assert patients["patient"].tolist() == ["S1", "S2"]
    assert patients["label"].isna().all()
    assert patients["site"].tolist() == ["unknown", "unknown"]
    assert images["image"].tolist() == ["a__1", "a__2", "a__3"]
    assert images["patient"].tolist() == ["S1", "S1", "S2"]
    assert images["lesion"].tolist() == ["sclerosed", "normal", "normal"]
    assert images["kind"].unique().tolist() == ["crop"]
    assert images["modality"].unique().tolist() == ["OM"]
    assert images["annotation"].tolist()[0] == "m/1.png"
    assert images["annotation"].isna().tolist() == [False, True, True]
    assert images["row"].tolist() == [2, 3, 4]
    write_table(tmp_path / "patients.parquet", patients, PATIENTS)
    write_table(tmp_path / "images.parquet", images, IMAGES)


def test_patients_may_have_several_slides(tmp_path):
    lines = [line + patient for line, patient in zip(LINES, (",patient", ",P1", ",P1", ",P1"), strict=True)]
    patients, images = read(build(tmp_path, lines))
    assert patients["patient"].tolist() == ["P1"]
    assert images["slide"].tolist() == ["S1", "S1", "S2"]


def test_all_problems_come_at_once(tmp_path):
    build(
        tmp_path,
        [
            "image,label,slide,patient,mask",
            "a/1.png,Normal,S1,P1,",
            "a/2.png,,S1,P2,",
            "a/9.png,normal,,,x.png",
            "a/3.png,normal,S3,,",
            "a/3.png,normal,S3,,",
            "../b.png,normal,S3,,",
            "a/4.png,normal,S4,,",
        ],
    )
    (tmp_path / "a/4.png").write_text("a/3.png")
    assert problems(tmp_path) == [
        "labels.csv, column 'label': no crop has the label 'sclerosed', one of cohort.classes; add "
        "crops or take "
        "the class out of cohort.classes",
        "labels.csv, row 2, column 'label', value 'Normal': not one of cohort.classes (sclerosed, "
        "normal); did "
        "you mean 'normal'?",
        "labels.csv, row 3, column 'label': the cell is empty; fill it in",
        "labels.csv, row 3, column 'slide', value 'S1': the slide is named for patient 'P1' in row 2 and for "
        "patient 'P2' here; a slide belongs to one patient: correct it, or tell the slides apart as 'P2-S1'",
        "labels.csv, row 4, column 'slide': the cell is empty; fill it in",
        "labels.csv, row 4, column 'image', value 'a/9.png': there is no such file in the cohort "
        "folder; put it "
        "there or correct the path",
        "labels.csv, row 4, column 'mask', value 'x.png': there is no such file in the cohort folder; put it "
        "there or correct the path",
        "labels.csv, row 6, column 'image', value 'a/3.png': row 5 lists this file already; delete "
        "one of them",
        "labels.csv, row 7, column 'image', value '../b.png': the path leaves the cohort folder (it "
        "holds '..'); "
        "move or copy the file into the cohort folder and write its path from there",
        "labels.csv, row 8, column 'image', value 'a/4.png': patients 'S3' and 'S4' share one file: "
        "its bytes "
        "are those of 'a/3.png' in row 5; put each patient's own file there, or give both rows to "
        "one patient",
    ]


def test_missing_columns(tmp_path):
    assert problems(build(tmp_path, ["image,lesion,slides", "a/1.png,normal,S1"])) == [
        "labels.csv, row 1, column 'lesion': unknown column; the columns are image, label, slide, "
        "patient, mask, "
        "stain, site, url, sha256; a column of your own must start with 'x_' ('x_lesion')",
        "labels.csv, row 1, column 'label': the column is missing; add it to the header (the label, one of "
        "cohort.classes)",
        "labels.csv, row 1, column 'slides': unknown column; rename it to 'slide', which is missing",
    ]


def test_real_glomeruli(real_data):
    classes = ["global_sclerosis", "not_globally_sclerosed"]
    patients, images = read(real_data / "pas_glomeruli", classes)
    assert len(patients) == 10
    assert images["lesion"].value_counts().to_dict() == {classes[1]: 81, classes[0]: 35}
    assert images["stain"].unique().tolist() == ["PAS"]
    assert images["annotation"].notna().all()


def test_patients_may_have_a_site(tmp_path):
    lines = [f"{line},{site}" for line, site in zip(LINES, ("site", "east", "", "west"), strict=True)]
    patients, _ = read(build(tmp_path, lines))
    assert patients.set_index("patient")["site"].to_dict() == {"S1": "east", "S2": "west"}


def test_a_patient_of_two_sites_is_a_problem(tmp_path):
    lines = [f"{line},{site}" for line, site in zip(LINES, ("site", "east", "north", ""), strict=True)]
    assert problems(build(tmp_path, lines)) == [
        "labels.csv, row 3, column 'site', value 'north': patient 'S1' is of site 'east' above; correct the "
        "site or the patient",
    ]
