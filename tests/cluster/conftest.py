"""One cluster and one finished run for all tests of this folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.one_host import Cluster, missing, one_host_cluster
from cluster.runs import copied, run, slurm
from workflow.conftest import Project, copy_project


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM cluster of three nodes on this machine."""
    if reason := missing():
        pytest.skip(reason)
    with one_host_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small cohort, run on two cores of this machine."""
    project = Project(copy_project(tmp_path_factory.mktemp("local") / "glomflow"), ["cluster.yaml"])
    shutil.copy2(Path(__file__).with_name("cluster.yaml"), project.folder)
    project.snakemake()
    return project


@pytest.fixture(scope="session")
def on_slurm(cluster: Cluster, local: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same cohort, run on the cluster."""
    project = copied(local, tmp_path_factory.mktemp("on_slurm"), results=False)
    run(project, cluster, slurm()).finished()
    return project
