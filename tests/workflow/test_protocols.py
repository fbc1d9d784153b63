"""Protocols and models that the default run leaves out, through the workflow: one set of images serves all.

The first run goes to the report; the others start from a copy of it, so that they train and predict only.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.files import read_json
from workflow.conftest import Project, copy_project

pytestmark = pytest.mark.workflow

IMAGES = """
run: {tracks: [diagnosis], shards: 2}
phantom: {patients: 27, glomeruli: [4, 5], tem_images: [3, 4], missing_modality: 2, damaged_files: 0}
evaluation: {bootstrap: 100}
"""
STUDY = """
folds: {n_splits: 2}
diagnosis:
  models:
    cmus_net: {smil: {variant: sum}}
    tem_only: {modalities: [TEM], smil: {variant: sum}}
    stage_ordinal: {task: stage, ordinal: true, modalities: [IM, TEM]}
    stage_plain: {task: stage, modalities: [IM, TEM]}
  training: {epochs: 2}
  explanations: {enabled: true, steps: 4, examples: 2}
"""
"""The diagnosis and the stage, and explanations."""

ONE_MODEL = "models: {cmus_net: {smil: {variant: sum}}}"
SITES = f"""
folds: {{protocol: leave_one_site_out}}
diagnosis: {{{ONE_MODEL}, training: {{epochs: 1}}}}
"""
PUBLISHED = f"""
folds: {{protocol: published, n_splits: 2}}
diagnosis: {{{ONE_MODEL}, training: {{epochs: 1, selection: last}}}}
"""
REPEATED = f"""
folds: {{n_splits: 2, repeats: 2}}
diagnosis: {{{ONE_MODEL}, training: {{epochs: 1, seeds: [0, 1]}}}}
"""
SEARCHED = """
folds: {n_splits: 2}
diagnosis:
  models: {cmus_net: {smil: {variant: distance}}, logistic_regression: {kind: logistic_regression}}
  training: {epochs: 1}
  search: {trials: 2, inner_splits: 2, learning_rate: [0.0001, 0.001], hidden: [16, 32]}
"""
EVERY_KIND = """
folds: {n_splits: 2}
diagnosis:
  models:
    cmus_net: {smil: {variant: sum}}
    late_fusion: {kind: late_fusion, smil: {variant: top_k}}
    concatenation: {kind: concatenation, smil: {variant: abmil}}
    gated_unit: {kind: gated_unit, smil: {variant: gated_abmil}}
    coattention: {kind: coattention}
    mmformer: {kind: mmformer, smil: {variant: sparsemax}}
    mdl_iia: {kind: mdl_iia, smil: {variant: transmil}}
    logistic_regression: {kind: logistic_regression}
    gradient_boosting: {kind: gradient_boosting}
    robust: {absent: learned, modality_dropout: 0.2, loss: {weighting: uncertainty}}
  training: {epochs: 1}
"""
TRAINED_ENCODER = """
folds: {n_splits: 2}
encoders: {small: {name: test_resnet, weights: random, trainable: all}}
diagnosis:
  models:
    cmus_net: {smil: {variant: sum}}
    trained: {modalities: [OM, TEM], encoders: {OM: small, TEM: small}, smil: {variant: sum}}
  training: {epochs: 1}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Both tasks with explanations, finished."""
    folder = copy_project(tmp_path_factory.mktemp("study") / "glomflow")
    (folder / "study.yaml").write_text(IMAGES + STUDY, encoding="utf-8")
    project = Project(folder, ["study.yaml"])
    project.snakemake()
    return project


@pytest.fixture
def run(study, tmp_path):
    """Runs a protocol up to its targets, over the images and features of the first run."""

    def finished(text: str, *targets: str) -> Path:
        folder = tmp_path / "glomflow"
        shutil.copytree(study.folder, folder, symlinks=True)
        results = folder / "results"
        for name in ("models", "predictions", "instances", "metrics", "subsets", "folds", "explanations"):
            shutil.rmtree(results / name)
        (folder / "protocol.yaml").write_text(IMAGES + text, encoding="utf-8")
        project = Project(folder, ["protocol.yaml"])
        plan = project.planned("--", *targets)
        assert not {"phantom_images", "ingest", "glomerulus_crops", "tem_tiles", "features"} & set(plan)
        project.snakemake("--", *targets)
        return results

    return finished


def predictions_of(results: Path, model: str) -> pd.DataFrame:
    frames = [pd.read_parquet(path) for path in sorted((results / "predictions" / model).glob("*.parquet"))]
    return pd.concat(frames, ignore_index=True)


def eligible(results: Path) -> list[str]:
    patients = set(pd.read_parquet(results / "cohort/patients.parquet")["patient"])
    return sorted(patients - set(pd.read_parquet(results / "folds/excluded.parquet")["patient"]))


def test_the_page_has_a_section_per_task_and_on_what_predictions_rest_on(study) -> None:
    page = (study.folder / "results/report.html").read_text(encoding="utf-8")
    for title in (
        "What the predictions rest on",
        "Stages of membranous nephropathy",
        "When modalities are missing",
        "Models compared",
    ):
        assert title in page, title
    assert study.planned() == {}


def test_every_explained_patient_has_contributions_and_maps(study) -> None:
    results = study.folder / "results"
    folder = results / "explanations/cmus_net"
    rows = pd.concat(pd.read_parquet(path) for path in folder.glob("*.contributions.parquet"))
    assert sorted(rows["patient"].unique()) == eligible(results)
    for fold in range(2):
        maps = np.load(folder / f"fold{fold}_seed0.npy")
        assert len(maps) == len(pd.read_parquet(folder / f"fold{fold}_seed0.parquet")) > 0
    checks = pd.read_parquet(results / "explanations/checks.parquet")
    assert set(checks["check"]) >= {"localisation", "faithfulness", "randomised", "additivity"}
    assert not (results / "explanations/tem_only").exists()


def test_stages_are_predicted_for_the_patients_who_have_one(study) -> None:
    results = study.folder / "results"
    patients = pd.read_parquet(results / "cohort/patients.parquet")
    staged = set(patients.loc[patients["stage"].notna(), "patient"]) & set(eligible(results))
    for model in ("stage_ordinal", "stage_plain"):
        predicted = predictions_of(results, model)
        assert sorted(predicted["patient"]) == sorted(staged)
        columns = [column for column in predicted if column.startswith("p_")]
        assert columns == ["p_I", "p_II", "p_III"]
        np.testing.assert_allclose(predicted[columns].sum(axis=1), 1.0, atol=1e-6)
    metrics = pd.read_parquet(results / "metrics/stage/pooled.parquet")
    kappa = metrics[metrics["metric"] == "quadratic_kappa"]
    assert set(kappa["model"]) == {"stage_ordinal", "stage_plain"}
    disease = pd.read_parquet(results / "metrics/disease/pooled.parquet")
    assert "quadratic_kappa" not in set(disease["metric"])


def test_every_site_is_left_out_once(run) -> None:
    results = run(SITES, "results/metrics/disease/pooled.parquet")
    site = pd.read_parquet(results / "cohort/patients.parquet").set_index("patient")["site"]
    predicted = predictions_of(results, "cmus_net")
    assert sorted(predicted["patient"]) == eligible(results)
    sites = predicted["patient"].map(site).groupby(predicted["fold"]).unique()
    assert sorted(sites.map(list)) == [["site_a"], ["site_b"], ["site_c"]]


def test_the_published_folds_have_no_validation_patients(run) -> None:
    results = run(PUBLISHED, "results/metrics/disease/pooled.parquet")
    assert set(pd.read_parquet(results / "folds/folds.parquet")["split"]) == {"train", "test"}
    assert sorted(predictions_of(results, "cmus_net")["patient"]) == eligible(results)


def test_every_repeat_and_seed_predicts_every_patient_once(run) -> None:
    results = run(REPEATED, "results/metrics/disease/pooled.parquet")
    predicted = predictions_of(results, "cmus_net")
    assert sorted(predicted["fold"].unique()) == [0, 1, 2, 3]
    replicates = predicted.groupby([predicted["fold"] // 2, "seed"])["patient"]
    assert sorted(replicates.groups) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for _, patients in replicates:
        assert sorted(patients) == eligible(results)


def test_a_search_is_made_within_each_fold_and_reported(run) -> None:
    results = run(SEARCHED, "results/report.html")
    for fold in range(2):
        trials = pd.read_parquet(results / f"search/cmus_net/fold{fold}.trials.parquet")
        assert trials["trial"].tolist() == [0, 1]
        chosen = read_json(results / f"search/cmus_net/fold{fold}.json")
        assert set(chosen["chosen"]) == {"learning_rate", "hidden"}
    assert sorted(predictions_of(results, "logistic_regression")["patient"]) == eligible(results)
    assert "Settings chosen by search" in (results / "report.html").read_text(encoding="utf-8")


def test_every_kind_of_model_is_trained_and_reported(run) -> None:
    results = run(EVERY_KIND, "results/report.html")
    metrics = pd.read_parquet(results / "metrics/disease/pooled.parquet")
    assert metrics["model"].nunique() == 10
    for model in metrics["model"].unique():
        assert sorted(predictions_of(results, model)["patient"]) == eligible(results), model
    missing = pd.read_parquet(results / "metrics/disease/missing.parquet")
    networks = set(metrics["model"]) - {"logistic_regression", "gradient_boosting"}
    assert set(missing["model"]) == networks
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "When modalities are missing" in page
    for model in metrics["model"].unique():
        assert model in page, model


def test_an_encoder_is_trained_beside_frozen_ones(run) -> None:
    metrics = "results/metrics/disease"
    results = run(TRAINED_ENCODER, f"{metrics}/missing.parquet", f"{metrics}/pooled.parquet")
    for model in ("cmus_net", "trained"):
        assert sorted(predictions_of(results, model)["patient"]) == eligible(results)
    assert not (results / "features/small").exists()
    subsets = pd.concat(pd.read_parquet(path) for path in (results / "subsets/disease").glob("*.parquet"))
    assert set(subsets["model"]) == {"cmus_net", "trained"}
