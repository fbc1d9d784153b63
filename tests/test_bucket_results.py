"""Results in a bucket: how far a run is, and what its jobs took."""

import importlib.util
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from glomflow.bucket_results import outline_of, records_of
from glomflow.cli import main
from glomflow.cohort.bucket import bucket_at
from glomflow.costs import write_costs
from glomflow.files import read_json, write_json
from glomflow.run_plan import write_plan
from glomflow.status import TABLES_READ, read_status
from glomflow.tables import INVENTORY, write_table
from planned_jobs import job_fields

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("boto3", "moto")),
    reason="needs glomflow[s3] and moto",
)
ADDRESS = "s3://lab/run/results"
NAMES = ("0000", "0001", "0002", "0003")
FAILURE = "reading\nTraceback (most recent call last):\nerror: slide_3.svs: cannot be read\n"


@pytest.fixture
def lab(monkeypatch):
    """A bucket that is held in memory."""
    import boto3
    from moto import mock_aws

    for name in [name for name in os.environ if name.startswith(("AWS_", "SNAKEMAKE_STORAGE_"))]:
        monkeypatch.delenv(name)
    bucket_at.cache_clear()
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="lab")
        yield client
    bucket_at.cache_clear()


def put(lab, name: str, content: bytes | str = b"") -> None:
    lab.put_object(Bucket="lab", Key=f"run/results/{name}", Body=content)


def start(lab, tmp_path: Path, needed: bool = True, **changed: object) -> None:
    """Stores the plan of a run of four jobs."""
    jobs = [job_fields(number, name, needed, ADDRESS) for number, name in enumerate(NAMES)]
    write_plan(tmp_path / "plan.json", ADDRESS, jobs, [])
    write_json(tmp_path / "plan.json", {**read_json(tmp_path / "plan.json"), **changed})
    put(lab, "plan.json", (tmp_path / "plan.json").read_bytes())


def finish(lab, name: str) -> None:
    put(lab, f"opened/{name}.parquet", b"PAR1")
    put(lab, f"opened/thumbnails/{name}/a.webp", b"picture")
    put(lab, f"logs/ingest/{name}.log", "opened 3 images\n")
    put(lab, f"benchmarks/ingest/{name}.tsv", "s\tmax_rss\tcpu_time\n2.5\t100.0\t2.0\n")


def test_state_of_a_run_whose_results_are_in_a_bucket(lab, tmp_path) -> None:
    start(lab, tmp_path, process="0", started=time.time() - 60)
    finish(lab, "0000")
    put(lab, "logs/ingest/0001.log", FAILURE)
    # Half of its outputs are no finished job.
    put(lab, "opened/0002.parquet")
    status = read_status(ADDRESS + "/", log_lines=1)
    assert status["results"] == ADDRESS
    assert not status["copy"]
    assert status["state"] == "failed"
    assert status["jobs"] == {"done": 1, "running": 0, "failed": 1, "interrupted": 0, "to do": 2}
    (failed,) = status["failed"]
    assert failed["log"] == f"{ADDRESS}/logs/ingest/0001.log"
    assert failed["tail"] == ["error: slide_3.svs: cannot be read"]


def test_a_run_on_another_machine_may_still_run(lab, tmp_path) -> None:
    start(lab, tmp_path, host="elsewhere", started=time.time() - 60)
    finish(lab, "0000")
    assert read_status(ADDRESS)["state"] == "unknown"
    for name in NAMES:
        finish(lab, name)
    assert read_status(ADDRESS)["state"] == "done"


def test_outputs_from_before_a_run_that_redoes_them_are_to_do(lab, tmp_path) -> None:
    for name in NAMES:
        finish(lab, name)
    start(lab, tmp_path, process="0", started=time.time() + 60)
    assert read_status(ADDRESS)["jobs"]["to do"] == 4
    start(lab, tmp_path, needed=False, process="0", started=time.time() + 60)
    assert read_status(ADDRESS)["state"] == "done"


def test_results_that_were_copied_to_another_address_are_a_copy(lab, tmp_path) -> None:
    start(lab, tmp_path)
    finish(lab, "0000")
    for entry in lab.list_objects_v2(Bucket="lab")["Contents"]:
        key = entry["Key"]
        lab.copy_object(Bucket="lab", Key=f"kept/{key}", CopySource={"Bucket": "lab", "Key": key})
    status = read_status("s3://lab/kept/run/results")
    assert status["copy"]
    assert status["jobs"]["done"] == 1


def test_tables_of_what_is_left_out_are_read(lab, tmp_path) -> None:
    start(lab, tmp_path)
    blank = {"string": "", "int64": 0, "float64": float("nan")}
    row = {name: blank[column.dtype] for name, column in INVENTORY.items()}
    rows = [{**row, "status": "ok"}, {**row, "status": "missing_file", "reason": "b.tif: no such file"}]
    write_table(tmp_path / "0000.parquet", pd.DataFrame(rows), INVENTORY)
    put(lab, "inventory/0000.parquet", (tmp_path / "0000.parquet").read_bytes())
    images = read_status(ADDRESS)["images"]
    assert images["opened"] == 2
    assert images["reasons"] == ["b.tif: no such file"]
    assert not images["complete"]


def test_large_files_are_not_fetched_and_nothing_stays(lab, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    start(lab, tmp_path)
    finish(lab, "0000")
    put(lab, "crops/om/0000.npy", b"x" * 1000)
    put(lab, "empty/")
    with outline_of(ADDRESS, TABLES_READ) as folder:
        assert (folder / "crops/om/0000.npy").stat().st_size == 0
        assert (folder / "opened/0000.parquet").stat().st_size == 0
        assert (folder / "empty").is_dir()
        assert abs((folder / "opened").stat().st_mtime - time.time()) < 60
    assert list((tmp_path / "scratch").iterdir()) == []


def test_records_are_those_of_the_plan(lab, tmp_path) -> None:
    start(lab, tmp_path)
    finish(lab, "0000")
    finish(lab, "stale")
    with records_of(ADDRESS) as folder:
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert found == ["benchmarks/ingest/0000.tsv", "logs/ingest/0000.log", "plan.json"]
    costs = write_costs(ADDRESS, tmp_path / "costs.parquet")
    assert costs["seconds"].notna().tolist() == [True, False, False, False]
    assert costs["cpu_seconds"][0] == 2.0


def test_without_a_plan(lab, tmp_path, capsys) -> None:
    put(lab, "report.html")
    assert write_costs(ADDRESS, tmp_path / "costs.parquet").empty
    assert main(["status", ADDRESS]) == 1
    assert f"error: {ADDRESS}: holds no plan.json" in capsys.readouterr().err


def test_a_bucket_that_is_not_there(lab, capsys) -> None:
    assert main(["status", "s3://nobody/run/results"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: s3://nobody/run/results: ")
    assert "SNAKEMAKE_STORAGE_S3_ACCESS_KEY" in told
