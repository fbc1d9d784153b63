"""The section on time and memory."""

import math

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Config
from glomflow.costs import JOB_COSTS
from glomflow.report.blocks import KeyFigures, Prose, Table
from glomflow.report.material import Material, ReportInputs
from glomflow.report.sections_costs import costs_section, memory, totals
from glomflow.tables import write_table


def costs(rows) -> pd.DataFrame:
    columns = ("stage", "job", "gpus", "seconds", "cpu_seconds", "memory_mb")
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.assign(rule="r", threads=1, record=[f"benchmarks/{n}.tsv" for n in range(len(frame))])
    return frame[list(JOB_COSTS)]


LONG = costs(
    [
        ("training", "train om, fold 0", 2, 36000.0, 30000.0, 12300.0),
        ("training", "train om, fold 1", 2, 39600.0, 33000.0, 11000.0),
        ("images", "open images, shard 0000", 0, 1800.0, 1700.0, 640.0),
        ("images", "open images, shard 0001", 0, 0.3, np.nan, np.nan),
        ("images", "open images, shard 0002", 0, np.nan, np.nan, np.nan),
    ]
)


@pytest.fixture
def section_of(tmp_path):
    def made(frame: pd.DataFrame):
        write_table(tmp_path / "costs.parquet", frame, JOB_COSTS)
        return costs_section(Material(ReportInputs(costs=tmp_path / "costs.parquet"), Config()))

    return made


def test_totals() -> None:
    found = totals(LONG)
    assert found["jobs"] == 5
    assert found["recorded"] == 4
    assert found["seconds"] == 77400.3
    assert found["cpu_seconds"] == 64700.0
    assert found["gpu_seconds"] == 151200.0
    assert found["longest"] == 39600.0
    assert found["memory_mb"] == 12300.0
    assert math.isnan(totals(LONG[LONG["seconds"].isna()])["seconds"])


def test_a_long_run_in_hours(section_of) -> None:
    figures, prose, stages, jobs = section_of(LONG).blocks
    assert isinstance(figures, KeyFigures)
    assert [item[:2] for item in figures.items] == [
        ("job hours", "21.5"),
        ("CPU hours", "18.0"),
        ("GPU hours", "42.0"),
        ("peak memory", "12.3 GB"),
    ]
    assert isinstance(prose, Prose)
    assert "1 job has no record and has no part in the sums." in prose.text.replace("\u00a0", " ")
    assert "1 job was too short to be measured" in prose.text.replace("\u00a0", " ")
    assert isinstance(stages, Table)
    assert [tuple(cell.replace("\u00a0", " ") for cell in row) for row in stages.rows] == [
        ("Opening images", "3", "0.50", "2 %", "0.47", "0", "0.50", "640 MB"),
        ("Training", "2", "21.0", "98 %", "17.5", "42.0", "11.0", "12.3 GB"),
        ("all", "5", "21.5", "100 %", "18.0", "42.0", "11.0", "12.3 GB"),
    ]
    assert isinstance(jobs, Table)
    assert jobs.caption == "The jobs that took longest, 4 of 4."
    assert jobs.rows[0] == ("train om, fold 1", "11.0", "9.17", "1", "2", "11.0 GB")
    assert jobs.rows[3] == ("open images, shard 0001", "0.00", "–", "1", "0", "–")


def test_a_short_run_in_minutes_without_a_word_on_gpus(section_of) -> None:
    rows = [("images", f"open images, shard {n:04d}", 0, 30.0 + n, 20.0, 500.0) for n in range(12)]
    figures, prose, _, jobs = section_of(costs(rows)).blocks
    assert figures.items[0][:2] == ("job minutes", "7.10")
    assert "GPU" not in prose.text
    assert "no record" not in prose.text
    assert [row[0][-4:] for row in jobs.rows] == [f"{n:04d}" for n in range(11, 1, -1)]
    assert jobs.caption == "The jobs that took longest, 10 of 12."


def test_nothing_measured_leaves_the_section_out(section_of) -> None:
    assert section_of(costs([])) is None
    assert section_of(LONG[LONG["seconds"].isna()]) is None
    assert costs_section(Material(ReportInputs(), Config())) is None


@pytest.mark.parametrize(("value", "text"), [(421.3, "421 MB"), (999.4, "999 MB"), (12345.0, "12.3 GB")])
def test_memory(value, text) -> None:
    assert memory(value) == text
