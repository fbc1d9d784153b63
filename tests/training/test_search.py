"""The search: it finds better settings, always the same ones, and never sees a test patient."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Search
from glomflow.errors import GlomflowError
from glomflow.files import read_json
from glomflow.training.search import (
    TRIALS,
    apply_search,
    apply_search_files,
    own_values,
    run_trials,
    search_fold,
    space_of,
    why_not,
)
from training.synthetic import make_stores, settings, train_table

SPACE = {"learning_rate": (1e-5, 1e-1), "dropout": (0.0, 0.5), "hidden": [8, 16, 32]}
FIRST = {"learning_rate": 1e-5, "dropout": 0.5, "hidden": 8}


def valley(chosen) -> float:
    """Lowest at a learning rate of 1e-2, no dropout and 32 hidden units."""
    off = (math.log10(chosen["learning_rate"]) + 2) ** 2
    return off + chosen["dropout"] + (0.0 if chosen["hidden"] == 32 else 0.5)


def searching(**search):
    values = {"trials": 4, "inner_splits": 2, "learning_rate": (1e-5, 3e-2)} | search
    plain = settings(epochs=3, learning_rate=1e-5, final_learning_rate=1e-6)
    diagnosis = plain.diagnosis.model_copy(update={"search": Search.model_validate(values)})
    return plain.model_copy(update={"diagnosis": diagnosis})


def search(folder, stores, configuration, table=None, **options):
    rows = train_table() if table is None else table
    files = {"out": folder / "s.json", "trials": folder / "s.parquet", "journal": folder / "journal.json"}
    search_fold(rows, stores, configuration, "net", 3, **files, device="cpu", **options)
    return read_json(folder / "s.json"), pd.read_parquet(folder / "s.parquet")


def test_suggestions_find_the_valley(tmp_path):
    done = run_trials(SPACE, FIRST, valley, 30, 7, tmp_path / "j.json", "d")
    assert done[0]["chosen"] == FIRST
    best = min(done, key=lambda entry: entry["loss"])
    assert best["loss"] < 0.4
    assert 10**-2.6 < best["chosen"]["learning_rate"] < 10**-1.4
    assert all(1e-5 <= entry["chosen"]["learning_rate"] <= 1e-1 for entry in done)


def test_a_search_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    whole = run_trials(SPACE, FIRST, valley, 16, 7, tmp_path / "whole.json", "d")
    journal, calls = tmp_path / "j.json", []

    def stop(number):
        if number == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trials(SPACE, FIRST, valley, 16, 7, journal, "d", stop)

    def counted(chosen):
        calls.append(chosen)
        return valley(chosen)

    assert run_trials(SPACE, FIRST, counted, 16, 7, journal, "d") == whole
    assert len(calls) == 3
    other = run_trials(SPACE, FIRST, counted, 2, 7, journal, "another")
    assert other == whole[:2]
    assert len(calls) == 5


def test_a_trial_that_diverged_is_never_chosen(tmp_path):
    def judge(chosen):
        return math.inf if chosen["learning_rate"] > 1e-3 else 1.0

    journal = tmp_path / "j.json"
    done = run_trials(SPACE, FIRST, judge, 12, 1, journal, "d")
    assert any(math.isinf(entry["loss"]) for entry in done)
    assert json.loads(journal.read_text())["trials"]
    assert run_trials(SPACE, FIRST, judge, 12, 1, journal, "d") == done


def test_it_finds_a_better_learning_rate_and_always_the_same(tmp_path):
    stores = make_stores(tmp_path)
    configuration = searching()
    folders = [tmp_path / "one", tmp_path / "two"]
    results = []
    for folder in folders:
        folder.mkdir()
        results.append(search(folder, stores, configuration))
    (found, trials), (again, _) = results
    assert found == again
    assert found["chosen"]["learning_rate"] > 1e-4
    assert found["loss"] < 0.9 * found["configured_loss"]
    assert trials["loss"].min() == found["loss"]
    assert list(trials.columns) == [*TRIALS, "learning_rate"]
    assert not (folders[0] / "journal.json").exists()


def test_no_test_patient_is_read(tmp_path):
    stores = make_stores(tmp_path)
    table = train_table().iloc[:9]
    held_out = {"p09", "p10", "p11"}
    changed = tmp_path / "changed"
    changed.mkdir()
    other = make_stores(changed)
    for refs in other.values():
        for ref in refs:
            index = pd.read_parquet(ref.index)
            maps = np.load(ref.features)
            maps[index["patient"].isin(held_out).to_numpy()] = np.nan
            np.save(ref.features, maps)
    configuration = searching(trials=2)
    first = search(tmp_path, stores, configuration, table)[0]
    assert search(changed, other, configuration, table)[0] == first
    with pytest.raises(GlomflowError, match="hold NaN"):
        search(changed, other, configuration)


def test_chosen_values_reach_the_configuration(tmp_path):
    plain = settings(model={"smil": {"variant": "distance"}})
    chosen = {"learning_rate": 0.02, "weight_decay": 0.1, "dropout": 0.25, "hidden": 32, "threshold": 2.0}
    found = apply_search(plain, "net", chosen)
    training, model = found.diagnosis.training, found.diagnosis.models["net"]
    assert (training.learning_rate, training.weight_decay) == (0.02, 0.1)
    assert training.final_learning_rate == pytest.approx(0.002)
    assert (model.dropout, model.hidden, model.smil.threshold) == (0.25, 32, 2.0)
    assert apply_search_files(plain, "net", []) is plain


def test_keys_without_effect_are_not_searched():
    wanted = Search(trials=1, threshold=(1.0, 2.0), modality_dropout=(0.0, 0.3), dropout=(0.1, 0.4))
    model = settings().diagnosis.models["net"]
    assert list(space_of(wanted, model)) == ["dropout", "modality_dropout", "threshold"]
    om = model.model_copy(update={"modalities": ["OM"]})
    assert list(space_of(wanted, om)) == ["dropout"]
    tabular = model.model_copy(update={"kind": "logistic_regression"})
    assert why_not(wanted, tabular).startswith("logistic_regression chooses its own settings")
    idle = Search(trials=1, threshold=(1.0, 2.0))
    assert why_not(idle, om) == "none of the keys searched has an effect on this model"


def test_a_model_that_is_not_searched_says_why(tmp_path):
    configuration = searching(learning_rate=None, threshold=(1.0, 2.0))
    net = configuration.diagnosis.models["net"].model_copy(update={"modalities": ["OM"]})
    diagnosis = configuration.diagnosis.model_copy(update={"models": {"net": net}})
    found, trials = search(tmp_path, {}, configuration.model_copy(update={"diagnosis": diagnosis}))
    assert (found["chosen"], found["trials"]) == ({}, 0)
    assert found["reason"] == "none of the keys searched has an effect on this model"
    assert trials.empty


def test_configured_values_are_moved_into_the_ranges():
    plain = settings(learning_rate=1.0)
    found = own_values(
        plain, "net", {"learning_rate": (1e-4, 1e-2), "hidden": [8, 32], "dropout": (0.1, 0.9)}
    )
    assert found == {"learning_rate": 1e-2, "hidden": 8, "dropout": 0.5}
