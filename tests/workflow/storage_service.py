"""What tests and benchmarks of storage run on: a small cohort and an S3 service on the loopback interface."""

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glomflow.cohort.phantom import plan_phantom, write_phantom_images, write_phantom_sheets
from glomflow.config import Phantom
from workflow.conftest import Project, copy_project

NO_SHARED_DATA = ("--shared-fs-usage", "persistence", "software-deployment", "sources", "source-cache")
USER = "hospital"
SECRET = "a-secret-that-no-file-holds"

WITHOUT_S3 = any(
    importlib.util.find_spec(name) is None for name in ("boto3", "moto", "snakemake_storage_plugin_s3")
)


def small_cohort(folder: Path) -> Path:
    """Writes a phantom's sheets and images, the least that folds can be dealt of."""
    settings = Phantom(patients=9, glomeruli=(2, 2), tem_images=(2, 2), missing_modality=0, damaged_files=0)
    plan = plan_phantom(settings)
    write_phantom_sheets(plan, folder)
    write_phantom_images(plan, folder, [patient.patient for patient in plan.patients])
    shutil.rmtree(folder / "truth")
    return folder


def storage_project(folder: Path, cohort: Path) -> Project:
    """Copies the project and puts a copy of a cohort into it."""
    copy_project(folder)
    shutil.copy2(Path(__file__).with_name("storage.yaml"), folder)
    shutil.copytree(cohort, folder / "cohort")
    return Project(folder, ["storage.yaml"])


@contextlib.contextmanager
def s3_service(log: Path) -> Iterator[str]:
    """Runs an S3 service.

    Args:
        log: Where it writes what it is asked for.

    Yields:
        Its address, once it answers.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as handle:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=handle, stderr=handle)
        try:
            _await(address)
            yield address
        finally:
            server.terminate()
            server.wait()


def _await(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address)
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{address}: does not answer")


def s3_variables(address: str) -> dict[str, str]:
    """Returns the environment that a run needs for the service."""
    return {
        "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": USER,
        "SNAKEMAKE_STORAGE_S3_SECRET_KEY": SECRET,
        "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": address,
    }


def s3_client(address: str) -> Any:
    """Returns a client of the service."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=USER,
        aws_secret_access_key=SECRET,
    )


def upload(client: Any, folder: Path, bucket: str) -> None:
    """Stores the files of a folder below ``cohort/`` of a bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"cohort/{path.relative_to(folder).as_posix()}")
