"""The section on what the run took: hours, memory and jobs by stage, and the jobs that took most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from glomflow.report.blocks import Block, KeyFigures, Prose, Section, Table
from glomflow.report.material import Material
from glomflow.report.numbers import NOTHING, count, number, percent, thousands
from glomflow.report.tables import records
from glomflow.stages import STAGES

MOST_JOBS = 10
"""Jobs in the table of those that took most."""

LONG_RUN = 2 * 3600
"""From this sum of job times on, times are given in hours, below it in minutes; seconds."""


@dataclass(frozen=True)
class Unit:
    """A unit of time.

    Attributes:
        name: As headers say it.
        seconds: Its length.
    """

    name: str
    seconds: int

    def text(self, seconds: float) -> str:
        """Formats a time: two digits behind the point below 10, one from there on."""
        if seconds == 0:
            return "0"
        value = seconds / self.seconds
        return number(value, 2 if value < 10 else 1)


def unit_of(seconds: float) -> Unit:
    """Chooses the unit for a sum of job times."""
    return Unit("hours", 3600) if seconds >= LONG_RUN else Unit("minutes", 60)


def memory(megabytes: float) -> str:
    """Formats memory: ``421 MB``, ``12.3 GB``."""
    if not math.isfinite(megabytes):
        return NOTHING
    return f"{number(megabytes / 1000, 1)} GB" if megabytes >= 1000 else f"{number(megabytes, 0)} MB"


def totals(frame: pd.DataFrame) -> dict[str, float]:
    """Adds up jobs.

    Args:
        frame: JOB_COSTS rows.

    Returns:
        Jobs, jobs with a record, seconds, CPU seconds, GPU seconds, the longest job (s) and the peak memory
        (MB); NaN where no job was measured.
    """
    return {
        "jobs": len(frame),
        "recorded": int(frame["seconds"].notna().sum()),
        "seconds": float(frame["seconds"].sum(min_count=1)),
        "cpu_seconds": float(frame["cpu_seconds"].sum(min_count=1)),
        "gpu_seconds": float((frame["seconds"] * frame["gpus"]).sum(min_count=1)),
        "longest": float(frame["seconds"].max()),
        "memory_mb": float(frame["memory_mb"].max()),
    }


def costs_section(material: Material) -> Section | None:
    """What the run took."""
    frame = material.costs
    if frame is None or frame["seconds"].isna().all():
        return None
    whole = totals(frame)
    unit = unit_of(whole["seconds"])
    blocks: list[Block] = [
        _key_figures(whole, unit),
        Prose(_prose(frame)),
        _stage_table(frame, unit),
        _job_table(frame, unit),
    ]
    return Section("costs", "Time and memory", blocks)


def _key_figures(whole: dict[str, float], unit: Unit) -> KeyFigures:
    return KeyFigures(
        [
            (
                f"job {unit.name}",
                unit.text(whole["seconds"]),
                f"{count(int(whole['jobs']), 'job')}, added up",
            ),
            (f"CPU {unit.name}", unit.text(whole["cpu_seconds"]), "all cores together"),
            (f"GPU {unit.name}", unit.text(whole["gpu_seconds"]), "asked for"),
            ("peak memory", memory(whole["memory_mb"]), "of a single job"),
        ]
    )


def _prose(frame: pd.DataFrame) -> str:
    sentences = [
        "Each job counts once, with its last successful execution, also where an earlier run did it; failed "
        "and killed attempts, waiting in a queue and the report itself are not counted.",
        "CPU time is what the kernel counted when a job ended; memory is the most that was seen of all its "
        "processes together, or held by one of them.",
    ]
    if (frame["gpus"] > 0).any():
        sentences.append(
            "A GPU counts for as long as a job that asks for one runs; where there is none, such a job takes "
            "the CPU."
        )
    lost = int(frame["seconds"].isna().sum())
    if lost:
        verb = "has" if lost == 1 else "have"
        sentences.append(f"{count(lost, 'job')} {verb} no record and {verb} no part in the sums.")
    short = int((frame["seconds"].notna() & frame["cpu_seconds"].isna()).sum())
    if short:
        verb = "was" if short == 1 else "were"
        sentences.append(f"{count(short, 'job')} {verb} too short to be measured beyond the duration.")
    return " ".join(sentences)


def _stage_table(frame: pd.DataFrame, unit: Unit) -> Table:
    overall = totals(frame)
    parts = [(title, totals(frame[frame["stage"] == key])) for key, title in STAGES.items()]
    rows = [
        (
            title,
            thousands(int(part["jobs"])),
            unit.text(part["seconds"]),
            percent(part["seconds"] / overall["seconds"]),
            unit.text(part["cpu_seconds"]),
            unit.text(part["gpu_seconds"]),
            unit.text(part["longest"]),
            memory(part["memory_mb"]),
        )
        for title, part in [*parts, ("all", overall)]
        if part["jobs"]
    ]
    return Table(
        caption="Jobs, time and memory by stage.",
        headers=(
            "stage",
            "jobs",
            f"job {unit.name}",
            "share",
            f"CPU {unit.name}",
            f"GPU {unit.name}",
            "longest job",
            "peak memory",
        ),
        rows=rows,
        strong_rows=frozenset({len(rows) - 1}),
    )


def _job_table(frame: pd.DataFrame, unit: Unit) -> Table:
    ranked = frame[frame["seconds"].notna()].sort_values(
        ["seconds", "record"], ascending=[False, True], kind="stable"
    )
    rows = [
        (
            str(row["job"]),
            unit.text(row["seconds"]),
            unit.text(row["cpu_seconds"]),
            str(row["threads"]),
            str(row["gpus"]),
            memory(row["memory_mb"]),
        )
        for row in records(ranked.head(MOST_JOBS))
    ]
    return Table(
        caption=f"The jobs that took longest, {len(rows)} of {thousands(len(ranked))}.",
        headers=("job", unit.name, f"CPU {unit.name}", "threads", "GPUs", "peak memory"),
        rows=rows,
    )
