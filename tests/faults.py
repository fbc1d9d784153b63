"""Faults that were made on purpose, what was printed, and what became of the results.

One place for the tests, which look for these words in real runs, and for the table in docs/reliability.md:
``python tests/faults.py`` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
MARKS = ("<!-- table: tests/faults.py -->", "<!-- end of table -->")


@dataclass(frozen=True)
class Fault:
    """A fault and its outcome.

    Attributes:
        made: How the test makes it.
        says: Words that the run printed; a test finds them.
        where: Where they are: console, SLURM log, the job's log.
        becomes: What happened to the run and its results.
        do: What is left to the user.
        test: Test that makes it.
    """

    made: str
    says: str
    where: str
    becomes: str
    do: str
    test: str


SLURM = "cluster/test_slurm.py"
LOCAL = "workflow/test_faults.py"
SAME = "weights as of an undisturbed run"

FAULTS = {
    "cancelled": Fault(
        "`scancel` of a training",
        "SLURM status is: 'CANCELLED'",
        "console",
        f"submitted again, resumed from its checkpoint, {SAME}",
        "nothing",
        SLURM,
    ),
    "node": Fault(
        "a node dies with a training on it",
        "going on after",
        "job's log",
        f"SLURM puts the job back into the queue, it resumes on another node, {SAME}",
        "nothing",
        SLURM,
    ),
    "controller": Fault(
        "`slurmctld` stopped and started while jobs run",
        "Finished jobid",
        "console",
        f"jobs go on, Snakemake asks again, {SAME}",
        "nothing",
        SLURM,
    ),
    "time": Fault(
        "a training hangs until its time limit",
        "SLURM status is: 'TIMEOUT'",
        "console",
        f"submitted again with twice the time, resumed from its checkpoint, {SAME}",
        "nothing; raise `runtime` in the profile if the third attempt fails too",
        SLURM,
    ),
    "memory": Fault(
        "a training gets less memory than it needs",
        "memory limit",
        "SLURM log",
        f"killed, submitted again with more memory, {SAME}",
        "nothing; raise `mem_mb` in the profile if the third attempt fails too",
        SLURM,
    ),
    "head": Fault(
        "Snakemake killed with -9, unlocked and started again while its old job runs",
        "waiting: another job writes the same files",
        "SLURM log",
        f"the new job waits until the old one has ended; never two at once; {SAME}",
        "`snakemake --unlock`, then the same command; `scancel` the old jobs to save their time",
        SLURM,
    ),
    "two": Fault(
        "a second Snakemake in the same folder",
        "Directory cannot be locked",
        "console",
        "the second stops before it runs anything, the first goes on",
        "wait for the first, or give the second its own folder",
        SLURM,
    ),
    "full": Fault(
        "the disk fills up while features are written",
        "the disk is full",
        "console, job's log",
        "no output is left, finished files stay; after making room the run ends with the same bits",
        "make room, the same command again",
        LOCAL,
    ),
    "read_only": Fault(
        "the results are mounted read-only",
        "Read-only file system",
        "console",
        "nothing is changed",
        "mount it writable, the same command again",
        LOCAL,
    ),
    "array": Fault(
        "a crop store is cut off",
        "cannot be read",
        "console, job's log",
        "the job that reads it stops and names the file; deleted, it is made again with the same bits",
        "delete the named file, the same command again",
        LOCAL,
    ),
    "table": Fault(
        "one bit of a table is flipped",
        "cannot be read",
        "console, job's log",
        "the checksum of the page tells; the file is named; deleted, it is made again with the same bits",
        "delete the named file, the same command again",
        LOCAL,
    ),
    "weights": Fault(
        "one bit of trained weights is flipped",
        "do not have the digest",
        "console, job's log",
        "the prediction stops and names the file; deleted, it is trained again to the same bits",
        "delete the named file, the same command again",
        LOCAL,
    ),
}


def table() -> str:
    """Returns the table of the page."""
    lines = [
        "| fault | printed (where) | what becomes of it | what you do | test |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fault in FAULTS.values():
        says = f"`{fault.says}` ({fault.where})"
        lines.append(f"| {fault.made} | {says} | {fault.becomes} | {fault.do} | `{fault.test}` |")
    return "\n".join(lines)


def page(text: str) -> str:
    """Returns the page with the table as it is now."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
