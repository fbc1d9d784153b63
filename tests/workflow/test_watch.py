"""How far a run is and what it took, told from a run of the workflow's own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from glomflow.costs import JOB_COSTS
from glomflow.files import read_json
from glomflow.run_plan import read_plan
from glomflow.status import read_status, status_text
from glomflow.tables import read_table

pytestmark = pytest.mark.workflow


@pytest.fixture
def copy(demo, tmp_path):
    """A copy of the finished run, with its times, that a test may change."""
    folder = tmp_path / "glomflow"
    shutil.copytree(demo.folder, folder, symlinks=True)
    return type(demo)(folder, demo.configfiles)


def test_a_finished_run_is_done(demo) -> None:
    status = read_status(demo.folder / "results")
    assert status["state"] == "done"
    assert not status["copy"]
    planned = read_plan(demo.folder / "results").jobs
    assert status["jobs"] == {"done": len(planned), "running": 0, "failed": 0, "interrupted": 0, "to do": 0}
    truth = read_json(demo.folder / "results/phantom/phantom.json")
    assert status["images"]["by_status"] == {"unreadable": len(truth["damaged"])}
    assert status["patients"]["patients"] == 18


def test_the_plan_holds_every_record_and_every_log(demo) -> None:
    results = demo.folder / "results"
    jobs = read_plan(results).jobs
    for folder, named in (
        ("benchmarks", [job.benchmark for job in jobs]),
        ("logs", [job.log for job in jobs]),
    ):
        there = {str(path.relative_to(results)) for path in (results / folder).rglob("*") if path.is_file()}
        assert there == set(named)
    assert all((results / path).exists() for job in jobs for path in job.outputs)


def test_costs_are_of_every_job_but_the_report(demo) -> None:
    results = demo.folder / "results"
    costs = read_table(results / "costs.parquet", JOB_COSTS)
    jobs = [job for job in read_plan(results).jobs if job.rule != "report"]
    assert costs["record"].tolist() == [job.benchmark for job in jobs]
    assert costs["seconds"].notna().all()
    for record, seconds in zip(costs["record"], costs["seconds"], strict=True):
        assert pd.read_csv(results / record, sep="\t", na_values="-")["s"].sum() == pytest.approx(seconds)
    adapted = costs[costs["rule"] == "few_shot_adapted"]
    assert adapted["gpus"].tolist() == [1] * len(adapted)
    assert costs.loc[costs["rule"] == "train_frozen", "gpus"].tolist() == [0, 0, 0]
    assert "Time and memory" in (results / "report.html").read_text(encoding="utf-8")


def test_a_lost_record_repeats_nothing_and_is_told(copy) -> None:
    (copy.folder / "results/benchmarks/train/fold1.tsv").unlink()
    assert copy.planned() == {}
    assert copy.planned("-R", "report")["report"] == 1
    copy.snakemake("-R", "report")
    costs = read_table(copy.folder / "results/costs.parquet", JOB_COSTS).set_index("record")
    assert costs["seconds"].isna().sum() == 1
    assert pd.isna(costs.loc["benchmarks/train/fold1.tsv", "seconds"])
    page = (copy.folder / "results/report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "1 job has no record and has no part in the sums." in page
    assert copy.planned() == {}


def test_a_dry_run_leaves_the_plan(copy) -> None:
    before = (copy.folder / "results/plan.json").read_bytes()
    copy.planned("-R", "folds")
    assert (copy.folder / "results/plan.json").read_bytes() == before


def test_a_failed_job_is_shown_with_its_error(copy) -> None:
    table = copy.folder / "results/cohort/patients.parquet"
    table.write_bytes(b"damaged")
    done = copy.snakemake("--", "results/folds/folds.parquet", check=False)
    assert done.returncode == 1
    status = read_status_without_tables(copy.folder / "results", table)
    assert status["state"] == "failed"
    (failed,) = status["failed"]
    assert failed["words"] == "deal the folds"
    assert any("patients.parquet: cannot be read" in line for line in failed["tail"])
    text = status_text(status)
    assert "ended, with failures" in text
    assert "  deal the folds (" in text


def read_status_without_tables(results: Path, damaged: Path) -> dict:
    """The state of a run one of whose tables is damaged, which by itself is an error."""
    damaged.unlink()
    return read_status(results)


def test_a_killed_run_is_interrupted(copy) -> None:
    results = copy.folder / "results"
    (results / "plan.json").unlink()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", *copy.configfiles]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.Popen(
        [*command, "-R", "figures_images", "--", "results/figures/crops_om.png"],
        cwd=copy.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        seen = wait_for_running(results, run)
        assert seen["state"] == "running"
        assert [one["words"] for one in seen["running"]] == ["draw images"]
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    status = read_status(results)
    assert status["state"] == "interrupted"
    assert [one["words"] for one in status["interrupted"]] == ["draw images"]
    assert status["jobs"]["done"] == len(read_plan(results).jobs) - 1


def wait_for_running(results: Path, run: subprocess.Popen) -> dict:
    """Waits until a job of a run has been started."""
    for _ in range(1200):
        assert run.poll() is None, "the run ended before a job was seen"
        if (results / "plan.json").exists():
            status = read_status(results)
            if status["running"]:
                return status
        time.sleep(0.1)
    pytest.fail("no job was started")
