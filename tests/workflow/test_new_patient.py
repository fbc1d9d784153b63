"""A cohort of one's own that grows: a new patient redoes one shard of every image stage."""

import shutil

import pandas as pd
import pytest

from glomflow.cohort.sheets import shard_of

pytestmark = pytest.mark.workflow

OWN = """
run: {results: results/own, shards: 3}
cohort: {source: sheets, folder: cohort}
"""


@pytest.fixture(scope="module")
def own(demo, tmp_path_factory):
    """The phantom's files as a cohort of one's own, read and cropped."""
    folder = tmp_path_factory.mktemp("own") / "glomflow"
    shutil.copytree(demo.folder, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    shutil.copytree(demo.folder / "results" / "phantom", folder / "cohort")
    (folder / "own.yaml").write_text(OWN, encoding="utf-8")
    project = type(demo)(folder, ["small.yaml", "own.yaml"])
    project.snakemake("--", "results/own/crops/om/0000.npy", *targets())
    return project


def targets() -> list[str]:
    stores = [
        f"results/own/crops/{name}/{shard:04d}.npy" for name in ("om", "im", "tem") for shard in range(3)
    ]
    return ["results/own/inventory.parquet", "results/own/cohort/patients.parquet", *stores]


def add_patient(project) -> None:
    cohort = project.folder / "cohort"
    images = pd.read_csv(cohort / "images.csv", dtype=str, keep_default_na=False)
    first = images[(images["modality"] == "TEM")].iloc[0]
    shutil.copyfile(cohort / first["path"], cohort / "TEM" / "new.tif")
    with (cohort / "TEM" / "new.tif").open("ab") as handle:
        handle.write(b"\0")
    new = dict.fromkeys(images.columns, "") | {"patient": "new", "modality": "TEM", "path": "TEM/new.tif"}
    pd.concat([pd.DataFrame([new]), images]).to_csv(cohort / "images.csv", index=False)
    patients = pd.read_csv(cohort / "patients.csv", dtype=str, keep_default_na=False)
    row = dict.fromkeys(patients.columns, "") | {"patient": "new", "label": "LN", "site": "site_a"}
    pd.concat([patients, pd.DataFrame([row])]).to_csv(cohort / "patients.csv", index=False)


def test_a_new_patient_redoes_one_shard(own) -> None:
    assert own.planned("--", *targets()) == {}
    add_patient(own)
    plan = own.planned("--", *targets())
    once = (
        "cohort",
        "cohort_shard",
        "ingest",
        "inventory",
        "stain_profiles",
        "glomerulus_crops",
        "im_crops",
        "tem_tiles",
    )
    assert plan == dict.fromkeys(once, 1)
    whole = own.planned()
    assert {name: whole[name] for name in once} == plan
    assert whole["features"] == 9
    own.snakemake("--", *targets())
    shard = shard_of("new", 3)
    inventory = pd.read_parquet(own.folder / f"results/own/inventory/{shard:04d}.parquet")
    assert inventory.set_index("patient").loc["new", "status"] == "ok"
    assert own.planned("--", *targets()) == {}
