"""Kills trainings at random moments, resumes each, and compares the weights.

Every other training is killed from outside after a random time, often while a checkpoint is being written
(one is after every step); the others kill themselves between two steps.

PYTHONPATH=src:tests python benchmarks/sigkill_resume.py --kills 50
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from glomflow.files import sha256_file
from glomflow.tables import TRAINING, write_table
from training import synthetic

STEPS = 18


def run(stores: Path, out: Path, table: Path, last: int) -> int:
    """Trains in a process of its own that kills itself after a step; -1: never."""
    command = [sys.executable, synthetic.__file__, str(stores), str(out), str(table), str(last)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def run_for(stores: Path, out: Path, table: Path, seconds: float) -> str:
    """Trains in a process that is killed so long after its first step; returns the last thing it told."""
    command = [sys.executable, synthetic.__file__, str(stores), str(out), str(table), "-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        told = ""
        while not told.startswith("step"):
            told = process.stdout.readline()
            assert told, "the training ended before its first step"
        time.sleep(seconds)
        process.kill()
        lines = [told, *process.stdout.read().splitlines()]
    return [line.strip() for line in lines if line.startswith("step")][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=0.4, help="seconds after the first step")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthetic.make_stores(folder)
        table = folder / "table.parquet"
        write_table(table, synthetic.train_table(), TRAINING)
        assert run(folder, folder / "whole", table, -1) == 0
        expected = sha256_file(folder / "whole" / "w.safetensors")
        same = 0
        for kill in range(arguments.kills):
            out = folder / f"kill{kill}"
            if kill % 2:
                where = run_for(folder, out, table, draw.uniform(0.0, arguments.longest))
            else:
                step = draw.randint(1, STEPS)
                assert run(folder, out, table, step) == -signal.SIGKILL
                where = f"step {step}"
            half = len(list(out.glob(".checkpoint-*")))
            assert run(folder, out, table, -1) == 0
            assert not list(out.glob(".checkpoint-*"))
            same += sha256_file(out / "w.safetensors") == expected
            beside = ", a checkpoint half written" if half else ""
            print(f"killed after {where}{beside}: {same} of {kill + 1} end with the same bits", flush=True)
    if same != arguments.kills:
        raise SystemExit(f"{arguments.kills - same} trainings ended with other bits")


if __name__ == "__main__":
    main()
