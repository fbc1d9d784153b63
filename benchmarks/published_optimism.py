"""How much of a reported accuracy comes of the published protocol?

The same models on the same frozen features of a phantom cohort, evaluated twice:

- as published: shuffled, unstratified folds (seed 10), no validation patients, the test fold looked at
  after every epoch and the best epoch's test accuracy reported, an incomplete last test batch dropped;
- by this workflow: stratified folds, the epoch chosen on validation patients, each test patient predicted
  once.

The test fold is peeked at in this file and nowhere else. Beside the reported accuracy stands that of the last
epoch of the same trainings: what the peeking alone adds.

    python benchmarks/published_optimism.py --patients 120 --out results/benchmark-optimism
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from glomflow.cohort.folds import eligible_patients, make_folds
from glomflow.config import Config, Folds
from glomflow.evaluation.intervals import normal_quantile, wilson
from glomflow.tables import INVENTORY, PATIENTS, read_table
from glomflow.training.data import StoreRef
from glomflow.training.fit import HISTORY, train_fold
from glomflow.training.predict import predict_fold

REPO = Path(__file__).resolve().parents[1]
MODELS = {
    "all three": {"modalities": ["OM", "IM", "TEM"], "smil": {"variant": "sum"}},
    "TEM": {"modalities": ["TEM"], "smil": {"variant": "sum"}},
    "IM": {"modalities": ["IM"]},
    "OM": {"modalities": ["OM"]},
}
MODALITIES = ("OM", "IM", "TEM")


def draw(out: Path, patients: int, seed: int, cores: int) -> None:
    """Draws the cohort and caches its features, by the workflow."""
    shards = [f"{number:04d}" for number in range(4)]
    settings = {
        "run": {"results": str(out), "tracks": ["diagnosis"], "shards": len(shards)},
        "phantom": {"patients": patients, "seed": seed},
        "diagnosis": {"models": {"net": {}}},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(settings, file)
        file.flush()
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--configfile", file.name]
        command += ["--until", "features", "inventory"]
        subprocess.run(command, cwd=REPO, check=True)


def stores_of(results: Path) -> dict[str, list[StoreRef]]:
    """Returns the crop stores of a run and their features."""
    stores = {}
    for modality in MODALITIES:
        name = modality.lower()
        indexes = sorted((results / "crops" / name).glob("*.parquet"))
        features = {path.stem: path for path in (results / "features").rglob(f"{name}/*.npy")}
        stores[modality] = [
            StoreRef(index.with_suffix(".npy"), index, features[index.stem]) for index in indexes
        ]
    return stores


def configuration(batch: int, epochs: int) -> Config:
    """Returns the settings of the default run."""
    raw = yaml.safe_load((REPO / "config.yaml").read_text(encoding="utf-8"))
    raw["diagnosis"]["models"] = {name.replace(" ", "_"): model for name, model in MODELS.items()}
    raw["diagnosis"]["training"] |= {"batch_size": batch, "epochs": epochs}
    return Config(**raw)


def train(table: pd.DataFrame, stores, settings: Config, model: str, seed: int, folder: Path) -> pd.DataFrame:
    """Trains into ``folder`` and returns the history."""
    files = {
        "out": folder / "w.safetensors",
        "history": folder / "h.parquet",
        "settings_json": folder / "s.json",
        "checkpoint": folder / "c.pt",
    }
    train_fold(table, stores, settings, model, seed, **files)
    return read_table(folder / "h.parquet", HISTORY)


def split(patients: pd.DataFrame, folds: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Returns the patients of a fold with split and label, in the order of the sheet."""
    rows = folds[folds["fold"] == fold].set_index("patient")["split"]
    table = patients[["patient", "label"]].copy()
    table["split"] = table["patient"].map(rows)
    return table


def published(patients: pd.DataFrame, stores, settings: Config, model: str, seed: int, folder: Path):
    """Returns (folds, 3): patients looked at, right at the best epoch, right at the last."""
    folds = make_folds(patients, Folds(protocol="published"), seed=settings.run.seed)
    batch = settings.diagnosis.training.batch_size
    counts = []
    for fold in sorted(folds["fold"].unique()):
        table = split(patients, folds, fold)
        test = table[table["split"] == "test"]
        seen = test.head(len(test) // batch * batch)
        peeked = pd.concat([table[table["split"] == "train"], seen.assign(split="validation")])
        peeked = peeked.reset_index(drop=True)
        right = train(peeked, stores, settings, model, seed, folder)["validation_accuracy"] * len(seen)
        counts.append((len(seen), right.max(), right.iloc[-1]))
    return np.array(counts)


def honest(patients: pd.DataFrame, stores, settings: Config, model: str, seed: int, folder: Path) -> float:
    """Returns how many patients are told rightly, each predicted once."""
    folds = make_folds(patients, Folds(), seed=settings.run.seed)
    labels = patients.set_index("patient")["label"]
    right = 0
    for fold in sorted(folds["fold"].unique()):
        table = split(patients, folds, fold)
        train(table[table["split"] != "test"].reset_index(drop=True), stores, settings, model, seed, folder)
        test = table.loc[table["split"] == "test", "patient"].tolist()
        files = (folder / "w.safetensors", folder / "s.json")
        predicted, _ = predict_fold(test, stores, settings, model, int(fold), seed, *files)
        right += int((predicted["predicted"] == predicted["patient"].map(labels)).sum())
    return float(right)


def proportion(right: float, total: float) -> tuple[float, float, float]:
    """Returns a share with Wilson's interval."""
    lower, upper = wilson(right, total)
    return right / total, float(lower), float(upper)


def difference(first, second) -> tuple[float, float, float]:
    """Returns a difference of shares with Newcombe's interval, as if the patients were others."""
    value = first[0] - second[0]
    down = float(np.hypot(first[0] - first[1], second[2] - second[0]))
    up = float(np.hypot(first[2] - first[0], second[0] - second[1]))
    return value, value - down, value + up


def peeking(counts: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean gain over trainings of the best over the last epoch, with its normal interval."""
    gains = (counts[:, 1] - counts[:, 2]) / counts[:, 0]
    half = normal_quantile(0.95) * gains.std(ddof=1) / np.sqrt(len(gains))
    return float(gains.mean()), float(gains.mean() - half), float(gains.mean() + half)


def shown(values: tuple[float, float, float], *, points: bool = False) -> str:
    """Formats a value with its interval."""
    scale, form = (100, "+.1f") if points else (1, ".3f")
    return "{:{f}} [{:{f}}, {:{f}}]".format(*(scale * value for value in values), f=form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--seed", type=int, default=101, help="seed of the cohort")
    parser.add_argument("--training-seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path("results/benchmark-optimism"))
    options = parser.parse_args()
    out = options.out.resolve()
    if not list((out / "features").rglob("tem/*.npy")):
        draw(out, options.patients, options.seed, options.cores)
    table = read_table(out / "cohort" / "patients.parquet", PATIENTS)
    patients, _ = eligible_patients(table, read_table(out / "inventory.parquet", INVENTORY))
    stores, settings = stores_of(out), configuration(options.batch, options.epochs)
    print(f"{len(patients)} patients, {options.epochs} epochs, {options.training_seeds} training seeds")
    print("| model | reported: best epoch on the test fold | last epoch | honest | peeking | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in options.models:
        name, seeds = model.replace(" ", "_"), range(options.training_seeds)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            counts = np.vstack([published(patients, stores, settings, name, seed, place) for seed in seeds])
            right = np.mean([honest(patients, stores, settings, name, seed, place) for seed in seeds])
        total, best, last = counts.sum(axis=0) / options.training_seeds
        reported, fair = proportion(best, total), proportion(float(right), len(patients))
        cells = [model, shown(reported), shown(proportion(last, total)), shown(fair)]
        cells += [shown(peeking(counts), points=True), shown(difference(reported, fair), points=True)]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
