"""The chain with every job in a container, and the same without."""

import os
import shutil
from pathlib import Path

import pytest

from cluster.runs import digests
from glomflow.run_plan import read_plan
from workflow.storage_service import small_cohort, storage_project

pytestmark = pytest.mark.workflow

IMAGE = os.environ.get("GLOMFLOW_TEST_IMAGE", "")


@pytest.mark.skipif(
    shutil.which("apptainer") is None and shutil.which("singularity") is None, reason="needs apptainer"
)
@pytest.mark.skipif(not IMAGE, reason="GLOMFLOW_TEST_IMAGE names no image built from envs/Containerfile")
def test_jobs_in_a_container_give_the_same_bits(tmp_path: Path) -> None:
    cohort = small_cohort(tmp_path / "cohort")
    inside, outside = (storage_project(tmp_path / where, cohort) for where in ("inside", "outside"))
    arguments = ("--sdm", "apptainer", "--config", f"run={{container: '{Path(IMAGE).resolve()}'}}")
    told = inside.snakemake(*arguments).stdout
    jobs = len(read_plan(inside.folder / "results").jobs)
    assert told.count("Activating singularity image") == jobs > 30
    assert inside.planned(*arguments) == {}
    outside.snakemake()
    assert digests(inside) == digests(outside)
