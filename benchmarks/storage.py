"""Runs a small cohort to its report with everything in folders, in a bucket, and with results on a mount.

Prints the wall and processor time of the first run and of a second one that finds nothing to do, by turns.
The bucket is moto's, on the loopback interface, and its own processor time is not counted; the mount is a
folder of the same disk. So this is what storage costs a run where the network costs nothing.

PYTHONPATH=src:tests python -P benchmarks/storage.py [--rounds 2]   (glomflow[s3,fs]; moto; rsync)
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from workflow.conftest import Project
from workflow.storage_service import (
    NO_SHARED_DATA,
    WITHOUT_S3,
    s3_client,
    s3_service,
    s3_variables,
    small_cohort,
    storage_project,
    upload,
)

PLACES = {
    "local": "everything in folders",
    "bucket": "cohort and results in a bucket",
    "mount": "results on a mounted folder",
}


class Taken(NamedTuple):
    """Seconds by the clock and of processors."""

    wall: float
    cpu: float


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(project: Project, arguments: list[str], *, nothing: bool) -> Taken:
    started, before = time.monotonic(), processor_seconds()
    done = project.snakemake(*arguments, check=False)
    taken = Taken(time.monotonic() - started, processor_seconds() - before)
    if done.returncode != 0 or ("Nothing to be done" in done.stdout) != nothing:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stdout[-4000:]}")
    return taken


def storage_arguments(place: str, folder: Path) -> list[str]:
    if place == "local":
        return []
    in_bucket = place == "bucket"
    # Not every name of a scratch folder may be that of a bucket.
    provider, prefix = ("s3", f"s3://{folder.name}/run") if in_bucket else ("fs", str(folder / "mounted"))
    config = ["--config", "cohort={folder: 's3://hospital/cohort/'}"] if in_bucket else []
    storage = ["--default-storage-provider", provider, "--default-storage-prefix", prefix]
    return [*config, *NO_SHARED_DATA, *storage]


def both_runs(place: str, folder: Path, cohort: Path) -> tuple[Taken, Taken]:
    """Runs a fresh copy of the project twice and removes it."""
    project = storage_project(folder / "glomflow", cohort)
    if place == "bucket":
        shutil.rmtree(project.folder / "cohort")
    arguments = storage_arguments(place, folder)
    runs = (timed(project, arguments, nothing=False), timed(project, arguments, nothing=True))
    shutil.rmtree(folder)
    return runs


def mean(taken: list[Taken]) -> Taken:
    return Taken(statistics.mean(one.wall for one in taken), statistics.mean(one.cpu for one in taken))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    rounds: int = parser.parse_args().rounds
    if WITHOUT_S3 or shutil.which("rsync") is None:
        raise SystemExit("needs glomflow[s3,fs], moto and rsync")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the runs")
    found: dict[str, list[tuple[Taken, Taken]]] = {place: [] for place in PLACES}
    with tempfile.TemporaryDirectory() as name, s3_service(Path(name) / "moto.log") as address:
        os.environ.update(s3_variables(address))
        cohort = small_cohort(Path(name) / "cohort")
        client = s3_client(address)
        client.create_bucket(Bucket="hospital")
        upload(client, cohort, "hospital")
        for number in range(rounds):
            for place, runs in found.items():
                runs.append(both_runs(place, Path(name) / f"{place}-round{number}", cohort))
                first, second = runs[-1]
                print(f"{place}: {first.wall:.1f} s, then {second.wall:.1f} s", flush=True)
    print(f"load {os.getloadavg()[0]:.1f} after the runs; means of {rounds} rounds\n")
    print("| | first run, s | CPU s | to local | second run, s | CPU s |")
    print("| --- | --- | --- | --- | --- | --- |")
    local = mean([first for first, _ in found["local"]])
    for place, words in PLACES.items():
        first, second = (mean([runs[which] for runs in found[place]]) for which in (0, 1))
        print(
            f"| {words} | {first.wall:.0f} | {first.cpu:.0f} | {first.wall / local.wall:.2f} | "
            f"{second.wall:.1f} | {second.cpu:.1f} |"
        )


if __name__ == "__main__":
    main()
