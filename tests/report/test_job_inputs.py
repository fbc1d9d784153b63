"""A report job's named inputs."""

from pathlib import Path

import pytest

from glomflow.report.job_inputs import inputs_from_files


def test_files_are_named_by_what_they_are() -> None:
    inputs = inputs_from_files(
        {
            "patients": "c/patients.parquet",
            "om_crops": ["0.npy", "1.npy"],
            "om_index": ["0.parquet", "1.parquet"],
            "metrics_disease": ["m/models.parquet", "m/summary.json"],
            "metrics_stage": ["s/models.parquet"],
            "missing_stage": "s/missing.parquet",
            "searches": ["a.json", "b.json"],
            "few_shot": ["f/metrics.parquet"],
            "histories": ["h0", "h1"],
            "figures": ["figures/ablation.svg", "figures/crops_om.png"],
            "deposit_tiles": [],
        },
        [("cmus_net", 0, 5), ("cmus_net", 1, 5)],
        cohort_folder=Path("cohort"),
    )
    assert inputs.patients == Path("c/patients.parquet")
    assert inputs.om_store == [(Path("0.npy"), Path("0.parquet")), (Path("1.npy"), Path("1.parquet"))]
    assert inputs.im_store == []
    assert inputs.summary_dir == Path("m")
    assert inputs.stage_dir == Path("s")
    assert inputs.missing == {"stage": Path("s/missing.parquet")}
    assert inputs.searches == [Path("a.json"), Path("b.json")]
    assert inputs.trained == ()
    assert inputs.few_shot_dir == Path("f")
    assert inputs.histories == [("cmus_net", 0, 5, Path("h0")), ("cmus_net", 1, 5, Path("h1"))]
    assert set(inputs.figures) == {"ablation", "crops_om"}
    assert inputs.deposit_tiles is None
    assert inputs.cohort_folder == Path("cohort")


def test_histories_need_a_run_each() -> None:
    with pytest.raises(ValueError, match="longer"):
        inputs_from_files({"histories": ["h0", "h1"]}, [("cmus_net", 0, 0)])
