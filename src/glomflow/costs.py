"""What a run took: the records that Snakemake keeps of jobs, gathered into a table.

A record (``benchmark:`` of a rule) is written when a job ends well. It is no declared input of anything: a
record that is lost must not repeat a training. The jobs are those of the run's plan, those of them that
earlier runs did included; which records are missing can therefore be told.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from glomflow.bucket_results import records_of
from glomflow.errors import GlomflowError
from glomflow.run_plan import PLAN, PlannedJob, read_plan
from glomflow.stages import job_words, stage_of
from glomflow.tables import Column, Schema, write_table
from glomflow.usage import read_usage

JOB_COSTS: Schema = {
    "stage": Column("string", "stage of the workflow, a key of glomflow.stages.STAGES"),
    "rule": Column("string", "rule"),
    "job": Column("string", "what the job does, in words"),
    "record": Column("string", "its record, relative to the results folder"),
    "threads": Column("int64", "threads that it may use"),
    "gpus": Column("int64", "GPUs that it asked for"),
    "seconds": Column("float64", "time from start to end, s; missing where there is no record"),
    "cpu_seconds": Column("float64", "CPU time, user and system, s"),
    "memory_mb": Column("float64", "peak resident memory of its processes, MB"),
}
"""One row per job; what Snakemake could not measure is missing."""

REPORT = "report"
"""The rule that gathers the costs, and so cannot be among them."""


class Record(NamedTuple):
    """What a job took: time from start to end and of processors, s, and peak resident memory, MB."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


def read_record(path: Path) -> Record:
    """Reads the record of a job.

    Args:
        path: Table that Snakemake wrote; of several repeats, times add up.

    Returns:
        The record; NaN for what was not measured or if there is no file.

    Raises:
        GlomflowError: The file is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
    except FileNotFoundError:
        return Record(math.nan, math.nan, math.nan)
    except (OSError, ValueError) as error:
        raise GlomflowError(f"{path}: cannot be read ({error}); delete it") from error
    if not rows or "s" not in rows[0]:
        raise GlomflowError(f"{path}: is no record of a job (no column 's'); delete it")
    values = [[_number(row.get(name), path) for row in rows] for name in ("s", "cpu_time", "max_rss")]
    return Record(sum(values[0]), sum(values[1]), max(values[2]))


def job_record(results: Path, benchmark: str) -> Record:
    """Reads what a job took: its record, with processor time and memory as its log says in the end.

    Args:
        results: The results folder.
        benchmark: The job's record, relative to it; the log lies at the same place in ``logs``.

    Raises:
        GlomflowError: The record is damaged.
    """
    record = read_record(results / benchmark)
    told = read_usage(results / "logs" / Path(benchmark).relative_to("benchmarks").with_suffix(".log"))
    if told is None or math.isnan(record.seconds):
        return record
    return record._replace(cpu_seconds=told[0], memory_mb=float(np.fmax(record.memory_mb, told[1])))


def _number(text: str | None, path: Path) -> float:
    if text is None or text.strip() in {"", "-", "NA"}:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise GlomflowError(f"{path}: '{text}' is not a number; delete the file") from error


def job_costs(results: Path, jobs: list[PlannedJob]) -> pd.DataFrame:
    """Gathers the records of jobs.

    Args:
        results: The results folder.
        jobs: The jobs of a plan.

    Returns:
        JOB_COSTS rows in the order of the jobs; jobs without a record have no times.

    Raises:
        GlomflowError: A record is damaged.
    """
    rows = []
    for job in jobs:
        rows.append(
            {
                "stage": stage_of(job.rule),
                "rule": job.rule,
                "job": job_words(job.rule, job.wildcards),
                "record": job.benchmark,
                "threads": job.threads,
                "gpus": job.gpus,
                **job_record(results, job.benchmark)._asdict(),
            }
        )
    return pd.DataFrame(rows, columns=list(JOB_COSTS))


def write_costs(results: str, out: Path) -> pd.DataFrame:
    """Writes the table of what the run's jobs took, but for the report's own.

    Args:
        results: The results folder, or its address in a bucket.
        out: JOB_COSTS table; without a plan (hooks switched off, a storage other than folder and S3) it has
            no rows.

    Returns:
        The rows.

    Raises:
        GlomflowError: The plan or a record is damaged, or the bucket cannot be read.
    """
    with records_of(results) as folder:
        jobs: list[PlannedJob] = []
        if (folder / PLAN).is_file():
            jobs = [job for job in read_plan(folder).jobs if job.rule != REPORT]
        frame = job_costs(folder, jobs)
    write_table(out, frame, JOB_COSTS)
    return frame
