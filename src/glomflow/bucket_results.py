"""Results in a bucket, brought to a scratch folder as far as they are read there.

A results folder on a disk is yielded as it is, so that whoever reads it need not know the difference.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from glomflow.cohort.bucket import Bucket, bucket_at, is_bucket
from glomflow.run_plan import PLAN, no_plan, read_plan


@contextlib.contextmanager
def records_of(results: str) -> Iterator[Path]:
    """Yields the folder that a run's plan and the logs and records of its jobs lie in.

    Args:
        results: The results folder, or its address in a bucket.

    Yields:
        The folder; for a bucket a scratch folder with copies, which goes when the block ends.

    Raises:
        GlomflowError: The plan is damaged, or the bucket cannot be read.
    """
    with _scratch(results) as (folder, bucket):
        if bucket is not None and bucket.listing(PLAN):
            bucket.fetch(PLAN, folder / PLAN)
            planned = {name for job in read_plan(folder).jobs for name in (job.log, job.benchmark)}
            listed = [*bucket.listing("logs/"), *bucket.listing("benchmarks/")]
            bucket.fetch_all([name for name in listed if name in planned], folder)
        yield folder


@contextlib.contextmanager
def outline_of(results: str, tables: tuple[str, ...]) -> Iterator[Path]:
    """Yields a folder that tells how far a run is.

    Args:
        results: The results folder, or its address in a bucket.
        tables: What is read in it besides: files, and folders with a ``/`` at the end, relative to it.

    Yields:
        The folder. For a bucket a scratch folder, which goes when the block ends: the plan, the tables and
        the logs of jobs without all of their outputs; every other file is an empty one, as old as the object
        that it stands for.

    Raises:
        GlomflowError: There is no plan or it is damaged, or the bucket cannot be read.
    """
    with _scratch(results) as (folder, bucket):
        if bucket is not None:
            _outline(bucket, folder, tables)
        yield folder


@contextlib.contextmanager
def _scratch(results: str) -> Iterator[tuple[Path, Bucket | None]]:
    if not is_bucket(results):
        yield Path(results), None
        return
    with tempfile.TemporaryDirectory(prefix="glomflow-results-") as scratch:
        yield Path(scratch), bucket_at(results)


def _outline(bucket: Bucket, folder: Path, tables: tuple[str, ...]) -> None:
    times = bucket.times()
    if PLAN not in times:
        raise no_plan(bucket.address)
    _stand_in(times, folder)
    bucket.fetch(PLAN, folder / PLAN)
    logs = {job.log for job in read_plan(folder).jobs if not job.is_complete(folder)}
    wanted = [name for name in times if name in logs or name.startswith(tables)]
    bucket.fetch_all(wanted, folder)
    for name in wanted:
        os.utime(folder / name, (times[name], times[name]))


def _stand_in(times: dict[str, float], folder: Path) -> None:
    """Makes empty files; a folder is as old as the newest file in it."""
    newest: dict[Path, float] = {}
    for name, when in times.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (when, when))
        for parent in (path, *path.parents):
            newest[parent] = max(newest.get(parent, 0.0), when)
            if parent == folder:
                break
    for path, when in newest.items():
        if path.is_dir():
            os.utime(path, (when, when))
