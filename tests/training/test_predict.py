"""Prediction of held-out patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.tables import INSTANCES, PREDICTIONS, probability_columns, write_table
from glomflow.training.predict import predict_fold
from training.synthetic import CLASSES, label_of, make_stores, settings, train, train_table

PATIENTS = 18
LACKING = {"OM": {13, 14}, "IM": {14, 15}, "TEM": {14, 16}}


def predict(
    weights: Path, stores, configuration: config.Config, patients: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    return predict_fold(
        patients, stores, configuration, "net", 2, 7, weights, weights.with_name("s.json"), device="cpu"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("predict")
    stores = make_stores(folder, PATIENTS, lacking=LACKING)
    configuration = settings(epochs=25)
    return train(folder, stores, configuration), stores, configuration


@pytest.fixture(scope="module")
def frames(trained) -> tuple[pd.DataFrame, pd.DataFrame]:
    return predict(*trained, [f"p{n:02d}" for n in (17, 12, 13, 14, 15, 16)])


def test_every_patient_once_in_order_with_probabilities(frames, tmp_path: Path) -> None:
    predictions, _ = frames
    assert predictions["patient"].tolist() == ["p17", "p12", "p13", "p14", "p15", "p16"]
    assert predictions["modalities"].tolist() == ["OM+IM+TEM", "OM+IM+TEM", "IM+TEM", "", "OM+TEM", "OM+IM"]
    chances = predictions[[f"p_{name}" for name in CLASSES]].to_numpy()
    assert chances.dtype == np.float64
    np.testing.assert_allclose(chances.sum(1), 1.0, atol=1e-12)
    assert predictions["predicted"].tolist() == [CLASSES[row.argmax()] for row in chances]
    seen = predictions[predictions["modalities"] != ""]
    assert seen["predicted"].tolist() == [label_of(int(patient[1:])) for patient in seen["patient"]]
    assert set(predictions[["model", "fold", "seed"]].itertuples(index=False, name=None)) == {("net", 2, 7)}
    write_table(tmp_path / "p.parquet", predictions, PREDICTIONS, probability_columns(CLASSES))


def test_instances_are_the_crops_of_the_bags(frames, tmp_path: Path) -> None:
    _, instances = frames
    assert set(instances["modality"]) == {"OM", "IM", "TEM"}
    write_table(tmp_path / "i.parquet", instances, INSTANCES)
    instances = instances[instances["modality"] == "TEM"]
    counts = instances.groupby("patient").size().to_dict()
    assert counts == {"p17": 3, "p12": 2, "p13": 3, "p15": 5}
    ours = instances[instances["patient"] == "p17"]
    assert ours["crop"].tolist() == ["TEM-p17-2", "TEM-p17-1", "TEM-p17-0"]
    assert ours["rank"].tolist() == [0, 1, 2]
    assert sorted(ours["weight"].round(6)) == [0.0, 1.0, 1.0]
    assert (instances["weight"][~instances["kept"]] == 0).all()


def test_company_does_not_change_a_prediction(trained, frames) -> None:
    alone, _ = predict(*trained, ["p12"])
    expected = frames[0].set_index("patient").loc[["p12"]].reset_index()
    pd.testing.assert_frame_equal(alone, expected[alone.columns], rtol=1e-5)


def test_a_model_without_tem_has_instances_of_its_modalities(tmp_path: Path) -> None:
    stores = make_stores(tmp_path)
    configuration = settings(model={"modalities": ["OM", "IM"]}, epochs=2)
    predictions, instances = predict(train(tmp_path, stores, configuration), stores, configuration, ["p00"])
    assert predictions["modalities"].tolist() == ["OM+IM"]
    assert instances["crop"].tolist() == ["OM-p00-1", "IM-p00-1"]
    assert list(instances.columns) == list(INSTANCES)


def test_a_trained_encoder_is_restored(tmp_path: Path) -> None:
    stores = make_stores(tmp_path, 6, size=64)
    configuration = settings(encoder={"name": "resnet10t", "trainable": "all", "shared": True}, epochs=1)
    weights = train(tmp_path, stores, configuration, table=train_table(6, 2))
    predictions, instances = predict(weights, stores, configuration, ["p05", "p04"])
    assert len(predictions) == 2
    assert instances["modality"].value_counts().to_dict() == {"TEM": 5, "OM": 2, "IM": 2}


def test_weights_of_other_settings_are_an_error(trained) -> None:
    weights, stores, _ = trained
    message = r"w.safetensors: trained with another model and encoders than the configuration has now; delete"
    other = settings(model={"hidden": 8}, encoder={"name": "resnet10t"})
    with pytest.raises(GlomflowError, match=message):
        predict(weights, stores, other, ["p12"])


def test_damaged_weights_are_an_error(trained, tmp_path: Path) -> None:
    weights, stores, configuration = trained
    (tmp_path / "s.json").write_bytes(weights.with_name("s.json").read_bytes())
    (tmp_path / "w.safetensors").write_bytes(weights.read_bytes()[:100])
    with pytest.raises(
        GlomflowError, match=r"w.safetensors: cannot be loaded .*; delete the weights and train"
    ):
        predict(tmp_path / "w.safetensors", stores, configuration, ["p12"])


def test_a_patient_listed_twice_is_an_error(trained) -> None:
    with pytest.raises(GlomflowError, match="patients listed twice: p12"):
        predict(*trained, ["p12", "p12"])
