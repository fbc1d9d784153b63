"""Steps in parts, in less memory, in several processes; and what each option does to a training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glomflow.errors import GlomflowError
from glomflow.files import sha256_file, write_json
from glomflow.models import cmus_net
from glomflow.tables import TRAINING, write_table
from glomflow.training import sources
from training.synthetic import make_stores, settings, train, train_table

STILL = {"dropout": 0.0}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory):
    return make_stores(tmp_path_factory.mktemp("stores"), lacking={"OM": {1, 4}, "IM": {2}})


def trained(folder: Path, stores, configuration, **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    return train(folder, stores, configuration, **options)


def assert_close(ours: Path, theirs: Path) -> None:
    expected = load_file(theirs)
    for name, value in load_file(ours).items():
        torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("loss", [{}, {"weighting": "uncertainty"}, {"class_weights": "balanced"}])
def test_a_step_in_parts_is_the_step(tmp_path: Path, stores, loss: dict[str, object]) -> None:
    whole = trained(tmp_path / "1", stores, settings(model=STILL, loss=loss, epochs=2))
    parts = trained(tmp_path / "3", stores, settings(model=STILL, loss=loss, epochs=2, accumulate=3))
    assert_close(parts, whole)


@pytest.mark.parametrize("cache_gb", [0, 1])
def test_parts_of_bags_count_the_patients_of_the_step(tmp_path: Path, stores, cache_gb: float) -> None:
    model = STILL | {"modality_dropout": 0.3}
    weights = trained(
        tmp_path / "a", stores, settings(model=model, epochs=2, accumulate=4, cache_gb=cache_gb)
    )
    assert all(value.isfinite().all() for value in load_file(weights).values())


def run_out(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """Lets memory run out while training with more than so many patients at once."""
    original = sources.PooledSource.outputs

    def outputs(self, places, draws):
        if draws is not None and torch.is_grad_enabled() and len(places) > largest:
            raise torch.OutOfMemoryError("fake")
        return original(self, places, draws)

    monkeypatch.setattr(sources.PooledSource, "outputs", outputs)


def test_out_of_memory_goes_on_in_smaller_parts(
    tmp_path: Path, stores, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = trained(tmp_path / "2", stores, settings(epochs=2, accumulate=2))
    run_out(monkeypatch, 2)
    ours = trained(tmp_path / "1", stores, settings(epochs=2))
    told = capsys.readouterr().out
    assert told.count("out of memory with 4 patients at once; steps are cut into 2 parts from here on") == 1
    assert sha256_file(ours) == sha256_file(expected)


def test_out_of_memory_for_one_patient_says_what_to_lower(
    tmp_path: Path, stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glomflow.training.fit.statement", lambda task, sizes: "")
    run_out(monkeypatch, 0)
    with pytest.raises(GlomflowError, match=r"memory with 1 patient at once; set .*gradient_checkpointing"):
        trained(tmp_path / "a", stores, settings())
    with pytest.raises(GlomflowError, match=r"memory with 4 patients at once; set .*auto_batch: true"):
        trained(tmp_path / "a", stores, settings(auto_batch=False))


def test_nothing_to_fill_in_changes_no_bit(tmp_path: Path, stores, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"modalities": ["IM", "TEM"]}
    quick = trained(tmp_path / "quick", stores, settings(model=model, epochs=2))
    monkeypatch.setattr(cmus_net, "_surely_all", lambda mask: False)
    filled = trained(tmp_path / "filled", stores, settings(model=model, epochs=2))
    assert sha256_file(quick) == sha256_file(filled)


@pytest.mark.parametrize(
    "option",
    [
        {"optimiser": "adamw"},
        {"optimiser": "sgd"},
        {"gradient_clip": 0.1},
        {"ema": 0.9},
        {"warmup_epochs": 1},
    ],
)
def test_every_option_changes_the_training(tmp_path: Path, stores, option: dict[str, object]) -> None:
    plain = trained(tmp_path / "plain", stores, settings(epochs=2))
    other = trained(tmp_path / "other", stores, settings(epochs=2, **option))
    assert sha256_file(plain) != sha256_file(other)
    assert all(value.isfinite().all() for value in load_file(other).values())


class Stopped(Exception):
    """Raised by a test in the middle of a training."""


def test_averages_and_learned_loss_weights_are_resumed(tmp_path: Path, stores) -> None:
    configuration = settings(epochs=3, ema=0.9, loss={"weighting": "uncertainty"}, selection="last")
    whole = trained(tmp_path / "whole", stores, configuration)

    def stop(step: int) -> None:
        if step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        trained(tmp_path / "halted", stores, configuration, checkpoint_interval=0.0, observer=stop)
    assert sha256_file(trained(tmp_path / "halted", stores, configuration)) == sha256_file(whole)


def test_weights_that_blow_up_leave_the_last_good_checkpoint(tmp_path: Path, stores) -> None:
    wild = settings(optimiser="sgd", learning_rate=1e30, final_learning_rate=1e29)
    with pytest.raises(GlomflowError, match=r"not finite.* p\d\d"):
        trained(tmp_path / "a", stores, wild, checkpoint_interval=0.0)
    path = tmp_path / "a" / "checkpoint.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)["state"]["module"]
        assert all(value.isfinite().all() for value in state.values())


def test_a_finished_training_is_not_done_again(tmp_path: Path, stores) -> None:
    seen: list[int] = []
    first = trained(tmp_path / "a", stores, settings(epochs=2), keep_checkpoint=True, observer=seen.append)
    digest = sha256_file(first)
    first.unlink()
    again = trained(tmp_path / "a", stores, settings(epochs=2), observer=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert sha256_file(again) == digest
    assert not (tmp_path / "a" / "checkpoint.pt").exists()


def test_two_processes_take_the_steps_of_one(tmp_path: Path, stores, repo: Path) -> None:
    configuration = settings(model=STILL, epochs=2)
    single = trained(tmp_path / "one", stores, configuration)
    out = tmp_path / "two"
    out.mkdir()
    write_table(out / "table.parquet", train_table(), TRAINING)
    inputs = {"table": [str(out / "table.parquet")]}
    for modality, shards in stores.items():
        name = modality.lower()
        inputs[f"{name}_crops"] = [str(shard.npy) for shard in shards]
        inputs[f"{name}_index"] = [str(shard.index) for shard in shards]
        inputs[f"{name}_features"] = [str(shard.features) for shard in shards]
    files = {"weights": "w.safetensors", "description": "s.json", "history": "h.parquet"}
    told = {key: str(out / name) for key, name in (files | {"checkpoint": "c.pt"}).items()}
    job = {"model": "net", "seed": 0, "settings": configuration.model_dump(mode="json"), "inputs": inputs}
    write_json(out / "job.json", job | told | {"device": "cpu", "threads": 1})
    launcher = "from pathlib import Path; from glomflow.training.distributed import launch; "
    launcher += f"launch('glomflow.training.worker', Path({str(out / 'job.json')!r}), 2)"
    environment = os.environ | {"PYTHONPATH": str(repo / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", launcher], check=False, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_close(out / "w.safetensors", single)
