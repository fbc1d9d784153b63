"""Several trainings, or predictions, in one job.

Where encoders are frozen a training takes seconds, about as long as Python and torch take to start: one job
then does all models and seeds of a fold, and reads what they share once. A training that is done leaves its
checkpoint until the whole job is, so that a job that was killed does not train it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from glomflow import config
from glomflow.files import write_json
from glomflow.tables import (
    INSTANCES,
    PREDICTIONS,
    TEST,
    TRAINING,
    probability_columns,
    read_table,
    write_table,
)
from glomflow.training.data import Shelf
from glomflow.training.distributed import launch
from glomflow.training.fit import is_frozen, train_fold
from glomflow.training.predict import predict_fold
from glomflow.training.search import apply_search_files
from glomflow.training.stores import paths_of, stores_from_files


@dataclass(frozen=True)
class Run:
    """One training and prediction: a model, a seed, and its files.

    Attributes:
        model: Key of ``diagnosis.models``.
        seed: Training seed.
        settings: The configuration, as JSON.
        inputs: Input files by name, see :func:`stores_from_files`; ``table`` are the patients (TRAINING or
            TEST), ``search`` what a search chose, if there was one.
        weights: Weights, safetensors.
        description: JSON beside the weights.
        history: One row per epoch; of no use to a prediction.
        checkpoint: Checkpoint; of no use to a prediction.
    """

    model: str
    seed: int
    settings: Mapping[str, object]
    inputs: Mapping[str, str | Sequence[str]]
    weights: Path
    description: Path
    history: Path | None = None
    checkpoint: Path | None = None

    def config(self) -> config.Config:
        """The configuration, with what the search chose."""
        searched = paths_of(self.inputs.get("search", ()))
        return apply_search_files(config.Config.model_validate(self.settings), self.model, searched)

    def table(self) -> Path:
        """The table of the patients."""
        return paths_of(self.inputs["table"])[0]


def train_runs(runs: Sequence[Run], *, device: str = "auto", threads: int = 1) -> None:
    """Trains models one after the other.

    A model with trained encoders is trained on as many devices as the configuration says; from frozen
    features, trainings are too short to be shared.

    Args:
        runs: What to train.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.

    Raises:
        GlomflowError: As :func:`fit.train_fold`.
    """
    shelf = Shelf()
    tables: dict[Path, pd.DataFrame] = {}
    for run in runs:
        settings = run.config()
        assert run.history is not None
        assert run.checkpoint is not None
        if settings.diagnosis.training.devices > 1 and not is_frozen(settings, run.model):
            _train_on_devices(run, settings, device, threads)
            continue
        if run.table() not in tables:
            tables[run.table()] = read_table(run.table(), TRAINING)
        train_fold(
            tables[run.table()],
            stores_from_files(run.inputs),
            settings,
            run.model,
            run.seed,
            run.weights,
            run.history,
            run.description,
            run.checkpoint,
            device=device,
            threads=threads,
            keep_checkpoint=len(runs) > 1,
            shelf=shelf,
        )
    for run in runs:
        if run.checkpoint is not None:
            run.checkpoint.unlink(missing_ok=True)


def _train_on_devices(run: Run, settings: config.Config, device: str, threads: int) -> None:
    assert run.checkpoint is not None
    job = run.checkpoint.with_suffix(".job.json")
    inputs = {name: list(map(str, paths_of(paths))) for name, paths in run.inputs.items()}
    write_json(
        job,
        {
            "model": run.model,
            "seed": run.seed,
            "settings": settings.model_dump(mode="json"),
            "inputs": inputs,
            "weights": str(run.weights),
            "description": str(run.description),
            "history": str(run.history),
            "checkpoint": str(run.checkpoint),
            "device": device,
            "threads": threads,
        },
    )
    launch("glomflow.training.worker", job, settings.diagnosis.training.devices)
    job.unlink()


def predict_runs(
    runs: Sequence[Run],
    fold: int,
    predictions: Sequence[Path],
    instances: Sequence[Path],
    *,
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Predicts a held-out fold with several models.

    Args:
        runs: The trained models.
        fold: Outer fold.
        predictions: Per run, where its predictions go (PREDICTIONS).
        instances: Per run, where the weights of its instances go (INSTANCES).
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.

    Raises:
        GlomflowError: As :func:`predict.predict_fold`.
    """
    shelf = Shelf()
    for run, predicted_path, instances_path in zip(runs, predictions, instances, strict=True):
        settings = run.config()
        predicted, weighed = predict_fold(
            read_table(run.table(), TEST)["patient"].tolist(),
            stores_from_files(run.inputs),
            settings,
            run.model,
            fold,
            run.seed,
            run.weights,
            run.description,
            device=device,
            threads=threads,
            shelf=shelf,
        )
        classes = settings.classes_of(settings.diagnosis.models[run.model].task)
        write_table(predicted_path, predicted, PREDICTIONS, probability_columns(classes))
        write_table(instances_path, weighed, INSTANCES)
        print(f"{run.model}, seed {run.seed}: {len(predicted)} patients predicted")


def runs_of(
    configs: Mapping[str, Mapping[str, object]],
    seeds: Sequence[int],
    inputs: Mapping[str, str | Sequence[str]],
    files: Mapping[str, str | Sequence[str]],
) -> list[Run]:
    """Puts a job's files together to runs: all seeds of the first model, then of the second, and so on.

    Args:
        configs: The configuration of each model, as JSON.
        seeds: Training seeds.
        inputs: Input files; those of the first model are named ``model0_...``, and so on.
        files: ``weights``, ``settings`` and, for trainings, ``history`` and ``checkpoint``, one per run.
    """
    runs: list[Run] = []
    kinds = ("weights", "settings", "history", "checkpoint")
    made = {key: paths_of(files[key]) for key in kinds if key in files}
    for place, (model, settings) in enumerate(configs.items()):
        prefix = f"model{place}_"
        own = {key.removeprefix(prefix): paths for key, paths in inputs.items() if key.startswith(prefix)}
        for seed in seeds:
            number = len(runs)
            extra = {key: made[key][number] for key in ("history", "checkpoint") if key in made}
            weights, description = made["weights"][number], made["settings"][number]
            runs.append(Run(model, seed, settings, own, weights, description, **extra))
    return runs
