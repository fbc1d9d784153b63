"""The plan of a run: every job that its target rests on, written when the run starts.

Snakemake knows the jobs while it runs and forgets them when it ends. The plan, ``plan.json`` in the
results folder, keeps them, so that the state of a run can be told beside it, after it, and from a copy of
the folder. It is no output of a rule: each start of the workflow writes it anew.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glomflow.errors import GlomflowError
from glomflow.files import read_json, write_text

PLAN = "plan.json"
"""Name of the plan in the results folder."""


@dataclass(frozen=True)
class PlannedJob:
    """A job.

    Attributes:
        id: Number that Snakemake calls it by in its log.
        rule: Name of its rule.
        wildcards: Their values by name.
        outputs: Files and folders that it writes, relative to the results folder.
        log: Its log, relative to the results folder.
        benchmark: Its record of time and memory, relative to the results folder.
        threads: Threads that it may use.
        gpus: GPUs that it asks for.
        needed: Whether the run had to execute it, rather than find its outputs up to date.
    """

    id: int
    rule: str
    wildcards: Mapping[str, str]
    outputs: tuple[str, ...]
    log: str
    benchmark: str
    threads: int
    gpus: int
    needed: bool

    def is_complete(self, results: Path) -> bool:
        """Returns whether every output is there."""
        return all((results / path).exists() for path in self.outputs)


@dataclass(frozen=True)
class Plan:
    """A run and its jobs.

    Attributes:
        started: When it started, seconds since 1970.
        host: Name of the machine that Snakemake runs on.
        pid: Its process.
        process: When that process started, in the kernel's words; tells it from a later one of its number.
        folder: Folder that Snakemake runs in.
        results: The results folder as the configuration names it, relative to ``folder`` or absolute, or
            its address in storage.
        snakemake_log: Snakemake's own log.
        jobs: Every job with a log.
    """

    started: float
    host: str
    pid: int
    process: str
    folder: str
    results: str
    snakemake_log: str
    jobs: tuple[PlannedJob, ...]


def process_start(pid: int) -> str:
    """Returns the start time of a process, in ticks since boot; '' where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def write_plan(
    path: Path, results: str, jobs: Iterable[Mapping[str, Any]], snakemake_logs: Sequence[str]
) -> None:
    """Writes the plan of the run that starts, for the process that calls.

    Args:
        path: The plan.
        results: The results folder as the configuration names it, or its address in storage.
        jobs: Fields of :class:`PlannedJob`; paths as the rules name them.
        snakemake_logs: Snakemake's own log, and those of its logger plugins.
    """
    planned = [_below(results, job) for job in jobs]
    pid = os.getpid()
    plan = {
        "started": time.time(),
        "host": socket.gethostname(),
        "pid": pid,
        "process": process_start(pid),
        "folder": os.getcwd(),
        "results": results,
        "snakemake_log": next(iter(snakemake_logs), ""),
        "jobs": sorted(planned, key=lambda job: job["id"]),
    }
    write_text(path, json.dumps(plan, separators=(",", ":")) + "\n")


def _below(results: str, job: Mapping[str, Any]) -> dict[str, Any]:
    def relative(path: str) -> str:
        return str(path).removeprefix(f"{results}/")

    paths = {"log": relative(job["log"]), "benchmark": relative(job["benchmark"])}
    return {**job, **paths, "outputs": [relative(path) for path in job["outputs"]]}


def no_plan(results: Path | str) -> GlomflowError:
    """Returns the error of results without a plan."""
    return GlomflowError(
        f"{results}: holds no {PLAN}, which every run writes when it starts; name the folder that "
        "run.results names, or start the workflow"
    )


def read_plan(results: Path) -> Plan:
    """Reads the plan of the last run.

    Args:
        results: The results folder.

    Raises:
        GlomflowError: There is no such folder or no plan in it, or it cannot be read.
    """
    if not results.is_dir():
        raise GlomflowError(f"{results}: there is no such folder; name the results folder of a run")
    path = results / PLAN
    if not path.is_file():
        raise no_plan(results)
    content = read_json(path)
    names = {field.name for field in fields(Plan)}
    if not isinstance(content, dict) or set(content) != names:
        raise GlomflowError(f"{path}: is no plan of this version; start the workflow again")
    try:
        jobs = tuple(PlannedJob(**{**job, "outputs": tuple(job["outputs"])}) for job in content["jobs"])
        return Plan(**{**content, "jobs": jobs})
    except (KeyError, TypeError) as error:
        raise GlomflowError(f"{path}: is no plan of this version; start the workflow again") from error
