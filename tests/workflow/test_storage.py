"""Cohorts and results that lie elsewhere: addresses of files, a mounted folder, a bucket."""

import functools
import hashlib
import http.server
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from glomflow.cohort.phantom import plan_phantom, write_phantom_images, write_phantom_sheets
from glomflow.cohort.sheets import shard_of
from glomflow.config import Phantom
from glomflow.costs import write_costs
from glomflow.status import read_status
from glomflow.tables import INVENTORY, read_table
from workflow.conftest import Project, copy_project

pytestmark = pytest.mark.workflow

NO_SHARED_DATA = ("--shared-fs-usage", "persistence", "software-deployment", "sources", "source-cache")
SECRET = "a-secret-that-no-file-holds"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """A phantom's files."""
    folder = tmp_path_factory.mktemp("storage") / "cohort"
    settings = Phantom(patients=9, glomeruli=(2, 2), tem_images=(2, 2), missing_modality=0, damaged_files=0)
    plan = plan_phantom(settings)
    write_phantom_sheets(plan, folder)
    write_phantom_images(plan, folder, [patient.patient for patient in plan.patients])
    shutil.rmtree(folder / "truth")
    return folder


@pytest.fixture
def project(tmp_path, cohort) -> Project:
    folder = copy_project(tmp_path / "glomflow")
    shutil.copy2(Path(__file__).with_name("storage.yaml"), folder)
    shutil.copytree(cohort, folder / "cohort")
    return Project(folder, ["storage.yaml"])


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


needs_s3 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("boto3", "moto", "snakemake_storage_plugin_s3")),
    reason="needs glomflow[s3] and moto",
)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An S3 service on the loopback interface, and a client of it."""
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "moto.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(300):
        try:
            urllib.request.urlopen(address)
            break
        except OSError:
            time.sleep(0.2)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ACCESS_KEY", "hospital")
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_SECRET_KEY", SECRET)
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", address)
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="hospital",
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket="hospital")
    yield client
    server.terminate()
    server.wait()


def upload(client, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "hospital", f"cohort/{path.relative_to(folder).as_posix()}")


@needs_s3
def test_cohort_and_results_in_a_bucket(project, bucket, tmp_path, monkeypatch) -> None:
    upload(bucket, project.folder / "cohort")
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

    assert nothing_to_do(project, *target)
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
