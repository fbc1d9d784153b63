"""Runs of the workflow that tests look into, stop and compare."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.one_host import Cluster
from glomflow.files import sha256_file
from workflow.conftest import Project

COMPARED = ("metrics/**/*.parquet", "predictions/**/*.parquet", "models/**/*.safetensors")


def slurm(*arguments: str, jobs: int = 8) -> list[str]:
    """Returns Snakemake's arguments for the cluster; looks at jobs more often than users should."""
    often = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "2"]
    return ["--workflow-profile", "profiles/slurm", "--jobs", str(jobs), *often, *arguments]


@dataclass
class Run:
    """A Snakemake that may still be at work.

    Attributes:
        process: The process.
        output: File that holds what it printed.
    """

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        """Returns what it has printed so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def ended(self, seconds: float = 900.0) -> int:
        """Waits for its end and returns its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"still at work after {seconds} s:\n{self.text()[-6000:]}")

    def finished(self) -> str:
        """Waits for a good end and returns what it printed."""
        if self.ended() != 0:
            pytest.fail(f"failed:\n{self.text()[-8000:]}")
        return self.text()

    def wait(self, words: str, seconds: float = 300.0) -> None:
        """Waits until it has printed something."""
        end = time.monotonic() + seconds
        while words not in self.text():
            if time.monotonic() > end or self.process.poll() is not None:
                pytest.fail(f"did not print {words!r}:\n{self.text()[-6000:]}")
            time.sleep(0.2)


def run(project: Project, cluster: Cluster | None, arguments: list[str]) -> Run:
    """Starts Snakemake in a project."""
    number = len(list(project.folder.glob("run*.log")))
    output = project.folder / f"run{number}.log"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= cluster.environment if cluster else {}
    command = [sys.executable, "-m", "snakemake", "--configfile", *project.configfiles, *arguments]
    with output.open("wb") as handle:
        process = subprocess.Popen(
            command, cwd=project.folder, env=environment, stdout=handle, stderr=subprocess.STDOUT
        )
    return Run(process, output)


def copied(project: Project, folder: Path, *, results: bool = True) -> Project:
    """Copies a project, with what Snakemake knows of its results or without any."""
    left_out = ["run*.log", *(() if results else ("results", ".snakemake"))]
    target = folder / "glomflow"
    shutil.copytree(project.folder, target, ignore=shutil.ignore_patterns(*left_out))
    return Project(target, list(project.configfiles))


def digests(project: Project) -> dict[str, str]:
    """Returns the digests of a project's metrics, predictions and weights."""
    folder = project.folder / "results"
    files = [path for pattern in COMPARED for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(files)}
