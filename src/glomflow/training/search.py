"""Hyper-parameter search within the training and validation patients of an outer fold.

Trees of Parzen estimators (Bergstra et al., NeurIPS 2011; Optuna) suggest settings; each is judged by the
mean validation loss over inner folds. The search is given the training table of the fold, in which there is
no test patient.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from glomflow import config
from glomflow.cohort.folds import inner_folds
from glomflow.config_models import TabularKinds
from glomflow.errors import DivergedError
from glomflow.files import read_json, write_json
from glomflow.tables import Column, Schema, read_table, write_table
from glomflow.training.checkpoints import training_digest
from glomflow.training.data import Stores
from glomflow.training.fit import HISTORY, train_fold
from glomflow.training.seeds import derive_seed

TRIALS: Schema = {
    "trial": Column("int64", "number of the trial, from 0: the configured values"),
    "loss": Column("float64", "mean validation loss over the inner folds; missing if a training diverged"),
}
"""One row per trial; plus a column per key that is searched."""

_LOGARITHMIC = ("learning_rate", "weight_decay")
_OF_TRAINING = ("learning_rate", "weight_decay")
_STARTUP = 10

Judge = Callable[[dict[str, Any]], float]
"""Returns the loss of chosen values; infinite if a training diverged."""


def space_of(search: config.Search, model: config.Model) -> dict[str, Any]:
    """Returns the keys that have an effect on a model, with their ranges or choices."""
    idle = set()
    if "TEM" not in model.modalities or model.smil.variant != "distance":
        idle.add("threshold")
    if len(model.modalities) == 1 or model.parity:
        idle.add("modality_dropout")
    return {key: value for key, value in search.space.items() if key not in idle}


def why_not(search: config.Search, model: config.Model) -> str:
    """Returns why a model is not searched; empty if it is."""
    if model.kind in TabularKinds:
        return f"{model.kind} chooses its own settings within its training patients"
    if not space_of(search, model):
        return "none of the keys searched has an effect on this model"
    return ""


def apply_search(settings: config.Config, model_name: str, chosen: Mapping[str, Any]) -> config.Config:
    """Returns the configuration with the values that a search chose for a model.

    The end of the learning rate's cosine keeps its proportion to the start.

    Args:
        settings: The configuration.
        model_name: Key of ``diagnosis.models``.
        chosen: Values by key of ``diagnosis.search``.
    """
    raw = settings.model_dump(mode="json")
    training, model = raw["diagnosis"]["training"], raw["diagnosis"]["models"][model_name]
    for key, value in chosen.items():
        if key == "learning_rate":
            training["final_learning_rate"] *= value / training["learning_rate"]
        if key in _OF_TRAINING:
            training[key] = value
        elif key == "threshold":
            model["smil"]["threshold"] = value
        else:
            model[key] = value
    return config.Config(**raw)


def apply_search_files(
    settings: config.Config, model_name: str, searched: Sequence[str | Path]
) -> config.Config:
    """The same from the JSON of :func:`search_fold`; the configuration as it is if there is none."""
    for path in searched:
        settings = apply_search(settings, model_name, read_json(path)["chosen"])
    return settings


def search_fold(
    train_table: pd.DataFrame,
    stores: Stores,
    settings: config.Config,
    model_name: str,
    fold: int,
    out: Path,
    trials: Path,
    journal: Path,
    *,
    device: str = "auto",
    threads: int = 1,
    observer: Callable[[int], None] | None = None,
) -> None:
    """Searches the settings of a model in an outer fold, or goes on where a journal left off.

    Args:
        train_table: TRAINING rows of the fold.
        stores: Shards per modality.
        settings: The configuration.
        model_name: Key of ``diagnosis.models``.
        fold: Outer fold.
        out: JSON: chosen values, their loss and that of the configured ones, or why nothing was searched.
        trials: TRIALS with a column per key.
        journal: Trials done; removed at the end.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        observer: Called with the number of trials done after each.

    Raises:
        GlomflowError: A class has fewer patients than inner folds, or no trial ended.
    """
    model, search = settings.diagnosis.models[model_name], settings.diagnosis.search
    reason = why_not(search, model)
    space = {} if reason else space_of(search, model)
    done: list[dict[str, Any]] = []
    if not reason:
        seed = derive_seed(settings.run.seed, "search", model_name, fold)
        tables = inner_folds(train_table, search.inner_splits, key=str(seed))
        digest = _digest(train_table, stores, settings, model_name, fold)

        def judge(chosen: dict[str, Any]) -> float:
            tried = apply_search(settings, model_name, chosen)
            return _inner_loss(tables, stores, tried, model_name, device, threads)

        done = run_trials(
            space,
            own_values(settings, model_name, space),
            judge,
            search.trials,
            seed,
            journal,
            digest,
            observer,
        )
    _write(done, space, reason, model_name, fold, out, trials)
    journal.unlink(missing_ok=True)


def own_values(settings: config.Config, model_name: str, space: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configured values of the keys searched, moved into their ranges."""
    model, training = settings.diagnosis.models[model_name], settings.diagnosis.training
    values: dict[str, Any] = {}
    for key, allowed in space.items():
        place = training if key in _OF_TRAINING else model.smil if key == "threshold" else model
        value = getattr(place, key)
        if isinstance(allowed, tuple):
            values[key] = min(max(value, allowed[0]), allowed[1])
        else:
            values[key] = value if value in allowed else allowed[0]
    return values


def run_trials(
    space: Mapping[str, Any],
    first: dict[str, Any],
    judge: Judge,
    trials: int,
    seed: int,
    journal: Path,
    digest: str,
    observer: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Tries settings one after the other.

    Each trial's suggestion depends on the seed and the trials before it alone, so that a search that was
    stopped ends as one that was not.

    Args:
        space: Ranges (tuples) and choices (lists) by key.
        first: Values of trial 0.
        judge: Loss of some values.
        trials: Number of trials.
        seed: Seed of the suggestions.
        journal: Where trials are noted as they end.
        digest: What they depend on; a journal of another digest is ignored.
        observer: Called with the number of trials done after each.

    Returns:
        Per trial ``{"chosen": values, "loss": loss}``.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(key, allowed) for key, allowed in space.items()}
    study = optuna.create_study(direction="minimize")
    done = _noted(journal, digest)[:trials]
    for number in range(trials):
        if number < len(done):
            chosen, loss = done[number]["chosen"], done[number]["loss"]
        else:
            chosen = dict(first) if number == 0 else _suggest(study, distributions, seed, number)
            loss = judge(chosen)
            done.append({"chosen": chosen, "loss": loss})
            write_json(journal, {"digest": digest, "trials": [_finite(entry) for entry in done]})
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE, params=chosen, distributions=distributions, value=loss
            )
        )
        if observer is not None:
            observer(number + 1)
    return done


def _suggest(study: Any, distributions: Mapping[str, Any], seed: int, number: int) -> dict[str, Any]:
    """Asks a sampler that is seeded by the number of the trial; nothing is left in the study."""
    import optuna

    sampler = optuna.samplers.TPESampler(
        seed=derive_seed(seed, number) % 2**32, n_startup_trials=_STARTUP, multivariate=False
    )
    asked = optuna.create_study(direction="minimize", sampler=sampler)
    asked.add_trials(study.get_trials(deepcopy=False))
    return dict(asked.ask(dict(distributions)).params)


def _distribution(key: str, allowed: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(allowed, tuple):
        return FloatDistribution(*allowed, log=key in _LOGARITHMIC)
    return CategoricalDistribution(tuple(allowed))


def _noted(journal: Path, digest: str) -> list[dict[str, Any]]:
    if not journal.is_file():
        return []
    saved = read_json(journal)
    if saved.get("digest") != digest:
        print(f"journal {journal} belongs to other data, settings or code; starting afresh")
        return []
    trials = saved["trials"]
    print(f"going on after trial {len(trials)} from {journal}")
    return [{**entry, "loss": math.inf if entry["loss"] is None else entry["loss"]} for entry in trials]


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "loss": entry["loss"] if math.isfinite(entry["loss"]) else None}


def _inner_loss(
    tables: Sequence[pd.DataFrame],
    stores: Stores,
    settings: config.Config,
    model_name: str,
    device: str,
    threads: int,
) -> float:
    training = settings.diagnosis.training
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for table in tables:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    train_fold(
                        table,
                        stores,
                        settings,
                        model_name,
                        training.seeds[0],
                        out=place / "weights.safetensors",
                        history=place / "history.parquet",
                        settings_json=place / "settings.json",
                        checkpoint=place / "checkpoint.pt",
                        device=device,
                        threads=threads,
                        checkpoint_interval=math.inf,
                    )
            except DivergedError:
                return math.inf
            history = read_table(place / "history.parquet", HISTORY)["validation_loss"]
            losses.append(float(history.iloc[-1] if training.selection == "last" else history.min()))
    return sum(losses) / len(losses)


def _digest(table: pd.DataFrame, stores: Stores, settings: config.Config, model_name: str, fold: int) -> str:
    model = settings.diagnosis.models[model_name]
    files = [
        path
        for modality in sorted(model.modalities)
        for store in stores[modality]
        for path in (store.index, store.features or store.npy)
    ]
    search = settings.diagnosis.search.model_dump(mode="json", exclude={"trials"})
    parts = {
        "table": table[["patient", "split", "label"]].to_numpy().tolist(),
        "settings": settings.model_dump(mode="json", exclude={"diagnosis": {"search"}}),
        "search": search,
        "run": [model_name, fold],
    }
    return training_digest(parts, files)


def _write(
    done: list[dict[str, Any]],
    space: Mapping[str, Any],
    reason: str,
    model_name: str,
    fold: int,
    out: Path,
    trials: Path,
) -> None:
    best = min(done, key=lambda entry: float(entry["loss"])) if done else None
    if best is not None and math.isinf(best["loss"]):
        raise DivergedError(
            f"diagnosis.search: every trial of model '{model_name}' in fold {fold} diverged; narrow the "
            "ranges, first that of learning_rate"
        )
    rows = [
        {
            "trial": number,
            "loss": entry["loss"] if math.isfinite(entry["loss"]) else math.nan,
            **entry["chosen"],
        }
        for number, entry in enumerate(done)
    ]
    extra = {key: Column("float64", f"value of {key} that was tried") for key in space}
    write_table(trials, pd.DataFrame(rows), TRIALS, extra)
    write_json(
        out,
        {
            "model": model_name,
            "fold": fold,
            "chosen": best["chosen"] if best else {},
            "loss": best["loss"] if best else None,
            "configured_loss": _finite(done[0])["loss"] if done else None,
            "trials": len(done),
            "reason": reason,
        },
    )
