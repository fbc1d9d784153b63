"""The cohort's sheets: what is read, and every problem that they can have."""

import os
from pathlib import Path

import pandas as pd
import pytest

from glomflow.cohort import disk
from glomflow.cohort.sheets import image_id, read_cohort, shard_of
from glomflow.errors import CohortError
from glomflow.tables import IMAGES, PATIENTS, write_table

CLASSES = ["IgAN", "MN"]
PATIENT_LINES = [
    "patient,label,site,stage",
    "001,IgAN,north,",
    "002,IgAN,south,",
    "003,MN,north,II",
    "004,MN,,",
]
IMAGE_LINES = [
    "patient,modality,path,um_per_px,nm_per_px,slide,annotation,kind,lesion,stain,marker",
    "001,OM,001/om.tif,0.5,,S1,001/om.geojson,,,PAS,",
    "001,TEM,001/tem.tif,,2.5,,,,,,",
    "002,IM,002/im.ome.tif,,,,,,,,IgG;IgA",
    "003,OM,003/crop.png,,,,,crop,normal,,",
    "004,TEM,004/tem.tif,,,,,,,,",
]


def build(folder: Path, patients: list[str] | None = None, images: list[str] | None = None) -> Path:
    """Writes a small cohort; every file has bytes of its own."""
    folder.mkdir(exist_ok=True)
    for name in (
        "001/om.tif",
        "001/om.geojson",
        "001/tem.tif",
        "002/im.ome.tif",
        "003/crop.png",
        "004/tem.tif",
        "spare.tif",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "patients.csv").write_text("\n".join(patients or PATIENT_LINES) + "\n", encoding="utf-8")
    (folder / "images.csv").write_text("\n".join(images or IMAGE_LINES) + "\n", encoding="utf-8")
    return folder


def read(folder: Path, **options) -> tuple[pd.DataFrame, pd.DataFrame]:
    settings = {"classes": CLASSES, "n_splits": 2, "shards": 3, **options}
    return read_cohort(folder, "patients.csv", "images.csv", **settings)


def problems(folder: Path, **options) -> list[str]:
    with pytest.raises(CohortError) as caught:
        read(folder, **options)
    return [str(problem) for problem in caught.value.problems]


def with_line(lines: list[str], row: int, line: str) -> list[str]:
    """Replaces a row, numbered as in the sheet, or appends it."""
    changed = list(lines)
    changed[row - 1 : row] = [line]
    return changed


def test_reads_the_tables(tmp_path):
    patients, images = read(build(tmp_path))
    assert patients["patient"].tolist() == ["001", "002", "003", "004"]
    assert patients["site"].tolist() == ["north", "south", "north", "unknown"]
    assert patients["stage"].isna().tolist() == [True, True, False, True]
    assert images["image"].tolist() == ["001__om", "001__tem", "002__im", "003__crop", "004__tem"]
    assert images["slide"].tolist() == ["S1", "001__tem", "002__im", "003__crop", "004__tem"]
    assert images["kind"].tolist() == ["field", "field", "field", "crop", "field"]
    assert images["row"].tolist() == [2, 3, 4, 5, 6]
    assert images["um_per_px"].tolist()[0] == 0.5
    assert images["nm_per_px"].tolist()[1] == 2.5
    assert images["marker"].tolist()[2] == "IgG;IgA"
    assert images["annotation"].isna().sum() == 4
    assert images["shard"].tolist() == [shard_of(patient, 3) for patient in images["patient"]]
    write_table(tmp_path / "patients.parquet", patients, PATIENTS)
    write_table(tmp_path / "images.parquet", images, IMAGES)


def test_blanks_byte_order_mark_crlf_and_empty_rows_are_tolerated(tmp_path):
    build(tmp_path)
    lines = ["patient, label ,site", " 001 ,IgAN, north ", "", "002,IgAN,s", ",,", "003,MN,s", "004 ,\tMN,s"]
    (tmp_path / "patients.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    patients, _ = read(tmp_path)
    assert patients["patient"].tolist() == ["001", "002", "003", "004"]
    assert patients["site"].tolist() == ["north", "s", "s", "s"]


def test_row_numbers_count_empty_rows(tmp_path):
    build(tmp_path, patients=[*PATIENT_LINES[:2], "", *PATIENT_LINES[2:], "005,XX,s,"])
    assert "patients.csv, row 7, column 'label', value 'XX'" in problems(tmp_path)[0]


def test_paths_are_normalised_and_own_columns_left_alone(tmp_path):
    images = ["patient,modality,path,x_note", *(f"{n:03},TEM,./00{n}//tem.tif,hi" for n in (1, 4))]
    build(tmp_path, PATIENT_LINES, [*images, "002,IM,002/im.ome.tif,", "003,OM,003/crop.png,"])
    _, found = read(tmp_path)
    assert found["path"].tolist()[0] == "001/tem.tif"
    assert list(found.columns) == list(IMAGES)


def test_all_problems_come_at_once_in_sheet_order(tmp_path):
    build(
        tmp_path,
        patients=with_line(PATIENT_LINES, 3, "002,IgA,south,"),
        images=with_line(
            with_line(IMAGE_LINES, 4, "002,IF,002/im.ome.tif" + "," * 8), 2, "001,OM,no.tif" + "," * 8
        ),
    )
    with pytest.raises(CohortError) as caught:
        read(tmp_path)
    assert str(caught.value).splitlines() == [
        "4 problems in the cohort sheets:",
        "  1. patients.csv, column 'label': class 'IgAN' has 1 patient, fewer than the 2 folds; add "
        "patients, or "
        "take the class out of cohort.classes",
        "  2. patients.csv, row 3, column 'label', value 'IgA': not one of cohort.classes (IgAN, "
        "MN); did you "
        "mean 'IgAN'?",
        "  3. images.csv, row 2, column 'path', value 'no.tif': there is no such file in the cohort "
        "folder; put "
        "it there or correct the path",
        "  4. images.csv, row 4, column 'modality', value 'IF': unknown modality; the modalities are OM, IM, "
        "TEM; write 'IM'",
    ]


PATIENT_CASES = {
    "empty patient": (2, ",IgAN,n,", "row 2, column 'patient': the cell is empty; fill it in"),
    "empty label": (2, "001,,n,", "row 2, column 'label': the cell is empty; fill it in"),
    "duplicate": (6, "001,IgAN,n,", "row 6, column 'patient', value '001': row 2 lists this patient already"),
    "conflict": (
        6,
        "001,MN,n,",
        "row 6, column 'label', value 'MN': patient '001' has conflicting labels: 'IgAN' in row 2, 'MN' here",
    ),
    "unknown label": (
        3,
        "002,igan,n,",
        "value 'igan': not one of cohort.classes (IgAN, MN); did you mean 'IgAN'?",
    ),
    "no images": (
        6,
        "005,MN,n,",
        "row 6, column 'patient', value '005': the patient has no row in images.csv; add the images "
        "or delete",
    ),
    "stage in digits": (4, "003,MN,n,2", "value '2': the stage is I, II or III, or empty; write 'II'"),
    "stage in small letters": (
        4,
        "003,MN,n,iii",
        "value 'iii': the stage is I, II or III, or empty; write 'III'",
    ),
    "stage of IgAN": (
        2,
        "001,IgAN,n,I",
        "row 2, column 'stage', value 'I': only patients with label 'MN' have a stage; empty the cell",
    ),
    "too many values": (2, "001,IgAN,north,,east", "row 2: the row has 5 values but the header 4 columns"),
    "quote": (2, '001,"Ig"AN,north,', "row 2: this is not valid CSV"),
}


@pytest.mark.parametrize("case", PATIENT_CASES)
def test_problem_of_the_patients_sheet(tmp_path, case):
    row, line, message = PATIENT_CASES[case]
    build(tmp_path, patients=with_line(PATIENT_LINES, row, line))
    assert any(message in problem and problem.startswith("patients.csv") for problem in problems(tmp_path))


IMAGE_CASES = {
    "empty path": (2, "001,OM,,,,,,,,,", "row 2, column 'path': the cell is empty; fill it in"),
    "empty modality": (2, "001,,001/om.tif,,,,,,,,", "row 2, column 'modality': the cell is empty"),
    "unknown patient": (7, "2x,OM,spare.tif,,,,,,,,", "the patient is not in patients.csv; add a row there"),
    "lost zeros": (
        7,
        "2,OM,spare.tif,,,,,,,,",
        "row 7, column 'patient', value '2': the patient is not in patients.csv; did you mean '002'?",
    ),
    "modality in small letters": (7, "001,tem,spare.tif,,,,,,,,", "write 'TEM' (in capitals)"),
    "modality misspelt": (7, "001,TME,spare.tif,,,,,,,,", "the modalities are OM, IM, TEM; write 'TEM'"),
    "modality by another name": (7, "001,EM,spare.tif,,,,,,,,", "write 'TEM'"),
    "modality nobody knows": (
        7,
        "001,CT9,spare.tif,,,,,,,,",
        "unknown modality; the modalities are OM, IM, TEM",
    ),
    "missing file": (
        7,
        "001,OM,001/on.tif,,,,,,,,",
        "there is no such file in the cohort folder; did you mean '001/om.tif'?",
    ),
    "letter case": (7, "001,OM,SPARE.tif,,,,,,,,", "did you mean 'spare.tif'?"),
    "missing folder": (
        7,
        "001,OM,x/y.tif,,,,,,,,",
        "there is no such file in the cohort folder; put it there",
    ),
    "folder": (7, "001,OM,001,,,,,,,,", "DICOM slide in it; name the image file in it"),
    "dots": (7, "001,OM,../a.tif,,,,,,,,", "the path leaves the cohort folder (it holds '..'); move or copy"),
    "absolute": (
        7,
        "001,OM,/etc/passwd,,,,,,,,",
        "the path leaves the cohort folder (it does not start there)",
    ),
    "drive": (7, "001,OM,C:/a.tif,,,,,,,,", "the path leaves the cohort folder (it does not start there)"),
    "backslash": (7, "001,OM,001\\om.tif,,,,,,,,", "write the path with '/' instead of '\\'"),
    "twice": (
        7,
        "001,OM,001/om.tif,,,,,,,,",
        "row 7, column 'path', value '001/om.tif': row 2 lists this file",
    ),
    "twice in another form": (7, "001,OM,./001/om.tif,,,,,,,,", "row 2 lists this file already; delete one"),
    "no number": (
        2,
        "001,OM,001/om.tif,half,,,,,,,",
        "value 'half': not a number; write the pixel size as digits",
    ),
    "infinite": (2, "001,OM,001/om.tif,inf,,,,,,,", "value 'inf': not a number"),
    "decimal comma": (2, '001,OM,001/om.tif,"0,25",,,,,,,', "not a number; use a decimal point: 0.25"),
    "zero": (2, "001,OM,001/om.tif,0,,,,,,,", "value '0': a pixel size is greater than 0"),
    "negative": (3, "001,TEM,001/tem.tif,,-2,,,,,,", "value '-2': a pixel size is greater than 0"),
    "TEM in micrometres": (
        3,
        "001,TEM,001/tem.tif,0.0025,,,,,,,",
        "row 3, column 'um_per_px', value '0.0025': TEM images take their pixel size from column "
        "'nm_per_px'; "
        "write 2.5 there and empty this cell",
    ),
    "OM in nanometres": (
        2,
        "001,OM,001/om.tif,0.5,500,,,,,,",
        "column 'nm_per_px', value '500': OM images take their pixel size from column 'um_per_px'; write 0.5",
    ),
    "annotation missing": (
        2,
        "001,OM,001/om.tif,,,,a.geojson,,,,",
        "column 'annotation', value 'a.geojson': there",
    ),
    "annotation outside": (
        2,
        "001,OM,001/om.tif,,,,../a.geojson,,,,",
        "value '../a.geojson': the path leaves",
    ),
    "annotation of TEM": (
        3,
        "001,TEM,001/tem.tif,,,,001/om.geojson,,,,",
        "row 3, column 'annotation', value '001/om.geojson': TEM images are tiled and take no annotation",
    ),
    "kind": (2, "001,OM,001/om.tif,,,,,crops,,,", "or 'crop' (it is one); did you mean 'crop'?"),
    "lesion of a field": (
        2,
        "001,OM,001/om.tif,,,,,,normal,,",
        "only an image that is one crop has a lesion class",
    ),
    "slide of two patients": (
        4,
        "002,IM,002/im.ome.tif,,,S1,,,,,",
        "row 4, column 'slide', value 'S1': the slide is named for patient '001' in row 2 and for "
        "patient '002' "
        "here; a slide belongs to one patient: correct it, or tell the slides apart as '002-S1'",
    ),
    "null byte": (7, "001,OM,a\0b.tif,,,,,,,,", "there is no such file in the cohort folder"),
    "endless name": (7, f"001,OM,{'a' * 300}.tif,,,,,,,,", "the path is longer than 200 bytes"),
}


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_problem_of_the_images_sheet(tmp_path, case):
    row, line, message = IMAGE_CASES[case]
    build(tmp_path, images=with_line(IMAGE_LINES, row, line))
    assert any(message in problem and problem.startswith("images.csv") for problem in problems(tmp_path))


HEADER_CASES = {
    "renamed": (
        "patient,lable,site,stage",
        "column 'lable': unknown column; rename it to 'label', which is missing",
    ),
    "missing": (
        "patient,label,x_1,stage",
        "column 'site': the column is missing; add it to the header (the hosp",
    ),
    "near": (
        "patient,label,site,stag",
        "column 'stag': unknown column; did you mean 'stage'? the columns are patient",
    ),
    "unknown": (
        "patient,label,site,age",
        "column 'age': unknown column; did you mean 'stage'? the columns are patient, label, site, "
        "stage; a column "
        "of your own must start with 'x_' ('x_age')",
    ),
    "twice": ("patient,label,site,site", "column 'site': the header names this column twice"),
    "nameless": ("patient,label,site,", "row 1: a column with values has no name; name it or delete it"),
}


@pytest.mark.parametrize("case", HEADER_CASES)
def test_problem_of_the_header(tmp_path, case):
    header, message = HEADER_CASES[case]
    build(tmp_path, patients=with_line(PATIENT_LINES, 1, header))
    assert any(message in problem for problem in problems(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the sheet is empty; its first row must read 'patient,label,site'"),
        (b"\n \n", "the sheet is empty"),
        (b"patient,label,site\n", "the sheet has a header but no rows"),
        (
            b"patient;label;site\n1;MN;n\n",
            "the values are separated by semicolons; save the sheet with commas",
        ),
        (b'patient;label;site\n"A; 1";MN;n\n', "the values are separated by semicolons"),
        (b"patient\tlabel\tsite\n1\tMN\tn\n", "the values are separated by tabs"),
        (
            b"patient,label,site\n1,MN,n\n2,MN,K\xf6ln\n",
            "row 3: the sheet is not UTF-8 text; save it as 'CSV UTF-8",
        ),
        ("patient,label,site\n".encode("utf-16"), "the sheet is not UTF-8 text"),
    ],
)
def test_unreadable_sheet(tmp_path, content, message):
    build(tmp_path)
    (tmp_path / "patients.csv").write_bytes(content)
    found = problems(tmp_path)
    assert any(message in problem for problem in found)
    assert not any("images.csv" in problem for problem in found)


def test_a_sheet_of_one_column(tmp_path):
    build(tmp_path, patients=["patient", "001", "002", "003", "004"])
    assert problems(tmp_path) == [
        "patients.csv, row 1, column 'label': the column is missing; add it to the header (the label, one of "
        "cohort.classes)",
        "patients.csv, row 1, column 'site': the column is missing; add it to the header (the hospital or "
        "laboratory; its cells may be empty)",
    ]


def test_missing_sheet_and_folder(tmp_path):
    build(tmp_path)
    (tmp_path / "patients.csv").rename(tmp_path / "patient.csv")
    assert problems(tmp_path) == [
        f"patients.csv: the sheet is not in {tmp_path}; did you mean 'patient.csv'?",
    ]
    assert f"the sheet is not in {tmp_path / 'none'}; put it there" in problems(tmp_path / "none")[0]


def test_class_without_patients_and_with_too_few(tmp_path):
    found = problems(build(tmp_path), classes=["IgAN", "MN", "LN"], n_splits=3)
    assert found == [
        "patients.csv, column 'label': class 'IgAN' has 2 patients, fewer than the 3 folds; set "
        "folds.n_splits "
        "to 2 or fewer, add patients, or take the class out of cohort.classes",
        "patients.csv, column 'label': class 'MN' has 2 patients, fewer than the 3 folds; set "
        "folds.n_splits to "
        "2 or fewer, add patients, or take the class out of cohort.classes",
        "patients.csv, column 'label': no patient has the label 'LN', one of cohort.classes; add patients or "
        "take the class out of cohort.classes",
    ]


def test_labels_are_free_without_class_check(tmp_path):
    build(tmp_path, patients=["patient,site", "001,n", "002,n", "003,n", "004,n"])
    patients, _ = read(tmp_path, check_classes=False)
    assert patients["label"].isna().all()


def test_symbolic_links(tmp_path):
    outside = tmp_path / "outside.tif"
    outside.write_text("outside")
    folder = build(
        tmp_path / "cohort", images=[*IMAGE_LINES, "001,OM,link.tif" + "," * 8, "001,OM,l/a.tif" + "," * 8]
    )
    (folder / "link.tif").symlink_to(outside)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.tif").write_text("far")
    (folder / "l").symlink_to(tmp_path / "far")
    found = problems(folder)
    assert (
        "row 7, column 'path', value 'link.tif': the path leaves the cohort folder (the file is a symbolic"
        in found[0]
    )
    assert (
        "row 8, column 'path', value 'l/a.tif': the path leaves the cohort folder (a folder on the way"
        in found[1]
    )
    (folder / "link.tif").unlink()
    (folder / "link.tif").symlink_to("spare.tif")
    (folder / "l").unlink()
    (folder / "l").mkdir()
    (folder / "l" / "a.tif").write_text("near")
    (tmp_path / "alias").symlink_to(folder)
    assert len(read(tmp_path / "alias")[1]) == 7


def test_two_patients_sharing_a_file(tmp_path):
    build(tmp_path, images=[*IMAGE_LINES, "002,OM,copy.tif" + "," * 8])
    (tmp_path / "copy.tif").write_bytes((tmp_path / "001/om.tif").read_bytes())
    assert problems(tmp_path) == [
        "images.csv, row 7, column 'path', value 'copy.tif': patients '001' and '002' share one "
        "file: its bytes "
        "are those of '001/om.tif' in row 2; put each patient's own file there, or give both rows to "
        "one patient"
    ]


def test_files_are_hashed_once_and_only_where_sizes_and_samples_agree(tmp_path, monkeypatch):
    build(tmp_path, images=[*IMAGE_LINES, "002,OM,002/a.tif" + "," * 8, "003,OM,003/b.tif" + "," * 8])
    long = bytearray(100_000)
    (tmp_path / "002/a.tif").write_bytes(long)
    long[30_000] = 1
    (tmp_path / "003/b.tif").write_bytes(long)
    hashed = []
    monkeypatch.setattr(disk, "_whole_digest", lambda path: hashed.append(os.path.basename(path)) or path)
    read(tmp_path)
    assert hashed == ["a.tif", "b.tif"]


def test_same_bytes_within_a_patient_and_empty_files_are_no_problem_of_the_sheet(tmp_path):
    owners = {"a.tif": "001", "b.tif": "001", "c.tif": "002", "d.tif": "003"}
    build(tmp_path, images=[*IMAGE_LINES, *(f"{owners[name]},OM,{name}" + "," * 8 for name in owners)])
    for name, content in (("a.tif", b"same"), ("b.tif", b"same"), ("c.tif", b""), ("d.tif", b"")):
        (tmp_path / name).write_bytes(content)
    assert len(read(tmp_path)[1]) == 9


def test_a_file_that_cannot_be_read_is_left_to_ingestion(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    build(tmp_path, images=[*IMAGE_LINES, "002,OM,copy.tif" + "," * 8])
    (tmp_path / "copy.tif").write_bytes((tmp_path / "001/om.tif").read_bytes())
    monkeypatch.setattr(disk, "_sampled_digest", refuse)
    assert len(read(tmp_path)[1]) == 6


def test_only_the_first_missing_files_get_a_suggestion(tmp_path):
    names = [f"spar{letter}.tif" for letter in "abcdfghijklmnopqrstuvwxyz"]
    build(tmp_path, images=[*IMAGE_LINES, *(f"001,OM,{name}" + "," * 8 for name in names)])
    found = problems(tmp_path)
    assert len(found) == 25
    assert sum("did you mean 'spare.tif'?" in problem for problem in found) == disk.MAX_SUGGESTIONS


def test_identifiers_that_collide(tmp_path):
    build(tmp_path, images=[*IMAGE_LINES, "001,OM,001/om.png" + "," * 8, "001,OM,001__om.tif" + "," * 8])
    (tmp_path / "001/om.png").write_text("another")
    (tmp_path / "001__om.tif").write_text("a third one")
    assert problems(tmp_path) == [
        f"images.csv, row {row}, column 'path', value '{path}': the image would have the same identifier, "
        "'001__om', as '001/om.tif' in row 2 (suffixes do not count, '/' becomes '__'); rename one file"
        for row, path in ((7, "001/om.png"), (8, "001__om.tif"))
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.tif", "a"),
        ("p/q/a.ome.tiff", "p__q__a"),
        ("p/a.OME.TIF", "p__a"),
        ("p.1/a.2.png", "p.1__a.2"),
        ("p.1/a", "p.1__a"),
        ("p/.hidden", "p__.hidden"),
    ],
)
def test_image_id(path, expected):
    assert image_id(path) == expected


def test_images_of_a_patient_stay_in_one_shard(tmp_path):
    (tmp_path / "i").mkdir()
    patients = ["patient,label,site"] + [f"P{n},{CLASSES[n % 2]},s" for n in range(500)]
    images = ["patient,modality,path"]
    for number in range(2000):
        (tmp_path / "i" / f"{number}.tif").write_text(str(number))
        images.append(f"P{number // 4},TEM,i/{number}.tif")
    (tmp_path / "patients.csv").write_text("\n".join(patients))
    (tmp_path / "images.csv").write_text("\n".join(images))
    found_patients, found_images = read(tmp_path, shards=10)
    assert (len(found_patients), len(found_images)) == (500, 2000)
    assert found_images.groupby("patient")["shard"].nunique().max() == 1


def test_a_misnamed_patient_column_does_not_empty_the_classes(tmp_path):
    found = problems(build(tmp_path, patients=["Patient_ID,label,site", *PATIENT_LINES[1:]]), n_splits=1)
    assert any("rename it to 'patient'" in problem for problem in found)
    assert not any("no patient has the label" in problem for problem in found)
