"""Logistic regression and gradient-boosted trees on pooled features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.models.baselines.tabular import BoosterNet, LogisticNet
from glomflow.models.batch import Batch
from glomflow.models.build import build_net
from glomflow.tables import INSTANCES, PREDICTIONS, probability_columns, read_table, write_table
from glomflow.training.fit import HISTORY
from glomflow.training.predict import predict_fold
from glomflow.training.tabular import (
    STRENGTHS,
    Table,
    choose_strength,
    fit_logistic,
    fit_trees,
)
from training.synthetic import CLASSES, label_of, make_stores, settings, train, train_table

KINDS = ("logistic_regression", "gradient_boosting")
PATIENTS = 48
LACKING = {"OM": {4, 44, 45}, "IM": {5, 45, 46}, "TEM": {6, 45, 47}}


def configuration(kind: str, **options: object) -> config.Config:
    return settings(model={"kind": kind, **options.pop("model", {})}, **options)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory):
    return make_stores(tmp_path_factory.mktemp("stores"), PATIENTS, lacking=LACKING)


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stores):
    chosen = configuration(request.param)
    table = train_table(42, 9)
    return train(tmp_path_factory.mktemp(request.param), stores, chosen, table=table), chosen


def predict(weights: Path, stores, chosen: config.Config, patients: list[str]):
    return predict_fold(
        patients, stores, chosen, "net", 2, 7, weights, weights.with_name("s.json"), device="cpu"
    )


def test_writes_what_a_network_writes(trained) -> None:
    weights, chosen = trained
    history = read_table(weights.with_name("h.parquet"), HISTORY)
    assert history["epoch"].tolist() == [1]
    assert history["train_loss"].iloc[0] < 0.5
    assert history["validation_loss"].iloc[0] < 0.5
    assert history["validation_accuracy"].tolist() == [1.0]
    written = json.loads(weights.with_name("s.json").read_text())
    assert written["classes"] == CLASSES
    assert written["channels"] == {"OM": 8, "IM": 8, "TEM": 8}
    assert (written["training_patients"], written["validation_patients"]) == (33, 9)
    assert (written["selected_epoch"], written["epochs"]) == (1, 1)
    assert not weights.with_name("checkpoint.pt").exists()
    if chosen.diagnosis.models["net"].kind == "logistic_regression":
        assert written["C"] in STRENGTHS
        shapes = {name: tuple(value.shape) for name, value in load_file(weights).items()}
        assert shapes == {
            "net.mean": (48,),
            "net.scale": (48,),
            "net.coef": (3, 51),
            "net.intercept": (3,),
        }
        assert written["trained_parameters"] == 3 * 51 + 3
    else:
        text = load_file(weights)["net.booster"].numpy().tobytes().decode()
        assert text.startswith("tree\n")
        assert 1 <= written["rounds"] <= 300


def test_held_out_patients_are_recognised_with_whatever_they_have(trained, stores, tmp_path: Path) -> None:
    patients = [f"p{number}" for number in (47, 42, 43, 44, 45, 46)]
    predictions, instances = predict(trained[0], stores, trained[1], patients)
    assert predictions["patient"].tolist() == patients
    assert predictions["modalities"].tolist() == ["OM+IM", "OM+IM+TEM", "OM+IM+TEM", "IM+TEM", "", "OM+TEM"]
    chances = predictions[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1.0, atol=1e-12)
    seen = predictions[predictions["modalities"] != ""]
    if trained[1].diagnosis.models["net"].kind == "gradient_boosting":  # first splits may need one modality
        seen = seen[seen["modalities"] == "OM+IM+TEM"]
    assert seen["predicted"].tolist() == [label_of(int(patient[1:])) for patient in seen["patient"]]
    write_table(tmp_path / "p.parquet", predictions, PREDICTIONS, probability_columns(CLASSES))
    write_table(tmp_path / "i.parquet", instances, INSTANCES)
    of_one = instances[instances["patient"] == "p42"].groupby("modality")["weight"].agg(["size", "sum"])
    assert of_one["size"].to_dict() == {"OM": 1, "IM": 1, "TEM": 4}
    assert of_one["sum"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert instances["kept"].all()


def test_same_seed_same_bytes(trained, stores, tmp_path: Path) -> None:
    weights, chosen = trained
    again = train(tmp_path, stores, chosen, table=train_table(42, 9))
    assert sha256_file(again) == sha256_file(weights)
    for name in ("s.json",):
        assert (tmp_path / name).read_bytes() == weights.with_name(name).read_bytes()


def test_company_does_not_change_a_prediction(trained, stores) -> None:
    together, _ = predict(*trained[:1], stores, trained[1], ["p42", "p44", "p47"])
    alone, _ = predict(*trained[:1], stores, trained[1], ["p44"])
    pd.testing.assert_frame_equal(alone, together.iloc[[1]].reset_index(drop=True))


def test_a_part_of_the_modalities_is_enough(tmp_path: Path, stores) -> None:
    for kind in KINDS:
        chosen = configuration(kind, model={"modalities": ["IM"]})
        weights = train(tmp_path, stores, chosen, table=train_table(42, 9))
        predictions, _ = predict(weights, stores, chosen, ["p42", "p44"])
        assert predictions["predicted"].tolist() == [label_of(42), label_of(44)]


def test_stages_are_a_task_like_another(tmp_path: Path, stores) -> None:
    table = train_table(42, 9)
    table["label"] = table["label"].map(dict(zip(CLASSES, config.STAGES, strict=False)))
    for kind in KINDS:
        chosen = configuration(kind, model={"task": "stage"})
        predictions, _ = predict(train(tmp_path, stores, chosen, table=table), stores, chosen, ["p42"])
        expected = config.STAGES[CLASSES.index(label_of(42))]
        assert predictions["predicted"].tolist() == [expected]
        columns = predictions[[f"p_{name}" for name in config.STAGES]]
        np.testing.assert_allclose(columns.sum(axis=1), 1.0)


def test_a_trained_encoder_is_an_error_that_names_the_key(tmp_path: Path, stores) -> None:
    chosen = configuration("logistic_regression", encoder={"name": "resnet10t", "trainable": "last"})
    message = (
        r"models.net.kind: logistic_regression is fitted to cached features, .*set encoder.trainable: none"
    )
    with pytest.raises(GlomflowError, match=message):
        train(tmp_path, stores, chosen)


def test_trees_without_validation_patients(tmp_path: Path, stores) -> None:
    with pytest.raises(GlomflowError, match=r"set diagnosis\.training\.selection: last"):
        train(tmp_path, stores, configuration("gradient_boosting"), table=train_table(42, 0))
    chosen = configuration("gradient_boosting", selection="last")
    weights = train(tmp_path, stores, chosen, table=train_table(42, 0))
    assert json.loads(weights.with_name("s.json").read_text())["rounds"] == 300
    assert read_table(weights.with_name("h.parquet"), HISTORY)["validation_loss"].isna().all()


def test_one_class_is_an_error(tmp_path: Path, stores) -> None:
    table = train_table(42, 9).assign(label="MN")
    with pytest.raises(GlomflowError, match=r"models.net: all training patients are of one class"):
        train(tmp_path, stores, configuration("gradient_boosting"), table=table)


def test_a_feature_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    stores = make_stores(tmp_path)
    maps = np.load(stores["IM"][0].features)
    maps[1, 0, 0, 0] = np.nan
    np.save(stores["IM"][0].features, maps)
    patient = pd.read_parquet(stores["IM"][0].index).query("row == 1")["patient"].item()
    with pytest.raises(GlomflowError, match=rf"IM features of {patient} hold NaN or infinity; delete"):
        train(tmp_path, stores, configuration("logistic_regression"))


def test_damaged_trees_are_an_error(trained, stores, tmp_path: Path) -> None:
    weights, chosen = trained
    if chosen.diagnosis.models["net"].kind != "gradient_boosting":
        pytest.skip("logistic regression has no trees")
    save_file({"net.booster": torch.zeros(5, dtype=torch.uint8)}, tmp_path / "w.safetensors")
    (tmp_path / "s.json").write_bytes(weights.with_name("s.json").read_bytes())
    with pytest.raises(GlomflowError, match=r"gradient_boosting: the weights hold no trees"):
        predict(tmp_path / "w.safetensors", stores, chosen, ["p42"])


def make_table(count: int = 40, validation: int = 10, *, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = rng.normal(size=(count, 8)) + 2.0 * np.eye(8)[labels]
    places = np.arange(count)
    return Table(features, np.ones((count, 1), bool), labels, places[validation:], places[:validation])


def make_net(kind: str, classes: int = 3) -> LogisticNet | BoosterNet:
    model = config.Model.model_validate({"kind": kind, "modalities": ["TEM"]})
    return build_net(model, {"TEM": 4}, classes)


def test_validation_patients_play_no_part_in_logistic_regression() -> None:
    table, first, second = make_table(), make_net("logistic_regression"), make_net("logistic_regression")
    fit_logistic(first, table, 0)
    features, labels = table.features.copy(), table.labels.copy()
    features[table.validation] = 1e6
    labels[table.validation] = (labels[table.validation] + 1) % 3
    fit_logistic(second, Table(features, table.present, labels, table.train, table.validation), 0)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_noise_gets_a_strong_penalty_and_a_signal_a_weak_one() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    absent = np.zeros((60, 1), bool)
    noise = rng.normal(size=(60, 20))
    assert choose_strength(noise, absent, labels, 0) <= 1e-3
    signal = noise + 10.0 * labels[:, None]
    assert choose_strength(signal, absent, labels, 0) >= 1e-1


def test_logistic_regression_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    table, net = make_table(), make_net("logistic_regression")
    details = fit_logistic(net, table, 0)
    rows = table.features[table.train]
    mean, deviation = rows.mean(0), rows.std(0)
    theirs = LogisticRegression(C=details["C"], max_iter=5000, tol=1e-8)
    theirs.fit((rows - mean) / deviation, table.labels[table.train])
    expected = theirs.predict_log_proba((table.features[table.validation] - mean) / deviation)
    ours = net.logits(torch.from_numpy(table.features[table.validation]), torch.ones(10, 1, dtype=torch.bool))
    np.testing.assert_allclose(torch.log_softmax(ours, 1).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_without_training_patients_is_improbable_not_impossible(kind: str, classes: int) -> None:
    table, net = make_table(), make_net(kind, classes)
    labels = np.where(table.labels == classes - 1, 0, table.labels % classes)
    if classes == 2:
        labels = table.labels % 2
    without = Table(table.features, table.present, labels, table.train, table.validation)
    (fit_logistic if kind == "logistic_regression" else fit_trees)(net, without, 0)
    logits = net.logits(torch.from_numpy(table.features), torch.ones(40, 1, dtype=torch.bool))
    chances = torch.softmax(logits, 1).numpy()
    assert chances.shape == (40, classes)
    assert (chances[np.arange(40), labels] > 0.5).mean() > 0.8
    if classes == 3:
        assert (chances[:, 2] < 1e-4).all()
        assert (chances[:, 2] > 0).all()


def test_the_only_patient_of_a_class_does_no_harm() -> None:
    table = make_table()
    labels = table.labels % 2
    labels[-1] = 2
    net = make_net("logistic_regression")
    details = fit_logistic(
        net, Table(table.features, table.present, labels, table.train, table.validation), 0
    )
    assert details["C"] in STRENGTHS
    with pytest.raises(GlomflowError, match="no class has two training patients"):
        choose_strength(table.features[:3], ~table.present[:3], np.arange(3), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_balanced_classes_raise_the_rare_one(kind: str) -> None:
    rng = np.random.default_rng(2)
    labels = (np.arange(90) % 9 == 0).astype(int)
    features = rng.normal(size=(90, 8)) + 0.8 * labels[:, None]
    places = np.arange(90)
    table = Table(features, np.ones((90, 1), bool), labels, places[30:], places[:30])
    chances = []
    for balanced in (False, True):
        net = make_net(kind, 2)
        (fit_logistic if kind == "logistic_regression" else fit_trees)(net, table, 0, balanced=balanced)
        logits = net.logits(torch.from_numpy(features), torch.ones(90, 1, dtype=torch.bool))
        chances.append(float(torch.softmax(logits, 1)[:, 1].mean()))
    assert chances[1] > 1.1 * chances[0]


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_mean_and_maximum_of_what_is_there(kind: str) -> None:
    model = config.Model.model_validate({"kind": kind, "modalities": ["OM", "TEM"]})
    net = build_net(model, {"OM": 1, "TEM": 1}, 3)
    tem = torch.tensor([[[[[1.0], [-2.0]]], [[[-4.0], [-3.0]]]], [[[[-5.0], [-7.0]]], [[[9.0], [9.0]]]]])
    om = torch.zeros(2, 1, 1, 1, 1)
    masks = {"TEM": torch.tensor([[True, True], [True, False]]), "OM": torch.tensor([[False], [True]])}
    pooled = net.pool(Batch({"TEM": tem, "OM": om}, masks))
    table = net.table(pooled)
    assert table[0, :2].tolist() == [-2.0, 1.0]
    assert table[1].tolist() == [-6.0, -5.0, 0.0, 0.0]
    assert table[0, 2:].isnan().all()
    assert pooled.weights["TEM"].tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_a_missing_modality_is_the_training_mean_and_a_column() -> None:
    model = config.Model.model_validate({"kind": "logistic_regression", "modalities": ["OM", "TEM"]})
    net = build_net(model, {"OM": 1, "TEM": 1}, 2)
    net.mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    net.coef.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.5, 0.25], [0.0] * 6]))
    nan = float("nan")
    rows = torch.tensor([[2.0, 2.0, nan, nan], [nan, nan, 3.0, 6.0]], dtype=torch.float64)
    there = torch.tensor([[True, False], [False, True]])
    assert net.logits(rows, there)[:, 0].tolist() == [1.25, 2.5]
