"""Time and memory that Snakemake needs to plan cohorts of 1,000, 10,000 and 100,000 patients.

    PYTHONPATH=src python benchmarks/dag_scale.py --patients 1000 10000 100000 --out scale.json

Each cohort has two sheets and empty image files: one OM field with its outlines, one IM and five TEM images
of a patient, in a folder of its own. Nothing is computed. Measured are a first dry run; handing out all jobs
to eight slots, where outputs that were created empty (the shards' tables of images truly) are touched
instead of computed; a run that then finds everything done; and the plan after a patient was added.
``--table scale.json`` prints what was measured as docs/scale.md shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from glomflow.cohort.sheets import recommended_shards
from glomflow.cohort.source import read_source
from glomflow.config import Cohort
from glomflow.tables import IMAGES, write_table

REPO = Path(__file__).resolve().parents[1]
TEM_IMAGES = 5
FILES = 8
"""Files of a patient: OM, its outlines, IM, TEM images."""
IMAGE_STAGES = ("cohort_shard", "ingest", "stain_profiles", "glomerulus_crops", "im_crops", "tem_tiles")
LABELS = ("IgAN", "MN", "LN")
SETTINGS = """
run: {{results: results, tracks: [diagnosis, glomeruli], shards: {shards}}}
cohort: {{source: sheets, folder: cohort}}
few_shot: {{adapted: {{}}}}
"""
SLOTS = 8
SNAKEMAKE = "import sys; from snakemake.cli import main; main(sys.argv[1:])"
UNDELAYED = "from snakemake.executors import touch; touch.Executor.SLEEPING_TIME = 0; "
"""``--touch`` waits 0.1 s per job, so that times of files differ; here they need not."""


@dataclass(frozen=True)
class Measured:
    """What a cohort of a size cost.

    Attributes:
        patients: Patients.
        images: Rows of the image sheet.
        shards: Shards.
        jobs: Jobs of a first run.
        dry_cpu_s: Processor time of its dry run, s; it is one thread.
        dry_s: Its wall time, s; on a machine that others use, too, far more.
        dry_mb: Its peak resident memory, MB.
        hand_out_cpu_s: Processor time of planning, handing out and entering all jobs, none computed, s.
        hand_out_s: Its wall time, s.
        hand_out_mb: Its peak resident memory, MB.
        noop_cpu_s: Processor time of a run that finds everything done, s.
        noop_s: Its wall time, s.
        noop_mb: Its peak resident memory, MB.
        sheets_cpu_s: Processor time of reading and checking the sheets and looking at all files, once, s.
        shard_cpu_s: Processor time of reading a shard's rows, s.
        state_bytes: Bytes in ``.snakemake`` when everything is done.
        added_jobs: Jobs of each image stage after a patient was added; 1 is one shard.
    """

    patients: int
    images: int
    shards: int
    jobs: int
    dry_cpu_s: float
    dry_s: float
    dry_mb: float
    hand_out_cpu_s: float
    hand_out_s: float
    hand_out_mb: float
    noop_cpu_s: float
    noop_s: float
    noop_mb: float
    sheets_cpu_s: float
    shard_cpu_s: float
    state_bytes: int
    added_jobs: dict[str, int]


def write_cohort(folder: Path, patients: int) -> int:
    """Writes the sheets and empty files; returns the number of images."""
    names = [f"p{number:06d}" for number in range(patients)]
    sheet = ["patient,label,site"]
    sheet += [f"{name},{LABELS[place % 3]},site_{place % 7}" for place, name in enumerate(names)]
    rows = ["patient,modality,path,um_per_px,nm_per_px,annotation"]
    for name in names:
        rows += patient_rows(name)
        write_files(folder, name)
    (folder / "patients.csv").write_text("\n".join(sheet) + "\n", encoding="utf-8")
    (folder / "images.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows) - 1


def patient_rows(name: str) -> list[str]:
    """The rows of a patient in the image sheet."""
    rows = [f"{name},OM,{name}/om.tif,0.5,,{name}/om.geojson", f"{name},IM,{name}/im.tif,0.5,,"]
    return rows + [f"{name},TEM,{name}/tem_{place}.tif,,5.0," for place in range(TEM_IMAGES)]


def write_files(folder: Path, name: str) -> None:
    own = folder / name
    own.mkdir(parents=True)
    tem = [f"tem_{place}.tif" for place in range(TEM_IMAGES)]
    for file in ("om.tif", "om.geojson", "im.tif", *tem):
        (own / file).touch()


def snakemake(project: Path, *arguments: str, cores: int = 1) -> tuple[str, float, float, float]:
    """Runs snakemake; returns what it printed, processor and wall seconds, and peak resident memory in MB."""
    program = UNDELAYED + SNAKEMAKE if "--touch" in arguments else SNAKEMAKE
    command = [sys.executable, "-c", program, "--cores", str(cores), "--configfile", "scale.yaml", *arguments]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        process = subprocess.Popen(command, cwd=project, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        spent = time.perf_counter() - started
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-4000:]}")
    return text, usage.ru_utime + usage.ru_stime, spent, usage.ru_maxrss / 1024


def planned(text: str) -> dict[str, int]:
    """The jobs of each rule that a dry run announces."""
    table = re.search(r"Job stats:\njob\s+count\n[- ]+\n(.*?)\n\n", text, flags=re.S)
    rows = [line.split() for line in table.group(1).splitlines()] if table else []
    return {name: int(count) for name, count in rows}


def read_sheets(folder: Path, shards: int, shard: int | None = None) -> tuple[pd.DataFrame, float]:
    """Reads the images as the workflow does; returns them and the processor time, s."""
    settings = Cohort(source="sheets", folder="cohort")
    started = time.process_time()
    _, images = read_source(settings, folder, n_splits=5, shards=shards, diagnosis=True, shard=shard)
    return images, time.process_time() - started


def create_outputs(project: Path, images: pd.DataFrame, shards: int) -> None:
    """Creates every output: empty, but for the shards' tables of images."""
    text, *_ = snakemake(project, "--summary")
    lines = text[text.index("output_file\t") :].splitlines()[1:]
    outputs = [project / line.split("\t")[0] for line in lines if "\t" in line]
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.parent.name == "thumbnails":
            output.mkdir(exist_ok=True)
        elif output.parent.name != "images":
            output.touch()
    for shard, rows in images.groupby("shard"):
        path = project / "results" / "cohort" / "images" / f"{shard:04d}.parquet"
        write_table(path, rows.reset_index(drop=True), IMAGES)
    for shard in range(shards):
        path = project / "results" / "cohort" / "images" / f"{shard:04d}.parquet"
        if not path.exists():
            write_table(path, images.iloc[:0], IMAGES)


def add_patient(project: Path) -> None:
    folder = project / "cohort"
    write_files(folder, "added")
    with (folder / "patients.csv").open("a", encoding="utf-8") as handle:
        handle.write("added,MN,site_0\n")
    with (folder / "images.csv").open("a", encoding="utf-8") as handle:
        handle.write("\n".join(patient_rows("added")) + "\n")


def measure(patients: int, scratch: Path) -> Measured:
    """Measures one size in a project of its own, which is removed afterwards."""
    project = Path(tempfile.mkdtemp(prefix="dag_scale_", dir=scratch))
    try:
        for part in ("Snakefile", "config.yaml", "rules", "workflow_scripts", "profiles", "envs", "src"):
            os.symlink(REPO / part, project / part)
        images = write_cohort(project / "cohort", patients)
        shards = recommended_shards(patients)
        (project / "scale.yaml").write_text(SETTINGS.format(shards=shards), encoding="utf-8")
        text, *dry = snakemake(project, "--dry-run", "--quiet", "rules")
        jobs = planned(text)
        say(f"{patients} patients, {shards} shards: {jobs['total']} jobs; CPU s, s, MB: {dry}")
        table, sheets_s = read_sheets(project / "cohort", shards)
        _, shard_s = read_sheets(project / "cohort", shards, 0)
        say(f"  sheets: {sheets_s:.1f} s, of a shard {shard_s:.1f} s")
        create_outputs(project, table, shards)
        _, *hand_out = snakemake(project, "--touch", "--forceall", "--quiet", "all", cores=SLOTS)
        say(f"  handing out: CPU s, s, MB: {hand_out}")
        text, *noop = snakemake(project)
        if "Nothing to be done" not in text:
            raise SystemExit(f"jobs are left where everything is done:\n{text[-4000:]}")
        state = sum(path.stat().st_size for path in (project / ".snakemake").rglob("*") if path.is_file())
        say(f"  nothing to be done: CPU s, s, MB: {noop}; .snakemake: {state} bytes")
        add_patient(project)
        plan = planned(snakemake(project, "--dry-run", "--quiet", "rules")[0])
        added = {name: plan.get(name, 0) for name in IMAGE_STAGES}
        say(f"  a patient more: {added}")
        counts = (patients, images, shards, jobs["total"])
        return Measured(*counts, *dry, *hand_out, *noop, sheets_s, shard_s, state, added)
    finally:
        shutil.rmtree(project)


def markdown(measured: list[Measured]) -> str:
    """The table of docs/scale.md."""
    head = (
        "patients",
        "images",
        "shards",
        "jobs",
        "dry run: s (CPU s)",
        "MB",
        "handing out: s (CPU s)",
        "MB",
        "nothing to do: s (CPU s)",
        "MB",
        "`.snakemake`, MB",
        "sheets: CPU s",
        "one shard's rows: CPU s",
        "shards redone per stage",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for each in measured:
        cells = (
            f"{each.patients:,}",
            f"{each.images:,}",
            f"{each.shards:,}",
            f"{each.jobs:,}",
            f"{each.dry_s:.1f} ({each.dry_cpu_s:.1f})",
            f"{each.dry_mb:.0f}",
            f"{each.hand_out_s:.1f} ({each.hand_out_cpu_s:.1f})",
            f"{each.hand_out_mb:.0f}",
            f"{each.noop_s:.1f} ({each.noop_cpu_s:.1f})",
            f"{each.noop_mb:.0f}",
            f"{each.state_bytes / 1e6:.0f}",
            f"{each.sheets_cpu_s:.1f}",
            f"{each.shard_cpu_s:.1f}",
            f"{max(each.added_jobs.values())}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print what an earlier run wrote with --out")
    arguments = parser.parse_args()
    if arguments.table:
        told = json.loads(arguments.table.read_text(encoding="utf-8"))
        say(markdown([Measured(**each) for each in told]))
        return
    measured = [measure(patients, arguments.scratch) for patients in arguments.patients]
    say(markdown(measured))
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(each) for each in measured], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
