"""Kills trainings at random moments, resumes each, and compares the weights.

PYTHONPATH=src:tests python benchmarks/sigkill_resume.py --kills 50
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from glomflow.files import sha256_file
from glomflow.tables import TRAINING, write_table
from training import synthetic

STEPS = 18


def run(stores: Path, out: Path, table: Path, last: int) -> int:
    """Trains in a process of its own that kills itself after a step; -1: never."""
    command = [sys.executable, synthetic.__file__, str(stores), str(out), str(table), str(last)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
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
            step = draw.randint(1, STEPS)
            assert run(folder, out, table, step) == -signal.SIGKILL
            assert run(folder, out, table, -1) == 0
            same += sha256_file(out / "w.safetensors") == expected
            print(f"killed after step {step}: {same} of {kill + 1} end with the same bits", flush=True)
    if same != arguments.kills:
        raise SystemExit(f"{arguments.kills - same} trainings ended with other bits")


if __name__ == "__main__":
    main()
