"""The state of a run in words (``glomflow status``): read from files, beside a run, after it or in a copy."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from glomflow.bucket_results import outline_of
from glomflow.cohort.bucket import is_bucket
from glomflow.run_plan import read_plan
from glomflow.run_state import STATES, JobState, RunState, read_state, tail
from glomflow.stages import STAGES, job_words, stage_of
from glomflow.tables import EXCLUDED, INVENTORY, PATIENTS, read_table

MOST_JOBS = 8
"""Jobs shown of those that run, failed or were interrupted."""

MOST_REASONS = 5
"""Images and patients shown of those left out."""

WHOLE_INVENTORY = "inventory.parquet"
SHARDS_INVENTORIES = "inventory/"
COHORT_PATIENTS = "cohort/patients.parquet"
EXCLUDED_PATIENTS = "folds/excluded.parquet"
TABLES_READ = (WHOLE_INVENTORY, SHARDS_INVENTORIES, COHORT_PATIENTS, EXCLUDED_PATIENTS)
"""Where what was left out stands in the results."""

RUN_STATES = {
    "running": "running",
    "unknown": "running, as far as can be told from another machine",
    "done": "finished",
    "failed": "ended, with failures",
    "interrupted": "not running, and not finished",
}
"""States of a run in words."""


def read_status(results: Path | str, log_lines: int = 5, now: float | None = None) -> dict[str, Any]:
    """Gathers the state of a run.

    Args:
        results: The results folder, a copy of it, or its address in a bucket.
        log_lines: Lines of the logs of failed, interrupted and running jobs.
        now: Seconds since 1970; by default, now.

    Returns:
        The state, as ``glomflow status --json`` prints it.

    Raises:
        GlomflowError: There is no plan, a table is damaged, or the bucket cannot be read.
    """
    stored = is_bucket(results)
    name = str(results).rstrip("/") if stored else str(Path(results))
    with outline_of(name, TABLES_READ) as folder:
        plan = read_plan(folder)
        here = plan.results == name if stored else None
        return _status(name, read_state(plan, folder, here), log_lines, time.time() if now is None else now)


def _status(name: str, state: RunState, log_lines: int, now: float) -> dict[str, Any]:
    word = run_word(state)
    end = now if word in {"running", "unknown"} else state.last_sign
    return {
        "results": name,
        "state": word,
        "copy": not state.here,
        "host": state.plan.host,
        "started": state.plan.started,
        "elapsed_s": max(0.0, end - state.plan.started),
        "last_sign": state.last_sign,
        "jobs": _counts(state.jobs),
        "stages": _stages(state.jobs),
        **{
            which: _jobs(state, which, name, log_lines, now) for which in ("running", "failed", "interrupted")
        },
        "images": _images(state.results),
        "patients": _patients(state.results),
    }


def run_word(state: RunState) -> str:
    """Returns the state of a run, one of :data:`RUN_STATES`."""
    if state.alive:
        return "running"
    counts = _counts(state.jobs)
    if counts["done"] == len(state.jobs):
        return "done"
    if state.alive is None:
        return "unknown"
    return "failed" if counts["failed"] else "interrupted"


def _counts(jobs: tuple[JobState, ...]) -> dict[str, int]:
    found = Counter(one.state for one in jobs)
    return {name: found[name] for name in STATES}


def _stages(jobs: tuple[JobState, ...]) -> list[dict[str, Any]]:
    by_stage: dict[str, list[JobState]] = {}
    for one in jobs:
        by_stage.setdefault(stage_of(one.job.rule), []).append(one)
    return [
        {"stage": key, "title": title, "jobs": len(by_stage[key]), **_counts(tuple(by_stage[key]))}
        for key, title in STAGES.items()
        if key in by_stage
    ]


def _jobs(state: RunState, which: str, results: str, lines: int, now: float) -> list[dict[str, Any]]:
    found = [one for one in state.jobs if one.state == which]
    rows = []
    for place, one in enumerate(found):
        path = state.results / one.job.log
        rows.append(
            {
                "rule": one.job.rule,
                "wildcards": dict(one.job.wildcards),
                "words": job_words(one.job.rule, one.job.wildcards),
                "elapsed_s": None if one.since is None or which != "running" else max(0.0, now - one.since),
                "log": f"{results}/{one.job.log}",
                "tail": _own_tail(path, one.since, lines) if place < MOST_JOBS else [],
            }
        )
    return rows


def _own_tail(path: Path, since: float | None, lines: int) -> list[str]:
    """Returns the end of a job's log, unless an earlier run wrote it."""
    # Snakemake's times are whole seconds.
    if path.is_file() and path.stat().st_mtime < (since or 0) - 1:
        return []
    return tail(path, lines)


def _images(results: Path) -> dict[str, Any] | None:
    whole = results / WHOLE_INVENTORY
    paths = [whole] if whole.is_file() else sorted((results / SHARDS_INVENTORIES).glob("*.parquet"))
    if not paths:
        return None
    inventory = pd.concat([read_table(path, INVENTORY) for path in paths], ignore_index=True)
    bad = inventory[inventory["status"] != "ok"]
    return {
        "opened": len(inventory),
        "left_out": len(bad),
        "by_status": {str(key): int(value) for key, value in bad["status"].value_counts().items()},
        "complete": whole.is_file(),
        "reasons": bad["reason"].tolist(),
    }


def _patients(results: Path) -> dict[str, Any] | None:
    path = results / COHORT_PATIENTS
    if not path.is_file():
        return None
    excluded = results / EXCLUDED_PATIENTS
    known = excluded.is_file()
    rows = read_table(excluded, EXCLUDED) if known else pd.DataFrame({"patient": [], "reason": []})
    return {
        "patients": len(read_table(path, PATIENTS)),
        "left_out": len(rows) if known else None,
        "reasons": [
            f"{patient}: {reason}" for patient, reason in zip(rows["patient"], rows["reason"], strict=True)
        ],
    }


def duration(seconds: float) -> str:
    """Formats a time as words do: ``8 s``, ``3 min 5 s``, ``2 h 4 min``, ``3 d 2 h``."""
    whole = round(seconds)
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def status_text(status: dict[str, Any], now: float | None = None) -> str:
    """Writes a state as text.

    Args:
        status: What :func:`read_status` returned.
        now: Seconds since 1970; by default, now.
    """
    now = time.time() if now is None else now
    parts = [_head(status, now), _stage_table(status)]
    for name, title in (("failed", "Failed"), ("interrupted", "Interrupted"), ("running", "Running")):
        if status[name]:
            parts.append(_job_list(title, status[name]))
    parts.append("\n".join([*_image_lines(status["images"]), *_patient_lines(status["patients"])]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(status: dict[str, Any], now: float) -> str:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(status["started"]))
    line = f"{status['results']}: {RUN_STATES[status['state']]}. Started {started} on {status['host']}, "
    if status["copy"]:
        return f"{line}a copy: only its own files were looked at."
    line += f"{duration(status['elapsed_s'])}"
    if status["state"] in {"running", "unknown"}:
        return f"{line} ago; last heard of {duration(max(0.0, now - status['last_sign']))} ago."
    return f"{line} until it was last heard of."


def _stage_table(status: dict[str, Any]) -> str:
    shown = [name for name in STATES if name in {"done", "to do"} or status["jobs"][name]]
    rows = [["stage", *shown]]
    for one in [*status["stages"], {"title": "all", "jobs": sum(status["jobs"].values()), **status["jobs"]}]:
        cells = [
            f"{one['done']} of {one['jobs']}" if name == "done" else str(one[name] or "") for name in shown
        ]
        rows.append([one["title"], *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _job_list(title: str, jobs: list[dict[str, Any]]) -> str:
    lines = [f"{title}:"]
    for one in jobs[:MOST_JOBS]:
        since = "" if one["elapsed_s"] is None else f", for {duration(one['elapsed_s'])}"
        lines += [f"  {one['words']}{since} ({one['log']})", *(f"    | {line}" for line in one["tail"])]
    if len(jobs) > MOST_JOBS:
        lines.append(f"  and {len(jobs) - MOST_JOBS} more")
    return "\n".join(lines)


def _image_lines(images: dict[str, Any] | None) -> list[str]:
    if images is None:
        return []
    so_far = "" if images["complete"] else " opened so far"
    kinds = ", ".join(f"{number} {key.replace('_', ' ')}" for key, number in images["by_status"].items())
    head = f"Images left out: {images['left_out']} of {images['opened']}{so_far}"
    return [head + (f" ({kinds})" if kinds else ""), *_reasons(images["reasons"])]


def _patient_lines(patients: dict[str, Any] | None) -> list[str]:
    if patients is None:
        return []
    if patients["left_out"] is None:
        return [f"Patients left out: not known before the folds are dealt, of {patients['patients']}"]
    head = f"Patients left out: {patients['left_out']} of {patients['patients']}"
    return [head, *_reasons(patients["reasons"])]


def _reasons(reasons: list[str]) -> list[str]:
    more = len(reasons) - MOST_REASONS
    shown = [f"  {reason}" for reason in reasons[:MOST_REASONS]]
    return [*shown, f"  and {more} more"] if more > 0 else shown


def show_status(
    results: Path | str,
    *,
    as_json: bool = False,
    log_lines: int = 5,
    watch: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Prints the state of a run, once or until the run ends.

    Args:
        results: The results folder, a copy of it, or its address in a bucket.
        as_json: Whether to print JSON.
        log_lines: Lines of the logs of failed, interrupted and running jobs.
        watch: Seconds between two looks; None to look once.
        sleep: Waits.

    Raises:
        GlomflowError: There is no plan, a table is damaged, or the bucket cannot be read.
    """
    clear = "\x1b[H\x1b[2J" if watch is not None and sys.stdout.isatty() else ""
    while True:
        status = read_status(results, log_lines)
        text = json.dumps(status, indent=2) + "\n" if as_json else status_text(status)
        sys.stdout.write(clear + text)
        sys.stdout.flush()
        if watch is None or status["state"] not in {"running", "unknown"}:
            return
        sleep(watch)
