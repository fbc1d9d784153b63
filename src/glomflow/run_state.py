"""What became of each job of a run: told from its plan, Snakemake's log and files, without running it."""

from __future__ import annotations

import base64
import os
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glomflow.run_plan import Plan, PlannedJob, process_start

State = Literal["done", "running", "failed", "interrupted", "to do"]
Event = tuple[Literal["started", "finished", "failed"], float | None]
"""What Snakemake's log says last of a job, and when, in seconds since 1970."""

STATES: tuple[State, ...] = ("done", "running", "failed", "interrupted", "to do")

TAIL_BYTES = 65536
"""How much of the end of a log is looked at."""

_TIME = re.compile(r"^\s*\[(\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})\]")
_START = re.compile(r"^\s*(?:local)?(?:rule|checkpoint) \w+:$")
_ERROR = re.compile(r"^Error in (?:rule|group) |^    jobs:$")
_ID = re.compile(r"^\s+jobid: (\d+)$")
_MESSAGE = re.compile(r"^Job (\d+): ")
_FINISHED = re.compile(r"^Finished jobid: (\d+)\b")
_FAILURE = re.compile(r"^(?:error: |Traceback \(most recent call last\):)", flags=re.M)


@dataclass(frozen=True)
class JobState:
    """A job and what became of it.

    Attributes:
        job: The job.
        state: One of :data:`STATES`.
        since: When it was started, seconds since 1970, if it was and that is known.
    """

    job: PlannedJob
    state: State
    since: float | None = None


@dataclass(frozen=True)
class RunState:
    """A run and what became of it.

    Attributes:
        plan: The run's plan.
        results: The results folder that was looked at.
        here: Whether it is the folder that the run writes to, not a copy.
        alive: Whether Snakemake runs; None if that cannot be seen from this machine.
        last_sign: When it was last heard of, seconds since 1970.
        jobs: Every job, in the order of the plan.
    """

    plan: Plan
    results: Path
    here: bool
    alive: bool | None
    last_sign: float
    jobs: tuple[JobState, ...]


def read_events(lines: Iterable[str]) -> dict[int, Event]:
    """Reads Snakemake's log.

    Args:
        lines: Its lines.

    Returns:
        The last event of each job that the log names.
    """
    events: dict[int, Event] = {}
    when: float | None = None
    kind: Literal["started", "failed"] | None = None
    for line in lines:
        if match := _TIME.match(line):
            when, kind = _seconds(match.group(1)), None
        if _ERROR.match(line):
            kind = "failed"
        elif kind is None and _START.match(line):
            kind = "started"
        elif (match := _ID.match(line)) and kind is not None:
            events[int(match.group(1))] = (kind, when)
        elif match := _FINISHED.match(line):
            events[int(match.group(1))] = ("finished", when)
        elif match := _MESSAGE.match(line):
            events[int(match.group(1))] = ("started", when)
    return events


def _seconds(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
    except ValueError:
        return None


def read_state(plan: Plan, results: Path, here: bool | None = None) -> RunState:
    """Tells what became of a run. Nothing is run, locked or written.

    Where the folder is a copy, only its own files are looked at: outputs and logs.

    Args:
        plan: The run's plan.
        results: The results folder.
        here: Whether it shows what the run writes to, not a copy; by default, whether it is that folder.
    """
    if here is None:
        here = (Path(plan.folder) / plan.results).resolve() == results.resolve()
    alive = is_alive(plan) if here else False
    log = Path(plan.snakemake_log) if here and plan.snakemake_log else None
    events: dict[int, Event] = {}
    last_sign = plan.started
    if log is not None and log.is_file():
        with log.open(encoding="utf-8", errors="replace") as handle:
            events = read_events(handle)
        last_sign = max(last_sign, log.stat().st_mtime)
    look = _Look(plan, results, here, alive is not False, events)
    jobs = tuple(look.state(job) for job in plan.jobs)
    logs = [results / one.job.log for one in jobs if one.state == "running"]
    last_sign = max([last_sign, *(path.stat().st_mtime for path in logs if path.is_file())])
    return RunState(plan, results, here, alive, last_sign, jobs)


def is_alive(plan: Plan) -> bool | None:
    """Says whether a run's Snakemake process is there; None on another machine than its own."""
    if plan.host != socket.gethostname():
        return None
    try:
        os.kill(plan.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process_start(plan.pid) == plan.process


def tail(path: Path, lines: int) -> list[str]:
    """Returns the last lines of a text file; none if it cannot be read.

    Args:
        path: The file.
        lines: How many at most; empty ones are left out.
    """
    found = [line.rstrip() for line in _end(path).replace("\r", "\n").split("\n") if line.strip()]
    return found[-lines:]


def _end(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - TAIL_BYTES))
            return handle.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


class _Look:
    """Looks at the files of a run's jobs."""

    def __init__(self, plan: Plan, results: Path, here: bool, alive: bool, events: dict[int, Event]) -> None:
        self.plan, self.results, self.here, self.events = plan, results, here, events
        self.open_state: State = "running" if alive else "interrupted"
        self.markers = _markers(Path(plan.folder) / ".snakemake" / "incomplete") if here else {}

    def state(self, job: PlannedJob) -> JobState:
        """Tells what became of a job."""
        complete = job.is_complete(self.results)
        kind, since = self.events.get(job.id, (None, None))
        if kind == "failed":
            return JobState(job, "failed", since)
        if kind == "finished":
            return JobState(job, "done" if complete else "to do", since)
        marked = self._marked(job)
        if kind == "started" or marked is not None:
            since = since or marked
            # Group jobs are not called finished one by one; their records are written when they are.
            if complete and _time(self.results / job.benchmark) >= (since or 0) and marked is None:
                return JobState(job, "done", since)
            return JobState(job, self.open_state, since)
        return self._unheard(job, complete)

    def _unheard(self, job: PlannedJob, complete: bool) -> JobState:
        """Tells what became of a job that Snakemake's log does not name."""
        begun = self.plan.started if self.here else 0.0
        if complete and not (self.here and job.needed and self._oldest(job) < begun):
            return JobState(job, "done")
        log = self.results / job.log
        if _time(log) <= begun:
            return JobState(job, "to do")
        if _FAILURE.search(_end(log)):
            return JobState(job, "failed")
        return JobState(job, self.open_state)

    def _oldest(self, job: PlannedJob) -> float:
        return min(_time(self.results / path) for path in job.outputs)

    def _marked(self, job: PlannedJob) -> float | None:
        """Returns when Snakemake marked the outputs of a job as being written, if it did."""
        times = [self.markers.get(f"{self.plan.results}/{path}") for path in job.outputs]
        return next((when for when in times if when is not None), None)


def _markers(folder: Path) -> dict[str, float]:
    """Returns the outputs that Snakemake marks as being written, and since when."""
    found = {}
    for path in folder.glob("*") if folder.is_dir() else ():
        try:
            name = base64.urlsafe_b64decode(path.name).decode("utf-8")
        except ValueError:
            continue
        found[name] = _time(path)
    return found


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
