"""Several trainings and predictions in one job."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomflow.files import sha256_file
from glomflow.tables import INSTANCES, PREDICTIONS, TEST, TRAINING, read_table, write_table
from glomflow.training import runs as runs_module
from glomflow.training.runs import predict_runs, runs_of, train_runs
from training.synthetic import make_stores, settings, train, train_table


def files_of(folder: Path, count: int) -> dict[str, list[str]]:
    names = {"weights": "safetensors", "settings": "json", "history": "parquet", "checkpoint": "pt"}
    return {key: [str(folder / f"{n}.{suffix}") for n in range(count)] for key, suffix in names.items()}


def inputs_of(stores, table: Path, place: int) -> dict[str, list[str] | str]:
    files: dict[str, list[str] | str] = {f"model{place}_table": str(table), f"model{place}_search": []}
    for modality, shards in stores.items():
        for part, attribute in (("crops", "npy"), ("index", "index"), ("features", "features")):
            files[f"model{place}_{modality.lower()}_{part}"] = [str(getattr(s, attribute)) for s in shards]
    return files


def test_a_job_of_one_run_is_given_each_file_as_a_text(tmp_path: Path) -> None:
    files = {"weights": "w.safetensors", "settings": "s.json", "history": "h.parquet", "checkpoint": ["c.pt"]}
    (run,) = runs_of({"net": {}}, [4], {"model0_table": "t.parquet"}, files)
    assert (run.weights, run.description) == (Path("w.safetensors"), Path("s.json"))
    assert (run.history, run.checkpoint, run.table()) == (Path("h.parquet"), Path("c.pt"), Path("t.parquet"))


def test_a_job_trains_as_its_parts_would_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = make_stores(tmp_path)
    table, patients = tmp_path / "table.parquet", tmp_path / "test.parquet"
    write_table(table, train_table(), TRAINING)
    write_table(patients, train_table()[["patient"]], TEST)
    configs = {"net": settings(epochs=2).model_dump(mode="json")}
    files = files_of(tmp_path, 2)
    made = runs_of(configs, [0, 1], inputs_of(stores, table, 0), files)
    assert [(run.model, run.seed, run.weights.name) for run in made] == [
        ("net", 0, "0.safetensors"),
        ("net", 1, "1.safetensors"),
    ]
    original, done = runs_module.train_fold, []

    def stopping(*arguments, **options):
        if done:
            raise KeyboardInterrupt
        done.append(original(*arguments, **options))

    monkeypatch.setattr(runs_module, "train_fold", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_runs(made, device="cpu")
    assert made[0].checkpoint.exists()
    monkeypatch.undo()
    train_runs(made, device="cpu")
    assert not list(tmp_path.glob("*.pt"))
    (tmp_path / "alone").mkdir()
    alone = train(tmp_path / "alone", stores, settings(epochs=2))
    assert sha256_file(made[0].weights) == sha256_file(alone)
    assert sha256_file(made[1].weights) != sha256_file(alone)
    trained = runs_of(configs, [0, 1], inputs_of(stores, patients, 0), files)
    predictions, instances = ([tmp_path / f"{kind}{n}.parquet" for n in range(2)] for kind in "pi")
    predict_runs(trained, 3, predictions, instances, device="cpu")
    assert len(read_table(predictions[1], PREDICTIONS, open_ended=True)) == 12
    assert set(read_table(instances[0], INSTANCES)["fold"]) == {3}
