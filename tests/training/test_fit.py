"""Training a fold: files written, convergence, resumption, and errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.tables import TRAINING, read_table, write_table
from glomflow.training import fit
from glomflow.training.fit import HISTORY
from training.synthetic import make_stores, settings, train, train_table

SYNTHETIC = Path(__file__).with_name("synthetic.py")


class Stopped(Exception):
    """Raised by a test in the middle of a training."""


STEPS = 3
"""Steps per epoch: nine training patients, four at once."""


def stop_after(last: int):
    def observer(step: int) -> None:
        if step == last:
            raise Stopped

    return observer


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory):
    return make_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, stores) -> Path:
    return train(tmp_path_factory.mktemp("whole"), stores, settings())


def test_writes_weights_history_and_settings(uninterrupted: Path) -> None:
    history = read_table(uninterrupted.with_name("h.parquet"), HISTORY)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["learning_rate"].iloc[[0, -1]].tolist() == pytest.approx([1e-2, 1e-3])
    assert np.isfinite(history.to_numpy()).all()
    written = json.loads(uninterrupted.with_name("s.json").read_text())
    assert written["classes"] == ["IgAN", "MN", "LN"]
    assert written["channels"] == {"OM": 8, "IM": 8, "TEM": 8}
    assert (written["training_patients"], written["validation_patients"]) == (9, 3)
    best = int(history["validation_loss"].idxmin())
    assert written["selected_epoch"] == best + 1
    assert not uninterrupted.with_name("checkpoint.pt").exists()
    assert {"net.branches.TEM.weight", "net.mean_TEM"} <= set(load_file(uninterrupted))


def test_learns_the_signal(tmp_path: Path, stores) -> None:
    weights = train(tmp_path, stores, settings(epochs=25))
    history = read_table(weights.with_name("h.parquet"), HISTORY)
    assert history["train_loss"].iloc[-1] < 0.2 * history["train_loss"].iloc[0]
    assert history["validation_accuracy"].iloc[-1] == 1.0


def test_same_seed_same_bits_other_seed_other_bits(tmp_path: Path, stores, uninterrupted: Path) -> None:
    (tmp_path / "again").mkdir()
    again = train(tmp_path / "again", stores, settings())
    assert sha256_file(again) == sha256_file(uninterrupted)
    other = settings().model_copy(update={"run": settings().run.model_copy(update={"seed": 1})})
    assert sha256_file(train(tmp_path, stores, other)) != sha256_file(uninterrupted)


@pytest.mark.parametrize(
    ("step", "where"),
    [(3, "epoch 1, step 0"), (4, "epoch 1, step 1"), (8, "epoch 2, step 2"), (18, "epoch 6, step 0")],
)
def test_resumes_to_the_same_bits(
    tmp_path: Path, stores, uninterrupted: Path, step: int, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, stores, settings(), checkpoint_interval=0.0, observer=stop_after(step))
    assert not (tmp_path / "w.safetensors").exists()
    resumed = train(tmp_path, stores, settings())
    assert f"going on after {where}" in capsys.readouterr().out
    assert sha256_file(resumed) == sha256_file(uninterrupted)
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "h.parquet", HISTORY),
        read_table(uninterrupted.with_name("h.parquet"), HISTORY),
    )


def test_resumes_after_sigkill(tmp_path: Path, stores, uninterrupted: Path) -> None:
    folder = stores["OM"][0].npy.parent
    write_table(tmp_path / "table.parquet", train_table(), TRAINING)
    command = [sys.executable, str(SYNTHETIC), str(folder), str(tmp_path), str(tmp_path / "table.parquet")]
    killed = subprocess.run([*command, "7"], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "checkpoint.pt").exists()
    assert sha256_file(train(tmp_path, stores, settings())) == sha256_file(uninterrupted)


@pytest.mark.parametrize("change", ["table", "settings", "damaged"])
def test_ignores_a_checkpoint_of_another_training(
    tmp_path: Path, stores, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, stores, settings(), checkpoint_interval=0.0, observer=stop_after(4))
    table, configuration = train_table(), settings()
    if change == "table":
        table.loc[0, "label"] = "LN"
    elif change == "settings":
        configuration = settings(weight_decay=0.5)
    else:
        (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    seen: list[int] = []
    train(tmp_path, stores, configuration, table=table, observer=seen.append)
    assert seen == list(range(1, 6 * STEPS + 1))
    expected = "cannot be read" if change == "damaged" else "belongs to other data, settings or code"
    assert expected in capsys.readouterr().out


def test_selects_last_and_patience_stops(tmp_path: Path, stores) -> None:
    weights = train(tmp_path, stores, settings(selection="last"), table=train_table(validation=0))
    assert json.loads(weights.with_name("s.json").read_text())["selected_epoch"] == 6
    history = read_table(weights.with_name("h.parquet"), HISTORY)
    assert history["validation_loss"].isna().all()
    seen: list[int] = []
    train(tmp_path, stores, settings(epochs=60, learning_rate=0.5, patience=2), observer=seen.append)
    assert len(seen) < 60 * STEPS


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_bags_read_at_every_step_train_the_same(
    tmp_path: Path, stores, uninterrupted: Path, workers: int
) -> None:
    ours = load_file(train(tmp_path, stores, settings(cache_gb=0, workers=workers)))
    expected = load_file(uninterrupted)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        {"modalities": ["OM"]},
        {"modalities": ["TEM"], "smil": {"variant": "sum"}},
        {"modalities": ["OM", "TEM"]},
        {"modalities": ["OM", "IM"]},
        {"parity": True},
    ],
    ids=["om", "tem-sum", "om+tem", "om+im", "parity"],
)
def test_every_kind_of_model_trains(tmp_path: Path, stores, model: dict[str, object]) -> None:
    weights = train(tmp_path, stores, settings(model=model, epochs=8))
    history = read_table(weights.with_name("h.parquet"), HISTORY)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_patients_lacking_modalities_train_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = make_stores(tmp_path, lacking={"TEM": {0, 1, 10}, "OM": {0, 2}, "IM": {0}})
    weights = train(tmp_path, stores, settings())
    assert "net: left out for want of OM and IM and TEM: p00" in capsys.readouterr().out
    assert all(torch.isfinite(value).all() for value in load_file(weights).values())


def test_trainable_encoder_resumes_to_the_same_bits(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, patients=6, size=64)
    configuration = settings(encoder={"name": "resnet10t", "trainable": "last", "shared": True}, epochs=2)
    table = train_table(6, 2)
    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole", stores, configuration, table=table)
    with pytest.raises(Stopped):
        train(tmp_path, stores, configuration, table=table, checkpoint_interval=0.0, observer=stop_after(1))
    assert sha256_file(train(tmp_path, stores, configuration, table=table)) == sha256_file(whole)
    start = fit.build_model(
        configuration, configuration.diagnosis.models["net"], channels=None, pretrained=True
    )
    trained, untrained = load_file(whole), start.state_dict()
    moved = {name for name in untrained if "bank" in name and not torch.equal(trained[name], untrained[name])}
    assert moved
    assert all("layer4" in name for name in moved)


def test_stain_augmentation_changes_the_training_and_nothing_else(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, patients=6, size=32)
    table = train_table(6, 2)
    losses = {}
    for name, strength, flips in (("none", 0.0, False), ("some", 1.0, False), ("again", 1.0, False)):
        (tmp_path / name).mkdir()
        configuration = settings(
            encoder={"name": "resnet10t", "trainable": "last", "shared": True},
            epochs=1,
            flips=flips,
            stain_augmentation=strength,
        )
        train(tmp_path / name, stores, configuration, table=table)
        losses[name] = pd.read_parquet(tmp_path / name / "h.parquet")["train_loss"].tolist()
    assert losses["some"] == losses["again"]
    assert losses["some"] != losses["none"]


def test_nan_loss_names_the_patients(tmp_path: Path) -> None:
    stores = make_stores(tmp_path)
    poison(stores, "p02")
    with pytest.raises(GlomflowError, match=r"loss of epoch 1 is not finite, first for p02; look at"):
        train(tmp_path, stores, settings(model={"standardise": False}))


def test_nan_features_name_the_patients_before_training(tmp_path: Path) -> None:
    stores = make_stores(tmp_path)
    poison(stores, "p02")
    with pytest.raises(GlomflowError, match="IM features of p02 hold NaN or infinity; delete the features"):
        train(tmp_path, stores, settings())


def poison(stores, patient: str) -> None:
    store = stores["IM"][0]
    row = pd.read_parquet(store.index).query(f"patient == '{patient}' and selected")["row"].item()
    maps = np.load(store.features)
    maps[row, 0, 0, 0] = np.nan
    np.save(store.features, maps)


def test_selection_without_validation_is_an_error(tmp_path: Path, stores) -> None:
    with pytest.raises(GlomflowError, match=r"set diagnosis\.training\.selection: last"):
        train(tmp_path, stores, settings(), table=train_table(validation=0))


def test_unknown_label_is_an_error(tmp_path: Path, stores) -> None:
    table = train_table()
    table.loc[3, "label"] = "FSGS"
    with pytest.raises(
        GlomflowError, match=r"patient p03: label 'FSGS' is none of cohort.classes \(IgAN, MN"
    ):
        train(tmp_path, stores, settings(), table=table)


def test_a_test_patient_in_the_training_table_is_an_error(tmp_path: Path, stores) -> None:
    table = train_table()
    table.loc[5, "split"] = "test"
    with pytest.raises(GlomflowError, match=r"patient p05: split 'test'; a training table holds train and"):
        train(tmp_path, stores, settings(), table=table)


def test_a_modality_that_no_training_patient_has_is_an_error(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, lacking={"TEM": set(range(9)), "OM": set(range(9))})
    with pytest.raises(GlomflowError, match=r"models.net: no training patient has OM; take OM out"):
        train(tmp_path, stores, settings())
    with pytest.raises(GlomflowError, match=r"models.net: no training patient has OM or TEM; change"):
        train(tmp_path, stores, settings(model={"modalities": ["OM", "TEM"]}))


def test_cached_features_need_no_timm(repo: Path) -> None:
    script = "import sys, glomflow.training.predict, glomflow.training.features; print('timm' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=repo / "src"
    )
    assert done.stdout.strip() == "False"
