"""Times training and predicting all frozen models, folds and seeds of a run whose features exist.

    python benchmarks/frozen_demo.py --results results --cores 2

Removes the run's models and predictions and makes them anew through snakemake.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    targets = sorted(map(str, arguments.results.glob("predictions/*/fold*_seed*.parquet")))
    if not targets:
        raise SystemExit(f"{arguments.results} holds no predictions; run the workflow once")
    for folder in ("models", "predictions", "instances", "checkpoints"):
        shutil.rmtree(arguments.results / folder, ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "--cores", str(arguments.cores), "--quiet", "all"]
    command += ["--rerun-triggers", "mtime", "--config", f"run={{results: {arguments.results}}}"]
    load, started = os.getloadavg()[0], time.perf_counter()
    subprocess.run([*command, "--", *targets], check=True)
    spent = time.perf_counter() - started
    print(f"{len(targets)} trainings and predictions: {spent:.1f} s on {arguments.cores} cores")
    print(f"load of the machine before: {load:.1f}")


if __name__ == "__main__":
    main()
