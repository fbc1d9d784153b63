"""One of the processes that share a training; started by :func:`distributed.launch`."""

from __future__ import annotations

import sys
from pathlib import Path

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import read_json
from glomflow.tables import TRAINING, read_table
from glomflow.training.distributed import join, leave
from glomflow.training.fit import train_fold
from glomflow.training.stores import stores_from_files


def work(job: Path) -> None:
    """Trains this process's share.

    Args:
        job: JSON written by :func:`runs.train_runs`.
    """
    told = read_json(job)
    world, device = join(told["device"])
    try:
        train_fold(
            read_table(told["inputs"]["table"][0], TRAINING),
            stores_from_files(told["inputs"]),
            config.Config.model_validate(told["settings"]),
            told["model"],
            told["seed"],
            Path(told["weights"]),
            Path(told["history"]),
            Path(told["description"]),
            Path(told["checkpoint"]),
            device=device,
            threads=max(1, told["threads"] // world.size),
            world=world,
        )
    finally:
        leave()


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]))
    except GlomflowError as error:
        raise SystemExit(f"error: {error}") from error
