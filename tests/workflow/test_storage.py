"""Cohorts and results that lie elsewhere: addresses of files, a mounted folder, a bucket."""

import functools
import hashlib
import http.server
import os
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest

from glomflow.cohort.sheets import shard_of
from glomflow.costs import write_costs
from glomflow.files import read_json, write_json
from glomflow.status import read_status
from glomflow.tables import INVENTORY, read_table
from workflow.conftest import Project
from workflow.storage_service import (
    NO_SHARED_DATA,
    SECRET,
    WITHOUT_S3,
    s3_client,
    s3_service,
    s3_variables,
    small_cohort,
    storage_project,
    upload,
)

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """A phantom's files."""
    return small_cohort(tmp_path_factory.mktemp("storage") / "cohort")


@pytest.fixture
def project(tmp_path, cohort) -> Project:
    return storage_project(tmp_path / "glomflow", cohort)


def digest_in(folder: Path):
    return lambda path: hashlib.sha256((folder / path).read_bytes()).hexdigest()


def nothing_to_do(project: Project, *arguments: str) -> bool:
    return "Nothing to be done" in project.snakemake(*arguments).stdout


def assert_all_done(results: str) -> None:
    """The state of the run can be read where its results lie."""
    told = read_status(results)
    assert told["state"] == "done"
    assert not told["copy"]
    assert told["jobs"]["done"] == sum(told["jobs"].values()) > 0
    assert told["images"]["complete"]


def assert_costs_told(results: str, scratch: Path) -> None:
    """What the run's jobs took can be read where their results lie."""
    costs = write_costs(results, scratch / "costs.parquet")
    assert set(costs["rule"]) > {"cohort", "ingest", "inventory", "figures_images"}
    assert (costs["seconds"] > 0).all()
    assert (costs["cpu_seconds"] > 0.1).all()
    assert (costs["memory_mb"] > 10).all()


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on the loopback interface and counts what is fetched from it."""

    def __init__(self, folder: Path) -> None:
        self.fetched: list[str] = []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.fetched.append(self.path)
        super().do_GET()

    def log_message(self, *arguments) -> None:
        pass


def test_images_are_fetched_by_address_once(project, cohort) -> None:
    server, folder = Server(cohort), project.folder / "cohort"
    images = pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False)
    public = images["modality"] == "TEM"
    far = images.loc[public, "path"]
    images["url"] = (server.address + "/" + far).reindex(images.index, fill_value="")
    images["sha256"] = far.map(digest_in(cohort)).reindex(images.index, fill_value="")
    images.to_csv(folder / "images.csv", index=False)
    shutil.rmtree(folder / "TEM")
    target = ("--", "results/inventory.parquet")
    offline = project.snakemake("--dry-run", *target, check=False)
    assert offline.returncode != 0
    told = f"run.offline is true, and {public.sum()} files of images.csv are still to be fetched"
    assert told in offline.stdout
    assert server.address in offline.stdout

    wrong, row = images.copy(), images.index[public][0]
    wrong.loc[row, "sha256"] = "0" * 64
    wrong.to_csv(folder / "images.csv", index=False)
    online = ("--config", "run={offline: false}")
    refused = project.snakemake(*online, "--keep-going", *target, check=False)
    assert refused.returncode != 0
    assert f"images.csv, row {row + 2}, column 'sha256', value '{'0' * 64}'" in refused.stdout
    assert not (folder / images.loc[row, "path"]).exists()
    assert not (project.folder / "results/inventory.parquet").exists()

    images.to_csv(folder / "images.csv", index=False)
    project.snakemake(*online, *target)
    inventory = read_table(project.folder / "results/inventory.parquet", INVENTORY)
    assert (inventory["status"] == "ok").all()
    digests = inventory.set_index("path")["sha256"]
    assert digests[images.loc[public, "path"]].tolist() == images.loc[public, "sha256"].tolist()
    paths = [f"/{path}" for path in images.loc[public, "path"]]
    refused_path = f"/{images.loc[row, 'path']}"
    assert sorted(server.fetched) == sorted([*paths, refused_path])
    assert not list((project.folder / ".snakemake/storage").rglob("*.tif"))

    server.shutdown()
    server.server_close()
    assert nothing_to_do(project, *target)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync")
def test_results_on_a_mounted_folder(project, tmp_path) -> None:
    storage = ("--default-storage-provider", "fs", "--default-storage-prefix", str(tmp_path / "mounted"))
    target = (
        *NO_SHARED_DATA,
        *storage,
        "--",
        "results/inventory.parquet",
        "results/figures/worst_images.png",
    )
    project.snakemake(*target)
    inventory = read_table(tmp_path / "mounted/results/inventory.parquet", INVENTORY)
    assert (inventory["status"] == "ok").all()
    assert not list((project.folder / "results").rglob("*.parquet"))
    assert_all_done(str(tmp_path / "mounted/results"))
    assert_costs_told(str(tmp_path / "mounted/results"), tmp_path)
    assert nothing_to_do(project, *target)
    image = project.folder / "cohort" / inventory["path"].iloc[0]
    os.utime(image)
    assert project.planned(*target)["ingest"] == 1


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An S3 service on the loopback interface, and a client of it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with s3_service(tmp_path / "moto.log") as address:
        for name, value in s3_variables(address).items():
            monkeypatch.setenv(name, value)
        client = s3_client(address)
        client.create_bucket(Bucket="hospital")
        yield client


@pytest.mark.skipif(WITHOUT_S3, reason="needs glomflow[s3] and moto")
def test_cohort_and_results_in_a_bucket(project, bucket, tmp_path, monkeypatch) -> None:
    upload(bucket, project.folder / "cohort", "hospital")
    shutil.rmtree(project.folder / "cohort")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    storage = ("--default-storage-provider", "s3", "--default-storage-prefix", "s3://results/run")
    config = ("--config", "cohort={folder: 's3://hospital/cohort/'}")
    stores = [f"results/crops/{name}/{shard:04d}.npy" for name in ("om", "im", "tem") for shard in range(2)]
    names = (*stores, "results/figures/stain_panels.png", "results/folds/folds.parquet")
    target = (*config, *NO_SHARED_DATA, *storage, "--", *names)
    project.snakemake(*target)
    listed = bucket.list_objects_v2(Bucket="results", Prefix="run/results/")["Contents"]
    assert {f"run/{name}" for name in names} <= {entry["Key"] for entry in listed}
    bucket.download_file("results", "run/results/inventory.parquet", str(tmp_path / "inventory.parquet"))
    inventory = read_table(tmp_path / "inventory.parquet", INVENTORY)
    assert (inventory["status"] == "ok").all()
    assert inventory["patient"].nunique() == 9
    assert_all_done("s3://results/run/results")
    assert_costs_told("s3://results/run/results", tmp_path)

    left = [path for path in project.folder.rglob("*") if path.is_file()]
    assert not [path for path in left if SECRET.encode() in path.read_bytes()]
    assert not [path for path in left if path.suffix in (".tif", ".npy", ".parquet")]
    assert list(scratch.iterdir()) == []

    # A job of a cluster reads the workflow anew; it takes the listing that is passed on to it.
    listing = project.folder / ".snakemake/glomflow-bucket.json"
    listed = read_json(listing)
    assert set(inventory["path"]) < set(listed["objects"])
    passed_on = {name: [1, "other"] for name in listed["objects"]}
    write_json(listing, {"address": "s3://hospital/cohort", "objects": passed_on})
    assert "ingest" in project.planned("--mode", "remote", *target)
    assert nothing_to_do(project, *target)
    assert read_json(listing) == listed
    image = inventory[inventory["modality"] == "TEM"].iloc[0]
    other = inventory[(inventory["modality"] == "TEM") & (inventory["patient"] != image["patient"])].iloc[0]
    copied = bucket.get_object(Bucket="hospital", Key=f"cohort/{other['path']}")["Body"].read() + b"\0"
    bucket.put_object(Bucket="hospital", Key=f"cohort/{image['path']}", Body=copied)
    plan = project.planned(*target)
    assert plan["ingest"] == plan["tem_tiles"] == 1
    assert shard_of(image["patient"], 2) == image["shard"]

    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    refused = project.snakemake("--dry-run", *config, check=False)
    assert "s3://hospital/cohort" in refused.stdout
    assert "SNAKEMAKE_STORAGE_S3_ACCESS_KEY" in refused.stdout
    assert "Traceback" not in refused.stdout
