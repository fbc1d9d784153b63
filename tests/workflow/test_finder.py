"""The workflow with the glomerulus finder, and with colours that are fitted per fold."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow.conftest import Project, copy_project

pytestmark = pytest.mark.workflow


def _table(project: Project, pattern: str) -> pd.DataFrame:
    files = sorted((project.folder / "results").glob(pattern))
    assert files, pattern
    return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(
        copy_project(tmp_path_factory.mktemp("finder") / "glomflow"), ["small.yaml", "finder.yaml"]
    )
    shutil.copy2(Path(__file__).with_name("finder.yaml"), project.folder)
    project.snakemake()
    return project


def test_annotated_fields_are_searched_by_the_finder_that_has_not_seen_their_patient(run) -> None:
    searched = _table(run, "finder/searched/*.parquet")
    assert not searched["image"].duplicated().any()
    sheet = pd.read_csv(run.folder / "results/phantom/images.csv")
    fields = sheet[sheet["modality"] == "OM"]
    assert len(searched) == len(fields)
    assert (searched["fold"] == "all").sum() == fields["annotation"].isna().sum() == 3
    for fold, group in searched[searched["fold"] != "all"].groupby("fold"):
        learned = pd.read_parquet(run.folder / f"results/finder/training/{fold}.parquet")
        assert not set(group["patient"]) & set(learned["patient"])
        assert not set(group["slide"]) & set(learned["slide"])


def test_found_glomeruli_become_crops(run) -> None:
    searched, found = _table(run, "finder/searched/*.parquet"), _table(run, "finder/found/*.parquet")
    crops = _table(run, "crops/om/*.parquet")
    for image in searched.loc[searched["fold"] == "all", "image"]:
        assert (crops["image"] == image).sum() == (found["image"] == image).sum() > 0
    for image in searched.loc[searched["fold"] != "all", "image"]:
        path = run.folder / "results/phantom" / (image.replace("__", "/") + ".geojson")
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        assert (crops["image"] == image).sum() == len(features)


def test_the_finder_finds_what_was_drawn(run) -> None:
    metrics = _table(run, "finder/metrics/metrics.parquet").set_index(["fold", "metric"])["value"]
    assert metrics["pooled", "ap50"] > 0.7
    assert metrics["pooled", "dice"] > 0.6


def test_colours_of_a_fold_rest_on_its_training_patients(run) -> None:
    results = run.folder / "results"
    profiles = _table(run, "stain/0*.parquet").set_index("slide")
    images = _table(run, "cohort/images.parquet")
    for fold in range(3):
        table = pd.read_parquet(results / f"folds/fold{fold}.train.parquet")
        train = set(table.loc[table["split"] == "train", "patient"])
        slides = images.loc[(images["modality"] == "OM") & images["patient"].isin(train), "slide"].unique()
        backgrounds = [json.loads(profiles.loc[slide, "background"]) for slide in slides]
        target = pd.read_parquet(results / f"stain/targets_fold{fold}.parquet").set_index("slide")
        np.testing.assert_allclose(
            json.loads(target.loc["PAS", "background"]), np.median(backgrounds, axis=0), atol=1e-6
        )


def test_models_read_the_crops_of_their_fold(run) -> None:
    crops = [
        np.load(run.folder / f"results/crops/{name}/0000.npy") for name in ("om", "om_fold0", "om_fold1")
    ]
    assert len({array.shape for array in crops}) == 1
    assert (crops[0] != crops[1]).any()
    assert (crops[1] != crops[2]).any()
    assert sorted(path.name for path in (run.folder / "results/features").iterdir()) == [
        "im_fold0", "im_fold1", "im_fold2", "om_fold0", "om_fold1", "om_fold2", "tem",
    ]  # fmt: skip


def test_the_report_tells_of_the_finder(run) -> None:
    page = (run.folder / "results/report.html").read_text(encoding="utf-8")
    assert "Glomerulus finder" in page
    assert "of each fold's training patients" in page.replace("&#39;", "'").replace("\u2019", "'")


def test_second_run_does_nothing(run) -> None:
    assert run.planned() == {}
