"""The second configuration, on real PAS glomeruli."""

import json

import pandas as pd
import pytest

from workflow.conftest import Project, copy_project

pytestmark = pytest.mark.workflow


ADAPTED = """
few_shot:
  adapted:
    zero_shot: {method: zero_shot}
    probe: {method: linear_probe, backbone: images}
    cache: {method: tip_adapter, backbone: stage}
  ensembles: {both: [cache, colour_texture]}
vlm:
  backbones:
    phantom: {}
    images: {library: timm}
    stage: {library: timm, stride: 16}
  labels:
    preset: null
    classes:
      global_sclerosis: {prompts: [a globally sclerotic glomerulus]}
      not_globally_sclerosed: {prompts: [a glomerulus without global sclerosis]}
  pretraining: {patients: 8, glomeruli: 10, held_out_patients: 2, epochs: 1}
"""


@pytest.fixture(scope="module")
def run(real_data, tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("real") / "glomflow")
    (folder / "adapted.yaml").write_text(ADAPTED, encoding="utf-8")
    project = Project(folder, ["config/real-glomeruli.yaml", "adapted.yaml"])
    project.snakemake("--config", f"cohort={{folder: {real_data / 'pas_glomeruli'}}}")
    return project.folder / "results/real-glomeruli"


def test_slides_never_cross(run) -> None:
    draws = pd.read_parquet(run / "few_shot/draws.parquet")
    assert draws["run"].nunique() == 10
    assert (draws.groupby(["run", "slide"])["split"].nunique() == 1).all()


def test_every_test_crop_is_predicted_once_per_run_shots_and_method(run) -> None:
    draws = pd.read_parquet(run / "few_shot/draws.parquet")
    predictions = pd.read_parquet(run / "few_shot/predictions/images.parquet")
    assert sorted(predictions["shots"].unique()) == [1, 2, 4, 8, 16]
    assert not predictions.duplicated(["method", "shots", "run", "crop"]).any()
    expected = draws[draws["split"] == "test"].groupby("run")["crop"].agg(set)
    for (_, _, number), rows in predictions.groupby(["method", "shots", "run"]):
        assert set(rows["crop"]) == expected[number]


def test_features_beat_the_chance_level_at_eight_shots(run) -> None:
    metrics = pd.read_parquet(run / "few_shot/metrics.parquet")
    row = metrics[
        (metrics["method"] == "linear_probe")
        & (metrics["shots"] == 8)
        & (metrics["metric"] == "balanced_accuracy")
    ].iloc[0]
    assert row["lower"] > 0.6


def test_report_is_written(run) -> None:
    assert "balanced accuracy" in (run / "report.html").read_text(encoding="utf-8").lower()


def test_an_image_encoder_pools_maps_or_encodes_and_needs_no_text(run) -> None:
    metrics = pd.read_parquet(run / "few_shot/metrics.parquet")
    scores = metrics[metrics["metric"] == "balanced_accuracy"].set_index(["method", "shots"])["mean"]
    assert scores["probe", 16] > 0.75
    assert scores["cache", 16] > 0.75
    assert scores["both", 16] > 0.75
    described = json.loads((run / "vlm/images/features.json").read_text())
    assert described["maps_of"] == "tf_efficientnet_lite0"
    assert json.loads((run / "vlm/stage/features.json").read_text())["dim"] == 112
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "both of Tip-Adapter (stage) and colour and texture" in page
    assert "stage is the encoder without a text tower: the map of stride 16 px" in page


def test_a_model_is_adapted_to_ready_made_crops(run) -> None:
    metrics = pd.read_parquet(run / "few_shot/metrics.parquet")
    assert metrics.loc[metrics["method"] == "zero_shot", "shots"].unique().tolist() == [0]
