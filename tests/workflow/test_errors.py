"""What a user sees who gets something wrong."""

import pandas as pd
import pytest

from workflow.conftest import Project, copy_project

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(copy_project(tmp_path_factory.mktemp("errors") / "glomflow"), [])


def test_unknown_key_is_reported_with_the_right_one(project) -> None:
    done = project.snakemake("--dry-run", "--config", "imaging={stain: {methd: none}}", check=False)
    assert done.returncode != 0
    assert "imaging.stain.methd" in done.stdout
    assert "method" in done.stdout
    assert "Traceback" not in done.stdout


def test_sheet_problems_are_listed_at_once(project) -> None:
    folder = project.folder / "cohort"
    folder.mkdir()
    pd.DataFrame({"patient": ["a", "b"], "label": ["MN", "Mn"], "site": ["x", "x"]}).to_csv(
        folder / "patients.csv", index=False
    )
    pd.DataFrame({"patient": ["a", "c"], "modality": ["OM", "EM"], "path": ["a.png", "c.png"]}).to_csv(
        folder / "images.csv", index=False
    )
    done = project.snakemake(
        "--config",
        f"cohort={{source: sheets, folder: {folder}}}",
        "--",
        "results/cohort/images.parquet",
        check=False,
    )
    assert done.returncode != 0
    for words in ("patients.csv, row 3", "'Mn'", "images.csv, row 3", "'EM'", "a.png"):
        assert words in done.stdout, done.stdout
    assert "Traceback" not in done.stdout
    log = (project.folder / "results/logs/cohort.log").read_text(encoding="utf-8")
    assert "images.csv, row 3" in log


def test_models_of_an_own_file_replace_the_default_ones(project) -> None:
    plan = Project(project.folder, ["config/paper.yaml"]).planned()
    assert plan["train"] == 25
    assert "features" not in plan


def test_a_missing_weights_file_stops_before_any_job(project) -> None:
    done = project.snakemake(
        "--dry-run", "--config", "encoder={weights: 'file:none.safetensors'}", check=False
    )
    assert done.returncode != 0
    assert "encoder.weights: there is no file none.safetensors" in done.stdout


def test_classes_without_prompts_stop_before_any_job(project) -> None:
    done = project.snakemake(
        "--dry-run",
        "--config",
        "run={tracks: [glomeruli]}",
        "few_shot={classes: [normal, torn], adapted: {zero: {method: zero_shot}}}",
        check=False,
    )
    assert done.returncode != 0
    assert "vlm.labels: the class torn of the annotations has no prompts" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_prompt_that_is_too_long_stops_the_pretraining_at_once(project) -> None:
    words = " ".join(["normal"] * 40)
    done = project.snakemake(
        "--config",
        "run={tracks: [glomeruli]}",
        f"vlm={{labels: {{classes: {{normal: {{prompts: [{words}]}}}}}}}}",
        "--",
        "results/vlm/phantom/report.json",
        check=False,
    )
    assert done.returncode != 0
    assert "phantom takes 32 tokens, it has 42; shorten it" in done.stdout
    assert not (project.folder / "results/vlm/phantom/report.json").exists()


def test_a_missing_cohort_folder_stops_before_any_job(project) -> None:
    done = project.snakemake("--dry-run", "--config", "cohort={source: sheets, folder: nowhere}", check=False)
    assert done.returncode != 0
    assert "there is no folder" in done.stdout
    assert "nowhere" in done.stdout
