"""Predicted against measured host memory of trainings with trainable encoders, and growth with the cohort.

    PYTHONPATH=src:tests python benchmarks/training_memory.py

Each case trains for some steps on the CPU in a process of its own, from sparse crop files that take no disk.
Measured is the peak of anonymous resident memory (RssAnon) beyond what Python and torch hold before; pages of
the mapped crops are no part of it. The stated limit of growth is what 6,000 patients may take beyond 60.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from glomflow.models.torchvision_compat import import_timm
from glomflow.tables import CROPS, write_table
from glomflow.training.checkpoints import Checkpoint
from glomflow.training.data import StoreRef
from glomflow.training.distributed import World
from glomflow.training.engine import fit
from glomflow.training.fit import prepare
from glomflow.training.memory import at_once, estimate
from glomflow.training.seeds import deterministic
from training import synthetic

MIB = 1024**2
GROWTH = 64
"""MiB that 6,000 patients may take beyond 60."""


@dataclass(frozen=True)
class Case:
    """One training: its cohort, its images, its length."""

    patients: int
    bag: int
    size: int
    encoder: str
    steps: int
    threads: int


class Enough(Exception):
    """Ends a training after some steps."""


def sparse_stores(folder: Path, case: Case) -> dict[str, list[StoreRef]]:
    """Writes crops of zeros as sparse files."""
    stores = {}
    for modality in ("OM", "IM", "TEM"):
        each = case.bag if modality == "TEM" else 1
        count = case.patients * each
        row = synthetic.crop_row(modality, 0, 0, 0, True)
        index = pd.DataFrame([row]).loc[np.zeros(count, int)].reset_index(drop=True)
        index["row"] = np.arange(count)
        index["crop"] = [f"{modality}-{place}" for place in range(count)]
        index["patient"] = [f"p{place // each:02d}" for place in range(count)]
        ref = StoreRef(folder / f"{modality}.npy", folder / f"{modality}.parquet")
        write_table(ref.index, index[list(CROPS)], CROPS)
        np.lib.format.open_memmap(
            ref.npy, "w+", np.uint8, (count, *synthetic.crop_shape(modality, case.size))
        ).flush()
        stores[modality] = [ref]
    return stores


def resident() -> int:
    """Returns the anonymous resident memory of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system tells no RssAnon")


class Peak(threading.Thread):
    """Watches the memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.base = self.highest = resident()
        self._stop_now = threading.Event()

    def run(self) -> None:
        """Looks every two milliseconds."""
        while not self._stop_now.wait(0.002):
            self.highest = max(self.highest, resident())

    def stop(self) -> int:
        """Returns the highest value beyond that of the beginning, bytes."""
        self._stop_now.set()
        self.join()
        return max(self.highest, resident()) - self.base


def warm_up() -> None:
    """Loads what the libraries load at their first use."""
    import_timm()
    layer = torch.nn.Conv2d(3, 8, 3)
    layer(torch.zeros(2, 3, 32, 32)).sum().backward()
    torch.optim.Adam(layer.parameters()).step()


def measure(case: Case, folder: Path) -> dict[str, float]:
    """Trains in this process; returns MiB."""
    stores = sparse_stores(folder, case)
    settings = synthetic.settings(
        model={"standardise": False},
        encoder={"name": case.encoder, "trainable": "all"},
        selection="last",
        epochs=1,
    )
    table = synthetic.train_table(case.patients, validation=0)
    with deterministic(case.threads):
        warm_up()
        peak = Peak()
        peak.start()
        _, task = prepare(table, stores, settings, "net", 0, torch.device("cpu"), world=World())
        predicted = estimate(task, 0, at_once(task.training, len(task.train), 1)).total

        def stop(step: int) -> None:
            if step == case.steps:
                raise Enough

        with contextlib.suppress(Enough):
            fit(task, Checkpoint(folder / "c.pt", "", interval=1e9), stop)
        return {"predicted": predicted / MIB, "measured": peak.stop() / MIB, "base": peak.base / MIB}


def in_child(case: Case) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--patients", type=int, nargs="+", default=[60, 600, 6000])
    parser.add_argument("--bags", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            found = measure(Case(**json.loads(options.case)), Path(name))
        print(json.dumps(found))
        return
    few, bag, size = options.patients[0], options.bags[-1], options.sizes[0]  # small: little to fluctuate
    shapes = [(few, b, s) for b in options.bags for s in options.sizes]
    shapes += [(patients, bag, size) for patients in options.patients[1:]]
    peaks = {}
    print(f"{options.encoder}, batch 4, {options.steps} steps; MiB beyond Python and torch")
    print("patients   bag  size  predicted  measured  measured/predicted")
    for patients, each, edge in shapes:
        case = Case(patients, each, edge, options.encoder, options.steps, options.threads)
        found = in_child(case)
        peaks[patients, each, edge] = found["measured"]
        print(
            f"{patients:8d} {each:5d} {edge:5d} {found['predicted']:10.0f} {found['measured']:9.0f}  "
            f"{found['measured'] / found['predicted']:.2f}",
            flush=True,
        )
    growth = peaks[options.patients[-1], bag, size] - peaks[few, bag, size]
    print(f"{options.patients[-1]} patients against {few}: {growth:+.0f} MiB (limit {GROWTH})")
    if growth > GROWTH:
        raise SystemExit("host memory grows with the cohort")


if __name__ == "__main__":
    main()
