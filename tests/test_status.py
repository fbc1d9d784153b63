"""The state of a run, told from files."""

import base64
import json
import os
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from glomflow.cli import main
from glomflow.errors import GlomflowError
from glomflow.files import read_json, write_json
from glomflow.run_plan import PlannedJob, process_start, read_plan, write_plan
from glomflow.run_state import read_events, read_state, tail
from glomflow.status import duration, read_status, show_status, status_text
from glomflow.tables import EXCLUDED, INVENTORY, PATIENTS, write_table
from planned_jobs import job_fields

NAMES = ("0000", "0001", "0002", "0003", "0004")
START = (
    "[Fri Nov 27 20:50:{second:02d} 2026]\nlocalrule ingest:\n    output: x\n    jobid: {id}\n    reason: r\n"
)
FINISH = (
    "[Fri Nov 27 20:50:{second:02d} 2026]\nFinished jobid: {id} (Rule: ingest)\n1 of 5 steps (20%) done\n"
)
ERROR = "[Fri Nov 27 20:50:{second:02d} 2026]\nError in rule ingest:\n    message: None\n    jobid: {id}\n"


def seconds(second: int) -> float:
    return time.mktime((2026, 11, 27, 20, 50, second, 0, 0, -1))


def log_of(*events: tuple[str, int, int]) -> str:
    return "".join(text.format(id=number, second=second) for text, number, second in events)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run that has just started: five jobs, none of them begun."""
    folder = tmp_path / "run"
    (folder / ".snakemake/log").mkdir(parents=True)
    (folder / ".snakemake/log/a.snakemake.log").write_text("Building DAG of jobs...\n")
    monkeypatch.chdir(folder)
    jobs = [job_fields(number, name) for number, name in enumerate(NAMES, 3)]
    write_plan(Path("results/plan.json"), "results", jobs, [str(folder / ".snakemake/log/a.snakemake.log")])
    return folder


def said_by_snakemake(run: Path, text: str) -> None:
    (run / ".snakemake/log/a.snakemake.log").write_text(text)


def finish(run: Path, name: str) -> None:
    (run / f"results/opened/thumbnails/{name}").mkdir(parents=True)
    (run / f"results/opened/{name}.parquet").touch()


def job_log(run: Path, name: str, text: str) -> None:
    path = run / f"results/logs/ingest/{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def states(run: Path, results: str = "results") -> dict[str, str]:
    state = read_state(read_plan(run / results), run / results)
    return {one.job.wildcards["shard"]: one.state for one in state.jobs}


def killed(run: Path) -> None:
    """Makes the plan that of a process that is gone."""
    plan = read_json(run / "results/plan.json")
    write_json(run / "results/plan.json", {**plan, "process": "0"})


def test_plan_is_read_as_written(run) -> None:
    plan = read_plan(run / "results")
    assert plan.pid == os.getpid()
    assert plan.process == process_start(os.getpid())
    assert Path(plan.folder) == run
    assert plan.results == "results"
    assert plan.jobs[0] == PlannedJob(
        id=3,
        rule="ingest",
        wildcards={"shard": "0000"},
        outputs=("opened/0000.parquet", "opened/thumbnails/0000"),
        log="logs/ingest/0000.log",
        benchmark="benchmarks/ingest/0000.tsv",
        threads=2,
        gpus=0,
        needed=True,
    )


def test_events_of_a_log() -> None:
    text = log_of((START, 3, 1), (START, 4, 2), (FINISH, 3, 5), (ERROR, 4, 6), (START, 4, 8), (START, 5, 9))
    assert read_events(text.splitlines()) == {
        3: ("finished", seconds(5)),
        4: ("started", seconds(8)),
        5: ("started", seconds(9)),
    }


def test_events_of_messages_and_groups() -> None:
    group = (
        "[Fri Nov 27 20:50:01 2026] group job ab (jobs in lexicogr. order):\n"
        "    [Fri Nov 27 20:50:01 2026]\n    rule ingest:\n        jobid: 3\n\n"
        "    [Fri Nov 27 20:50:01 2026]\n    rule folds:\n        jobid: 4\n\n"
        "[Fri Nov 27 20:50:03 2026]\nJob 6: Open images\nReason: r\n"
        "[Fri Nov 27 20:50:04 2026]\n    jobs:\n        rule folds:\n            jobid: 4\n"
    )
    assert read_events(group.splitlines()) == {
        3: ("started", seconds(1)),
        4: ("failed", seconds(4)),
        6: ("started", seconds(3)),
    }


def test_a_run_in_progress(run) -> None:
    for name in ("0000", "0002"):
        finish(run, name)
    job_log(run, "0001", "Traceback (most recent call last):\nerror: it broke\n")
    said_by_snakemake(
        run, log_of((START, 3, 1), (FINISH, 3, 3), (START, 4, 4), (ERROR, 4, 5), (START, 5, 6), (START, 6, 7))
    )
    assert states(run) == {
        "0000": "done",
        "0001": "failed",
        # Its outputs are there, but Snakemake has not said that it is finished, nor is there a record.
        "0002": "running",
        "0003": "running",
        "0004": "to do",
    }


def test_a_killed_run_is_interrupted_and_what_was_not_begun_is_to_do(run) -> None:
    finish(run, "0000")
    said_by_snakemake(run, log_of((START, 3, 1), (FINISH, 3, 3), (START, 4, 4)))
    killed(run)
    assert states(run) == dict(zip(NAMES, ["done", "interrupted", *["to do"] * 3], strict=True))
    status = read_status(run / "results")
    assert status["state"] == "interrupted"
    assert status["jobs"] == {"done": 1, "running": 0, "failed": 0, "interrupted": 1, "to do": 3}


def test_a_run_on_another_machine_may_still_run(run) -> None:
    said_by_snakemake(run, log_of((START, 3, 1)))
    plan = read_json(run / "results/plan.json")
    write_json(run / "results/plan.json", {**plan, "host": "elsewhere"})
    assert states(run)["0000"] == "running"
    assert read_status(run / "results")["state"] == "unknown"


def test_a_quiet_run_is_told_from_marks_outputs_and_logs(run) -> None:
    finish(run, "0000")
    finish(run, "0001")
    os.utime(run / "results/opened/0001.parquet", (1000, 1000))
    marker = base64.urlsafe_b64encode(b"results/opened/0002.parquet").decode()
    (run / ".snakemake/incomplete").mkdir()
    (run / ".snakemake/incomplete" / marker).touch()
    (run / ".snakemake/incomplete" / "no base64").touch()
    job_log(run, "0003", "reading\nTraceback (most recent call last):\n  File x\nValueError: no\n")
    job_log(run, "0004", "of an earlier run")
    os.utime(run / "results/logs/ingest/0004.log", (1000, 1000))
    assert states(run) == {
        "0000": "done",
        "0001": "to do",  # from before the run, which has to redo it
        "0002": "running",
        "0003": "failed",
        "0004": "to do",
    }


def test_outputs_that_were_up_to_date_are_done_until_they_are_gone(run, monkeypatch) -> None:
    monkeypatch.chdir(run)
    jobs = [job_fields(number, name, needed=False) for number, name in enumerate(NAMES)]
    write_plan(Path("results/plan.json"), "results", jobs, [])
    finish(run, "0000")
    os.utime(run / "results/opened/0000.parquet", (1000, 1000))
    assert states(run) == dict(zip(NAMES, ["done", *["to do"] * 4], strict=True))


def test_a_copy_is_told_from_its_own_files(run) -> None:
    finish(run, "0000")
    job_log(run, "0001", "error: bad.csv, row 3: no such label\n")
    job_log(run, "0002", "halfway")
    said_by_snakemake(run, log_of((START, 3, 1), (START, 7, 2)))
    shutil.copytree(run / "results", run / "elsewhere")
    assert states(run, "elsewhere") == {
        "0000": "done",
        "0001": "failed",
        "0002": "interrupted",
        "0003": "to do",
        "0004": "to do",
    }
    status = read_status(run / "elsewhere")
    assert status["copy"]
    assert status["failed"][0]["tail"] == ["error: bad.csv, row 3: no such label"]
    assert "a copy: only its own files were looked at." in status_text(status)


def test_nothing_is_written(run) -> None:
    said_by_snakemake(run, log_of((START, 3, 1)))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    read_status(run / "results")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_text(run, monkeypatch) -> None:
    finish(run, "0000")
    said_by_snakemake(run, log_of((START, 3, 1), (FINISH, 3, 3), (START, 4, 4), (ERROR, 4, 5), (START, 5, 6)))
    job_log(run, "0001", "\n".join(f"line {number}" for number in range(9)) + "\nerror: no space left\n\n")
    job_log(run, "0002", "12 of 40 images\r13 of 40 images\n")
    plan = read_json(run / "results/plan.json")
    write_json(run / "results/plan.json", {**plan, "started": seconds(0), "host": plan["host"]})
    for name in ("0001", "0002"):
        os.utime(run / f"results/logs/ingest/{name}.log", (seconds(9), seconds(9)))
    os.utime(run / ".snakemake/log/a.snakemake.log", (seconds(6), seconds(6)))
    monkeypatch.chdir(run)
    status = read_status(Path("results"), log_lines=2, now=seconds(26))
    lines = status_text(status, now=seconds(26)).splitlines()
    assert lines[0] == (
        f"results: running. Started 2026-11-27 20:50 on {plan['host']}, 26 s ago; last heard of 17 s ago."
    )
    assert lines[2:5] == [
        "stage             done  running  failed  to do",
        "Opening images  1 of 5        1       1      2",
        "all             1 of 5        1       1      2",
    ]
    assert lines[6:] == [
        "Failed:",
        "  open images, shard 0001 (results/logs/ingest/0001.log)",
        "    | line 8",
        "    | error: no space left",
        "",
        "Running:",
        "  open images, shard 0002, for 20 s (results/logs/ingest/0002.log)",
        "    | 12 of 40 images",
        "    | 13 of 40 images",
    ]


def test_a_log_of_an_earlier_run_is_not_shown(run) -> None:
    job_log(run, "0000", "long ago")
    os.utime(run / "results/logs/ingest/0000.log", (1000, 1000))
    said_by_snakemake(run, log_of((START, 3, 1)))
    (running,) = read_status(run / "results")["running"]
    assert running["words"] == "open images, shard 0000"
    assert running["tail"] == []


def test_what_is_left_out(run) -> None:
    blank = {"string": "", "int64": 0, "float64": float("nan")}
    row = {name: blank[column.dtype] for name, column in INVENTORY.items()}
    rows = [
        {**row, "image": "a", "status": "ok"},
        {**row, "image": "b", "status": "missing_file", "reason": "b.tif: there is no such file"},
        {**row, "image": "c", "status": "ok"},
    ]
    write_table(run / "results/inventory/0000.parquet", pd.DataFrame(rows), INVENTORY)
    patients = pd.DataFrame({"patient": ["p", "q"], "label": "MN", "site": "", "stage": None, "shard": 0})
    write_table(run / "results/cohort/patients.parquet", patients, PATIENTS)
    status = read_status(run / "results")
    assert status["images"]["by_status"] == {"missing_file": 1}
    text = status_text(status)
    assert "Images left out: 1 of 3 opened so far (1 missing file)\n  b.tif: there is no such file\n" in text
    assert "Patients left out: not known before the folds are dealt, of 2" in text
    excluded = pd.DataFrame({"patient": ["q"], "reason": ["no usable image"]})
    write_table(run / "results/folds/excluded.parquet", excluded, EXCLUDED)
    shutil.move(run / "results/inventory/0000.parquet", run / "results/inventory.parquet")
    text = status_text(read_status(run / "results"))
    assert "Images left out: 1 of 3 (1 missing file)\n" in text
    assert text.endswith("Patients left out: 1 of 2\n  q: no usable image\n")


def test_watching_ends_with_the_run(run, capsys) -> None:
    said_by_snakemake(run, log_of((START, 3, 1)))
    waited = []

    def sleep(seconds_: float) -> None:
        waited.append(seconds_)
        if len(waited) == 2:
            killed(run)

    show_status(run / "results", watch=7.0, sleep=sleep)
    assert waited == [7.0, 7.0]
    assert capsys.readouterr().out.count("stage ") == 3


def test_the_command(run, capsys) -> None:
    for name in NAMES:
        finish(run, name)
    killed(run)
    assert main(["status", str(run / "results"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["state"] == "done"
    assert status["stages"] == [
        {
            "stage": "images",
            "title": "Opening images",
            "jobs": 5,
            "done": 5,
            "running": 0,
            "failed": 0,
            "interrupted": 0,
            "to do": 0,
        }
    ]
    assert main(["status", str(run / "results")]) == 0
    assert "finished" in capsys.readouterr().out.splitlines()[0]


def test_a_folder_without_a_plan_is_an_error(tmp_path, capsys) -> None:
    assert main(["status", str(tmp_path)]) == 1
    assert "holds no plan.json, which every run writes when it starts" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "nowhere")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"jobs": []}', "[]", '{"jobs": '])
def test_a_damaged_plan_is_an_error(tmp_path, content) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(GlomflowError, match=r"plan\.json: (is no plan of this version|cannot be read)"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7440, "2 h 4 min"),
        (3600, "1 h"),
        (266400, "3 d 2 h"),
    ],
)
def test_durations(value, text) -> None:
    assert duration(value) == text


def test_the_end_of_a_long_log(tmp_path) -> None:
    path = tmp_path / "long.log"
    path.write_text("".join(f"{number}\n" for number in range(100_000)))
    assert tail(path, 3) == ["99997", "99998", "99999"]
    assert tail(tmp_path / "none.log", 3) == []
