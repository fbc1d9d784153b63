"""A small cohort of stores with a learnable signal, for the tests of training.

Run as a program it trains a fold and can kill itself: see ``main``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from glomflow import config
from glomflow.tables import CROPS, TRAINING, read_table, write_table
from glomflow.training.data import StoreRef
from glomflow.training.fit import train_fold

CLASSES = ["IgAN", "MN", "LN"]
SHARDS = 2


def label_of(patient: int) -> str:
    return CLASSES[patient % 3]


def make_stores(
    folder: Path,
    patients: int = 12,
    *,
    channels: int = 8,
    size: int | None = None,
    lacking: dict[str, set[int]] | None = None,
    signal_strength: float = 1.0,
) -> dict[str, list[StoreRef]]:
    """Writes stores of features (and of crops of edge ``size``) for patients p00, p01, ..."""
    rng = np.random.default_rng(5)
    patterns = rng.normal(size=(3, channels)) * signal_strength
    stores: dict[str, list[StoreRef]] = {}
    for modality in ("OM", "IM", "TEM"):
        stores[modality] = []
        for shard in range(SHARDS):
            rows, maps, crops = [], [], []
            for patient in range(shard, patients, SHARDS):
                if patient in (lacking or {}).get(modality, set()):
                    continue
                for instance in range(2 + patient % 4 if modality == "TEM" else 2):
                    selected = modality == "TEM" or instance == 1
                    rows.append(crop_row(modality, patient, instance, len(rows), selected))
                    maps.append(rng.normal(size=(7, 7, channels)) + patterns[patient % 3])
                    crops.append(rng.integers(0, 256, (size or 1, size or 1, 1 if modality == "TEM" else 3)))
            stem = folder / f"{modality.lower()}-{shard}"
            ref = StoreRef(
                stem.with_suffix(".npy"), stem.with_suffix(".parquet"), folder / f"{stem.name}-f.npy"
            )
            write_table(ref.index, pd.DataFrame(rows, columns=list(CROPS)), CROPS)
            np.save(ref.npy, np.array(crops, np.uint8).reshape(len(rows), *crop_shape(modality, size)))
            np.save(ref.features, np.array(maps, np.float16).reshape(len(rows), 7, 7, channels))
            stores[modality].append(ref)
    return stores


def crop_shape(modality: str, size: int | None) -> tuple[int, int, int]:
    return (size or 1, size or 1, 1 if modality == "TEM" else 3)


def crop_row(modality: str, patient: int, instance: int, row: int, selected: bool) -> dict[str, object]:
    return {
        **dict.fromkeys(("x", "y", "width", "height", "um_per_px"), 0.0),
        "row": row,
        "crop": f"{modality}-p{patient:02d}-{instance}",
        "patient": f"p{patient:02d}",
        "image": f"{modality}-p{patient:02d}",
        "slide": f"{modality}-p{patient:02d}",
        "modality": modality,
        "lesion": None,
        "information": float(instance),
        "selected": selected,
        "flag": "",
    }


def train_table(patients: int = 12, validation: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient": [f"p{patient:02d}" for patient in range(patients)],
            "split": [
                "validation" if patient >= patients - validation else "train" for patient in range(patients)
            ],
            "label": [label_of(patient) for patient in range(patients)],
        }
    )


def settings(
    *,
    model: dict[str, object] | None = None,
    encoder: dict[str, object] | None = None,
    loss: dict[str, object] | None = None,
    **training: object,
):
    """Returns a configuration with one model, 'net'."""
    values = {"epochs": 6, "batch_size": 4, "learning_rate": 1e-2, "final_learning_rate": 1e-3} | training
    return config.Config.model_validate(
        {
            "diagnosis": {
                "models": {"net": {"hidden": 16} | (model or {})},
                "training": values,
                "loss": loss or {},
            },
            "encoder": {"weights": "random"} | (encoder or {}),
        }
    )


def train(
    folder: Path, stores: dict[str, list[StoreRef]], configuration: config.Config, **options: object
) -> Path:
    """Trains into ``folder`` and returns the weights' path."""
    table = options.pop("table", None)
    train_fold(
        train_table() if table is None else table,
        stores,
        configuration,
        "net",
        0,
        folder / "w.safetensors",
        folder / "h.parquet",
        folder / "s.json",
        folder / "checkpoint.pt",
        device="cpu",
        **options,
    )
    return folder / "w.safetensors"


def stores_in(folder: Path) -> dict[str, list[StoreRef]]:
    return {
        modality: [
            StoreRef(folder / f"{stem}.npy", folder / f"{stem}.parquet", folder / f"{stem}-f.npy")
            for stem in (f"{modality.lower()}-{shard}" for shard in range(SHARDS))
        ]
        for modality in ("OM", "IM", "TEM")
    }


def main() -> None:
    """Arguments: folder of stores, folder of outputs, table, step after which to kill itself (-1: never).

    Prints the number of steps done after each step.
    """
    folder, out, table, last = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])

    def kill(step: int) -> None:
        print("step", step, flush=True)
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    train(
        out,
        stores_in(folder),
        settings(),
        table=read_table(table, TRAINING),
        checkpoint_interval=0.0,
        observer=kill,
    )


if __name__ == "__main__":
    main()
