"""What a larger cohort will take, from the measured costs of a run that is finished.

Every rule leaves its time in ``benchmarks/``; numbers of images and crops and sizes of files are in the
results. The costs include the start of each job, so that they hold for shards of about the same size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet

from glomflow.costs import job_record
from glomflow.errors import GlomflowError
from glomflow.tables import INVENTORY, read_table

IMAGE_STAGES = {
    "ingest": ("image", ("OM", "IM", "TEM")),
    "stain_profiles": ("OM image", ("OM",)),
    "glomerulus_crops": ("OM image", ("OM",)),
    "im_crops": ("IM image", ("IM",)),
    "tem_tiles": ("TEM image", ("TEM",)),
}
"""Rules that read images: their unit, and the modalities that they read."""
STORED = {
    "ingest": "inventory",
    "glomerulus_crops": "crops/om",
    "im_crops": "crops/im",
    "tem_tiles": "crops/tem",
}
"""What they leave on the disk."""


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        stage: Name of the rule.
        unit: What it is counted in.
        per_patient: Units of a patient.
        seconds: Time of a unit, s.
        bytes: What a unit leaves on the disk.
        reads_pixels: Whether the time grows with the size of the images.
        jobs: Jobs at most that it runs in at a time; None where there is one per shard.
    """

    stage: str
    unit: str
    per_patient: float
    seconds: float
    bytes: float
    reads_pixels: bool
    jobs: int | None = None


def measured_costs(results: Path, column: Literal["seconds", "cpu_seconds"] = "seconds") -> list[Cost]:
    """Works out what each stage of a finished run took.

    Args:
        results: The results folder.
        column: ``seconds``, wall time, or ``cpu_seconds``, processor time, for a run on a
            machine that others used, too.

    Returns:
        The stages that grow with the cohort, in their order.

    Raises:
        GlomflowError: The folder holds no finished run.
    """
    inventory = read_table(results / "inventory.parquet", INVENTORY)
    patients = inventory["patient"].nunique()
    costs = []
    for stage, (unit, modalities) in IMAGE_STAGES.items():
        count = int(inventory["modality"].isin(modalities).sum())
        if count:
            size = _size(results / STORED[stage]) if stage in STORED else 0
            seconds, _ = _spent(results, stage, column)
            costs.append(Cost(stage, unit, count / patients, seconds / count, size / count, True))
    features = results / "features"
    encoded = sum(_crops(results, path) for path in features.rglob("*.npy"))
    if encoded:
        seconds, _ = _spent(results, "features", column)
        per_crop = _size(features) / encoded
        costs.append(Cost("features", "crop", encoded / patients, seconds / encoded, per_crop, False))
    for stage in ("train", "predict", "predict_subsets"):
        if (results / "benchmarks" / stage).is_dir():
            seconds, jobs = _spent(results, stage, column)
            costs.append(Cost(stage, "patient", 1.0, seconds / patients, 0.0, False, jobs))
    return costs


def estimate(costs: Sequence[Cost], patients: int, *, workers: int, pixels: float = 1.0) -> dict[str, float]:
    """Estimates what a cohort takes, as if every stage grew in proportion.

    Args:
        costs: From :func:`measured_costs`.
        patients: Patients of the cohort.
        workers: Jobs that run at a time.
        pixels: How many times as many pixels its images have.

    Returns:
        ``cpu_hours``; ``hours`` with these workers, one stage after the other; ``gigabytes`` (10^9 bytes) of
        results.
    """
    cpu, wall, size = 0.0, 0.0, 0.0
    for cost in costs:
        units = cost.per_patient * patients
        seconds = units * cost.seconds * (pixels if cost.reads_pixels else 1.0)
        cpu += seconds
        wall += seconds / min(workers, cost.jobs or workers)
        size += units * cost.bytes
    return {"cpu_hours": cpu / 3600, "hours": wall / 3600, "gigabytes": size / 1e9}


def costs_table(costs: Sequence[Cost]) -> str:
    """Returns the costs as a Markdown table."""
    lines = ["| rule | unit | per patient | s per unit | kB per unit |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{cost.stage}` | {cost.unit} | {cost.per_patient:.1f} | {cost.seconds:.3f} | "
        f"{cost.bytes / 1e3:.1f} |"
        for cost in costs
    ]
    return "\n".join(lines)


def estimate_table(
    costs: Sequence[Cost], cohorts: Sequence[int], *, workers: int, pixels: Sequence[float]
) -> str:
    """Returns the estimates of several cohorts as a Markdown table.

    Args:
        costs: From :func:`measured_costs`.
        cohorts: Numbers of patients.
        workers: Jobs that run at a time.
        pixels: Factors of the images' size, each a row of its own.
    """
    lines = [
        f"| patients | pixels per image | core hours | hours on {workers} cores | GB of results |",
        "| --- | --- | --- | --- | --- |",
    ]
    for patients in cohorts:
        for factor in pixels:
            found = estimate(costs, patients, workers=workers, pixels=factor)
            lines.append(
                f"| {patients:,} | x {factor:g} | {found['cpu_hours']:,.1f} | {found['hours']:,.1f} | "
                f"{found['gigabytes']:,.1f} |"
            )
    return "\n".join(lines)


def _spent(results: Path, stage: str, column: Literal["seconds", "cpu_seconds"]) -> tuple[float, int]:
    """Returns the time of all jobs of a rule, s, and their number."""
    tables = sorted((results / "benchmarks" / stage).rglob("*.tsv"))
    if not tables:
        raise GlomflowError(
            f"{results / 'benchmarks' / stage}: no benchmark of rule {stage}; name the results folder of a "
            "finished run"
        )
    records = [job_record(results, path.relative_to(results).as_posix()) for path in tables]
    return float(np.nansum([getattr(record, column) for record in records])), len(tables)


def _crops(results: Path, features: Path) -> int:
    """Returns the number of crops that a file of features belongs to."""
    index = results / "crops" / features.parent.name / f"{features.stem}.parquet"
    return int(pyarrow.parquet.read_metadata(index).num_rows)


def _size(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())
