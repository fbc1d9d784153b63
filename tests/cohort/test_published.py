"""The importer of the published folder layout."""

from pathlib import Path

import pytest

from glomflow.cohort.published import import_published
from glomflow.cohort.sheets import read_cohort
from glomflow.errors import CohortError, GlomflowError

FILES = [
    "IgAN/anna/OM_IgAN_anna_1.jpg",
    "IgAN/anna/OM-ori_IgAN_anna_1.jpg",
    "IgAN/anna/IM_IgAN_anna_IgA.JPG",
    "IgAN/anna/TEM_IgAN_anna_1.jpg",
    "IgAN/anna/TEM_IgAN_anna_2.png",
    "MN/bert/OM-ori_MN_bert_x.jpg",
    "MN/bert/TEM_MN_bert_1.tif",
    "MN/.DS_Store",
    "MN/bert/Thumbs.db",
    "MN/bert/._TEM_MN_bert_1.tif",
]


def build(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def problems(root: Path) -> list[str]:
    with pytest.raises(CohortError) as caught:
        import_published(root, root)
    assert not (root / "images.csv").exists()
    return [str(problem) for problem in caught.value.problems]


def test_writes_both_sheets(tmp_path):
    import_published(build(tmp_path, *FILES), tmp_path)
    assert (tmp_path / "patients.csv").read_text() == "patient,label,site\nanna,IgAN,\nbert,MN,\n"
    assert (tmp_path / "images.csv").read_text().splitlines() == [
        "patient,modality,path,slide,stain,marker,um_per_px,nm_per_px,annotation,kind,lesion",
        "anna,IM,IgAN/anna/IM_IgAN_anna_IgA.JPG,,,,,,,field,",
        "anna,OM,IgAN/anna/OM_IgAN_anna_1.jpg,,,,,,,crop,",
        "anna,TEM,IgAN/anna/TEM_IgAN_anna_1.jpg,,,,,,,field,",
        "anna,TEM,IgAN/anna/TEM_IgAN_anna_2.png,,,,,,,field,",
        "bert,OM,MN/bert/OM-ori_MN_bert_x.jpg,,,,,,,field,",
        "bert,TEM,MN/bert/TEM_MN_bert_1.tif,,,,,,,field,",
    ]


def test_the_sheets_are_readable_also_from_a_folder_above(tmp_path):
    import_published(build(tmp_path / "images", *FILES, "MN/carl/TEM_MN_carl_1.jpg"), tmp_path)
    patients, images = read_cohort(
        tmp_path, "patients.csv", "images.csv", classes=["IgAN", "MN"], n_splits=1, shards=1
    )
    assert patients["label"].tolist() == ["IgAN", "MN", "MN"]
    assert patients["site"].unique().tolist() == ["unknown"]
    assert images["path"].tolist()[0] == "images/IgAN/anna/IM_IgAN_anna_IgA.JPG"


@pytest.mark.parametrize(
    "name", ["EM_MN_bert_1.jpg", "IMG_0001.jpg", "tem_MN_bert_1.jpg", "OMori_MN_bert.jpg", "x.jpg"]
)
def test_an_unknown_prefix_is_never_a_tem_image(tmp_path, name):
    found = problems(build(tmp_path, *FILES, f"MN/bert/{name}"))
    assert len(found) == 1
    prefix = name.removesuffix(".jpg").split("_")[0]
    assert (
        f"MN/bert/{name}: unknown prefix '{prefix}'; names start with OM_, OM-ori_, IM_ or TEM_" in found[0]
    )


def test_every_problem_is_listed(tmp_path):
    build(
        tmp_path,
        *FILES,
        "notes.txt",
        "MN/list.xlsx",
        "MN/bert/tem_MN_bert_3.jpg",
        "MN/bert/report.pdf",
        "MN/bert/deeper/TEM_MN_bert_9.jpg",
        "LN/anna/TEM_LN_anna_1.jpg",
        "IgAN/anna/TEM_MN_anna_7.jpg",
        "IgAN/anna/TEM_IgAN_bert_8.jpg",
    )
    (tmp_path / "MN" / "dora").mkdir()
    (tmp_path / "FSGS").mkdir()
    assert problems(tmp_path) == [
        "notes.txt: a stray file; only class folders belong here: move or delete it",
        "FSGS: there is no patient folder in it; images lie in class/patient/",
        "MN/list.xlsx: a stray file; only patient folders belong here: move or delete it",
        "MN/bert/deeper: a stray folder; images lie in class/patient/ directly: move or delete it",
        "MN/bert/report.pdf: a stray file, not an image (.jpg, .jpeg, .png, .tif, .tiff); move or delete it",
        "MN/bert/tem_MN_bert_3.jpg: unknown prefix 'tem'; names start with OM_, OM-ori_, IM_ or TEM_ "
        "(was 'TEM_' "
        "meant?): rename the file",
        "MN/dora: the patient's folder is empty; add the images or delete it",
        f"{tmp_path}, column 'patient', value 'anna': the patient is in several class folders (IgAN, "
        f"LN); keep "
        "the right one, or rename one folder if these are two patients",
        "IgAN/anna/TEM_IgAN_bert_8.jpg: the name says patient 'bert', the folder 'anna'; move the "
        "file to the "
        "right folder or rename it",
        "IgAN/anna/TEM_MN_anna_7.jpg: the name says class 'MN', the folder 'IgAN'; move the file to "
        "the right "
        "folder or rename it",
    ]


def test_identifiers_with_underscores_are_no_conflict(tmp_path):
    build(tmp_path, "MN/p/TEM_MN_p_1.jpg", "MN/p_2/TEM_MN_p_2_1.jpg", "MN_x/q/TEM_MN_x_q.jpg")
    import_published(tmp_path, tmp_path)
    assert "p_2,TEM,MN/p_2/TEM_MN_p_2_1.jpg" in (tmp_path / "images.csv").read_text()


def test_importing_twice_is_fine_but_edited_sheets_are_kept(tmp_path):
    import_published(build(tmp_path, *FILES), tmp_path)
    import_published(tmp_path, tmp_path)
    edited = (tmp_path / "patients.csv").read_text().replace("IgAN,", "IgAN,north")
    (tmp_path / "patients.csv").write_text(edited)
    with pytest.raises(GlomflowError, match="there is a sheet already, with other content; delete or rename"):
        import_published(tmp_path, tmp_path)
    assert (tmp_path / "patients.csv").read_text() == edited


def test_source_and_out_must_fit(tmp_path):
    source = build(tmp_path / "source", *FILES)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(GlomflowError, match=r"the sheets must lie in the cohort folder, which is .*source"):
        import_published(source, tmp_path / "elsewhere")
    with pytest.raises(GlomflowError, match="there is no such folder; name the folder of class folders"):
        import_published(tmp_path / "none", tmp_path)
    (tmp_path / "bare").mkdir()
    assert problems(tmp_path / "bare") == [
        f"{tmp_path / 'bare'}: there is no class folder in it; images lie in class/patient/"
    ]
