"""What jobs took, from the records that Snakemake keeps."""

import math
import time
from pathlib import Path

import numpy as np
import pytest

from glomflow.costs import JOB_COSTS, job_record, read_record, write_costs
from glomflow.errors import GlomflowError
from glomflow.jobs import job as job_of_its_own
from glomflow.run_plan import write_plan
from glomflow.tables import read_table
from glomflow.usage import read_usage

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
LONG = "93784.50\t1 day, 2:03:04\t2500.25\t4e3\t1\t1\t0.1\t0.2\t98.5\t90000.75\n"


def record(path, *rows: str, head: str = HEAD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "".join(rows))
    return path


def job(number: int, rule: str, gpus: int = 0, **wildcards: str) -> dict:
    name = "_".join([rule, *wildcards.values()])
    return {
        "id": number,
        "rule": rule,
        "wildcards": wildcards,
        "outputs": [],
        "log": f"results/logs/{name}.log",
        "benchmark": f"results/benchmarks/{name}.tsv",
        "threads": 1,
        "gpus": gpus,
        "needed": False,
    }


def test_a_record(tmp_path) -> None:
    assert read_record(record(tmp_path / "a.tsv", LONG)) == (93784.5, 90000.75, 2500.25)


def test_repeats_add_up_in_time_and_not_in_memory(tmp_path) -> None:
    rows = ("10.0\t0\t100.0\t\t\t\t\t\t\t8.0\n", "12.5\t0\t90.0\t\t\t\t\t\t\t9.0\n")
    assert read_record(record(tmp_path / "a.tsv", *rows)) == (22.5, 17.0, 100.0)


@pytest.mark.parametrize("missing", ["NA", "-", ""])
def test_a_job_too_short_to_be_measured(tmp_path, missing) -> None:
    row = f"0.2\t0:00:00\t{missing}\tNA\tNA\tNA\tNA\tNA\tNA\t{missing}\n"
    seconds, cpu, memory = read_record(record(tmp_path / "a.tsv", row))
    assert seconds == 0.2
    assert math.isnan(cpu)
    assert math.isnan(memory)


def test_the_extended_format_is_read(tmp_path) -> None:
    head = HEAD.rstrip("\n") + "\tjobid\trule_name\n"
    path = record(tmp_path / "a.tsv", LONG.rstrip("\n") + "\t3\tingest\n", head=head)
    assert read_record(path)[0] == 93784.5


@pytest.mark.parametrize("text", ["", "a\tb\n1\t2\n", "s\ts2\nlong\t1\n"])
def test_a_damaged_record_is_an_error(tmp_path, text) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(text)
    with pytest.raises(GlomflowError, match=r"a\.tsv: .*delete"):
        read_record(path)


def test_costs_are_those_of_the_plan(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    jobs = [
        job(1, "train", gpus=2, model="om", fold="0", seed="0"),
        job(2, "ingest", shard="0000"),
        job(3, "report"),
    ]
    write_plan(Path("results/plan.json"), "results", jobs, [])
    record(results / "benchmarks/train_om_0_0.tsv", LONG)
    record(results / "benchmarks/report.tsv", LONG)
    record(results / "benchmarks/train_stale_0_0.tsv", LONG)
    frame = write_costs(str(results), results / "costs.parquet")
    assert frame["job"].tolist() == ["train om, fold 0, seed 0", "open images, shard 0000"]
    assert frame["stage"].tolist() == ["training", "images"]
    assert frame["gpus"].tolist() == [2, 0]
    np.testing.assert_array_equal(frame["seconds"], [93784.5, np.nan])
    written = read_table(results / "costs.parquet", JOB_COSTS)
    assert written.to_dict("list")["record"] == frame["record"].tolist()


def test_without_a_plan_there_are_no_costs(tmp_path) -> None:
    assert write_costs(str(tmp_path), tmp_path / "costs.parquet").empty
    assert read_table(tmp_path / "costs.parquet", JOB_COSTS).empty


def test_what_a_job_says_of_itself_counts(tmp_path) -> None:
    log = tmp_path / "logs" / "train" / "om.v2.log"
    log.parent.mkdir(parents=True)
    with job_of_its_own(log):
        deadline = time.process_time() + 0.3
        while time.process_time() < deadline:
            pass
    seconds, memory = read_usage(log)
    assert 0.3 <= seconds < 3600
    assert 10 < memory < 1e5
    record(tmp_path / "benchmarks" / "train" / "om.v2.tsv", "0.4\t0:00:00\tNA\t" + "NA\t" * 6 + "NA\n")
    assert job_record(tmp_path, "benchmarks/train/om.v2.tsv") == (0.4, seconds, memory)
    record(tmp_path / "benchmarks" / "train" / "om.v2.tsv", LONG.replace("2500.25", "250000.25"))
    assert job_record(tmp_path, "benchmarks/train/om.v2.tsv") == (93784.5, seconds, 250000.25)


def test_a_job_that_failed_or_an_old_log_says_nothing(tmp_path) -> None:
    with pytest.raises(SystemExit), job_of_its_own(tmp_path / "a.log"):
        raise GlomflowError("no such slide")
    assert "used" not in (tmp_path / "a.log").read_text()
    assert read_usage(tmp_path / "a.log") is None
    assert read_usage(tmp_path / "absent.log") is None
    record(tmp_path / "benchmarks" / "a.tsv", LONG)
    assert job_record(tmp_path, "benchmarks/a.tsv") == (93784.5, 90000.75, 2500.25)
