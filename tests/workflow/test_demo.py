"""The default run, end to end, at a small size: what comes out, and what reruns."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.files import read_json

pytestmark = pytest.mark.workflow


def results(demo) -> Path:
    return demo.folder / "results"


def touch_up(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} no longer contains {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def copy(demo, tmp_path):
    """A copy of the finished run, with its times, that a test may change."""
    folder = tmp_path / "glomflow"
    shutil.copytree(demo.folder, folder, symlinks=True)
    return type(demo)(folder, demo.configfiles)


def test_report_is_one_page_without_requests(demo) -> None:
    page = (results(demo) / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert not re.findall(r'(?:src|href)="https?://[^"]+\.(?:js|css|png|svg)"', page)


def test_bad_files_become_rows_with_a_reason(demo) -> None:
    truth = read_json(results(demo) / "phantom" / "phantom.json")
    inventory = pd.read_parquet(results(demo) / "inventory.parquet").set_index("path")
    assert len(truth["damaged"]) == 2
    for path in truth["damaged"]:
        assert inventory.loc[path, "status"] == "unreadable"
        assert Path(path).name in inventory.loc[path, "reason"]
    others = inventory.drop(index=list(truth["damaged"]))
    assert set(others["status"]) == {"ok"}


def test_every_eligible_patient_is_predicted_exactly_once(demo) -> None:
    patients = set(pd.read_parquet(results(demo) / "cohort" / "patients.parquet")["patient"])
    excluded = set(pd.read_parquet(results(demo) / "folds" / "excluded.parquet")["patient"])
    for model in (results(demo) / "predictions").iterdir():
        frames = [pd.read_parquet(path) for path in sorted(model.glob("*.parquet"))]
        predicted = pd.concat(frames)
        assert sorted(predicted["patient"]) == sorted(patients - excluded)
        columns = [column for column in predicted if column.startswith("p_")]
        np.testing.assert_allclose(predicted[columns].sum(axis=1), 1.0, atol=1e-6)


def test_training_is_given_no_test_patient(demo) -> None:
    folds = pd.read_parquet(results(demo) / "folds" / "folds.parquet")
    for fold in range(3):
        train = pd.read_parquet(results(demo) / "folds" / f"fold{fold}.train.parquet")
        test = pd.read_parquet(results(demo) / "folds" / f"fold{fold}.test.parquet")
        assert not set(train["patient"]) & set(test["patient"])
        assert list(test.columns) == ["patient"]
        held_out = folds[(folds["fold"] == fold) & (folds["split"] == "test")]["patient"]
        assert set(held_out) == set(test["patient"])


def test_no_slide_or_file_crosses_a_split(demo) -> None:
    folds = pd.read_parquet(results(demo) / "folds" / "folds.parquet")
    inventory = pd.read_parquet(results(demo) / "inventory.parquet")
    rows = folds.merge(inventory[inventory["status"] == "ok"], on="patient")
    for column in ("patient", "slide", "sha256"):
        assert (rows.groupby(["fold", column])["split"].nunique() == 1).all()


def test_stores_and_indices_agree(demo) -> None:
    for modality, channels in (("om", 3), ("im", 3), ("tem", 1)):
        for shard in ("0000", "0001"):
            crops = np.load(results(demo) / "crops" / modality / f"{shard}.npy", mmap_mode="r")
            index = pd.read_parquet(results(demo) / "crops" / modality / f"{shard}.parquet")
            features = np.load(results(demo) / "features" / modality / f"{shard}.npy", mmap_mode="r")
            assert crops.shape == (len(index), 224, 224, channels)
            assert crops.dtype == np.uint8
            assert features.shape == (len(index), 7, 7, 320)


def test_logs_hold_what_jobs_printed(demo) -> None:
    log = (results(demo) / "logs" / "folds.log").read_text(encoding="utf-8")
    assert "patients in 3 folds, digest" in log


def test_second_run_does_nothing(demo) -> None:
    assert demo.planned() == {}


def test_single_output_can_be_asked_for(copy) -> None:
    target = "results/crops/im/0001.parquet"
    (copy.folder / target).unlink()
    assert copy.planned("--", target) == {"im_crops": 1}
    copy.snakemake("--", target)
    assert (copy.folder / target).exists()


def test_forced_rule_reruns_with_what_follows(copy) -> None:
    plan = copy.planned("-R", "folds")
    assert plan["folds"] == 1
    assert plan["train_frozen"] == 3
    assert "ingest" not in plan
    assert "features" not in plan


def test_editing_the_loss_retrains_and_reads_no_image(copy) -> None:
    touch_up(
        copy.folder / "src/glomflow/models/losses.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\n\nREVISION = 2\n",
    )
    plan = copy.planned()
    assert plan["train_frozen"] == 3
    assert not {"ingest", "stain_profiles", "glomerulus_crops", "tem_tiles", "features", "cohort"} & set(plan)


def test_editing_a_comment_reruns_nothing(copy) -> None:
    path = copy.folder / "src/glomflow/models/losses.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n# a remark\n", encoding="utf-8")
    assert copy.planned() == {}


def test_changed_image_redoes_its_shard_and_what_follows(copy) -> None:
    images = pd.read_parquet(copy.folder / "results/cohort/images/0000.parquet")
    tem = images[images["modality"] == "TEM"]["path"].tolist()
    folder = copy.folder / "results/phantom"
    damaged = read_json(folder / "phantom.json")["damaged"]
    first, second = [path for path in tem if path not in damaged][:2]
    shutil.copyfile(folder / second, folder / first)
    os.utime(folder / first)
    with (folder / first).open("ab") as handle:
        handle.write(b"\0" * 16)
    plan = copy.planned()
    assert plan["ingest"] == 1
    assert plan["tem_tiles"] == 1
    assert plan["train_frozen"] == 3
    assert not {"cohort", "phantom_images"} & set(plan)
    copy.snakemake()
    assert copy.planned() == {}


def test_changed_loss_weight_retrains_only(copy) -> None:
    touch_up(copy.folder / "config.yaml", "OM: 0.3", "OM: 0.4")
    plan = copy.planned()
    assert plan["train_frozen"] == 3
    assert not {"ingest", "features", "folds"} & set(plan)


def test_snakemake_report_picks_up_the_figures(demo, tmp_path) -> None:
    demo.snakemake("--report", str(tmp_path / "snakemake.zip"))
    assert (tmp_path / "snakemake.zip").stat().st_size > 10_000


def test_strict_run_stops_at_a_bad_image(copy) -> None:
    touch_up(copy.folder / "config.yaml", "strict: false", "strict: true")
    done = copy.snakemake("--", "results/inventory.parquet", check=False)
    assert done.returncode != 0
    damaged = read_json(copy.folder / "results/phantom/phantom.json")["damaged"]
    assert any(path in done.stdout for path in damaged), done.stdout
    assert "run.strict" in done.stdout


def test_adapted_models_share_the_draws_of_the_other_methods(demo) -> None:
    folder = results(demo) / "few_shot"
    draws = pd.read_parquet(folder / "draws.parquet")
    expected = draws[draws["split"] == "test"].groupby("run")["crop"].agg(set)
    parts = [pd.read_parquet(path) for path in sorted((folder / "predictions").glob("*.parquet"))]
    rows = pd.concat(parts)
    assert set(rows["method"]) == {"linear_probe", "colour_texture", "zero_shot", "clap", "lora"}
    assert rows.loc[rows["method"] == "zero_shot", "shots"].unique().tolist() == [0]
    for (_, _, run), own in rows.groupby(["method", "shots", "run"]):
        assert sorted(own["crop"]) == sorted(expected[run])
    epochs = pd.concat(pd.read_parquet(path) for path in (folder / "geometry").glob("*.parquet"))
    assert epochs.loc[epochs["method"] == "lora", "epochs"].eq(2).all()


def test_patches_of_test_glomeruli_are_compared_with_texts(demo) -> None:
    folder = results(demo) / "vlm/phantom"
    maps = np.load(folder / "similarity.npy", allow_pickle=False)
    rows, said = pd.read_parquet(folder / "similarity.parquet"), read_json(folder / "similarity.json")
    assert maps.shape == (len(rows), 5, 6, 6)
    assert said == {"backbone": "phantom", "remark": "", "glomeruli": len(rows), "grid": [6, 6]}
    draws = pd.read_parquet(results(demo) / "few_shot/draws.parquet")
    tested = draws[(draws["run"] == 0) & (draws["split"] == "test")]
    assert set(rows["crop"]) <= set(tested["crop"])
    page = (results(demo) / "report.html").read_text(encoding="utf-8")
    assert "phantom is frozen, as for zero-shot classification; it cuts an image into 6 × 6 patches." in page
    assert "Recall of each class" in page


def test_editing_a_prompt_set_adapts_again_and_trains_nothing_else(copy) -> None:
    plan = copy.planned("--config", "vlm={labels: {templates: ['{}', 'A picture of {}']}}")
    assert (plan["few_shot_adapted"], plan["vlm_similarity_maps"]) == (2, 1)
    kept = {"pretrain_vlm", "vlm_features", "train_frozen", "glomerulus_crops", "features", "few_shot_draws"}
    assert not kept & set(plan)
