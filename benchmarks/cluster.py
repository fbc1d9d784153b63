"""Runs the small cohort of tests/cluster on this machine, then on a SLURM cluster of three nodes on it.

Prints the wall time of both, what a SLURM job costs beyond its rules, and whether the digests agree. Both
share the same processor, so that the difference is the executor's, not the hardware's.

PYTHONPATH=src:tests python -P benchmarks/cluster.py   (root; slurmctld, slurmd, slurm-client, munge)
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from datetime import datetime
from pathlib import Path

from cluster.one_host import Cluster, missing, one_host_cluster
from cluster.runs import digests, run, slurm
from workflow.conftest import REPO, Project, copy_project

# Rules that share a job with no other, and where their times are.
ALONE = {
    "stain_profiles": "stain_profiles",
    "glomerulus_crops": "glomerulus_crops",
    "im_crops": "im_crops",
    "tem_tiles": "tem_tiles",
    "features": "features",
    "train_frozen": "train",
    "predict_frozen": "predict",
}


def timed(project: Project, cluster: Cluster | None, arguments: list[str]) -> float:
    started = time.monotonic()
    run(project, cluster, arguments).finished()
    return time.monotonic() - started


def elapsed(job: dict[str, str]) -> float:
    times = [datetime.fromisoformat(job[name]) for name in ("StartTime", "EndTime")]
    return (times[1] - times[0]).total_seconds()


def in_rules(results: Path, folder: str = ".") -> float:
    """Returns the seconds that rules took together."""
    seconds = 0.0
    for path in (results / "benchmarks" / folder).rglob("*.tsv"):
        with path.open(encoding="utf-8") as handle:
            seconds += sum(float(row["s"]) for row in csv.DictReader(handle, delimiter="\t"))
    return seconds


def beyond_rules(cluster: Cluster, results: Path) -> tuple[int, float]:
    """Returns the number of jobs that hold one rule each, and the seconds that one spends beside it."""
    count, seconds = 0, 0.0
    for rule, folder in ALONE.items():
        jobs = [job for job, _, comment in cluster.jobs("COMPLETED") if comment.startswith(f"rule_{rule}_")]
        count += len(jobs)
        seconds += sum(elapsed(cluster.show(job)) for job in jobs) - in_rules(results, folder)
    return count, seconds / count


def small_project(folder: Path) -> Project:
    project = Project(copy_project(folder / "glomflow"), ["cluster.yaml"])
    shutil.copy2(REPO / "tests" / "cluster" / "cluster.yaml", project.folder)
    return project


def main() -> None:
    if reason := missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as name:
        here, there = (small_project(Path(name) / where) for where in ("here", "there"))
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the runs")
        local = timed(here, None, ["--cores", "2"])
        alone = in_rules(here.folder / "results")
        print(f"this machine, 2 cores: {local:.0f} s, rules {alone:.0f} s one after the other")
        with one_host_cluster(Path(name) / "slurm") as cluster:
            remote = timed(there, cluster, slurm())
            jobs = len(cluster.jobs("COMPLETED"))
            count, beyond = beyond_rules(cluster, there.folder / "results")
        rules = in_rules(there.folder / "results")
        print(f"SLURM, 3 nodes, {jobs} jobs: {remote:.0f} s, rules {rules:.0f} s one after the other")
        print(f"beyond its rule, each of {count} jobs took {beyond:.1f} s on its node")
        same = digests(here) == digests(there)
        print(f"digests of {len(digests(here))} tables and weights: {'the same' if same else 'DIFFERENT'}")
        print(f"load {os.getloadavg()[0]:.1f} after the runs")
        if not same:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
