"""Predictions from fewer modalities than patients have."""

import numpy as np
import pandas as pd
import pytest

from glomflow.tables import SUBSETS, probability_columns, write_table
from glomflow.training.predict import predict_fold
from glomflow.training.subsets import predict_subsets, subsets
from training.synthetic import CLASSES, make_stores, settings, train

PATIENTS = ["p08", "p01", "p11", "p04"]
COLUMNS = [f"p_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subsets")
    stores = make_stores(folder, lacking={"TEM": {1}, "OM": {4}, "IM": {4, 11}})
    configuration = settings(epochs=1)
    train(folder, stores, configuration)
    return folder, stores, configuration


def run(predict, trained, stores=None):
    folder, own, configuration = trained
    files = (folder / "w.safetensors", folder / "s.json")
    return predict(PATIENTS, stores or own, configuration, "net", 2, 0, *files, device="cpu")


def test_subsets_are_in_one_order():
    assert list(subsets(["TEM", "OM"])) == [("OM",), ("TEM",), ("OM", "TEM")]
    assert len(list(subsets(["OM", "IM", "TEM"]))) == 7


def test_every_subset_of_what_a_patient_has(trained, tmp_path):
    found = run(predict_subsets, trained)
    assert found.groupby("patient")["subset"].agg(list).to_dict() == {
        "p01": ["OM", "IM", "OM+IM"],
        "p04": ["TEM"],
        "p08": ["OM", "IM", "TEM", "OM+IM", "OM+TEM", "IM+TEM", "OM+IM+TEM"],
        "p11": ["OM", "TEM", "OM+TEM"],
    }
    assert found[COLUMNS].sum(axis=1).to_numpy() == pytest.approx(np.ones(len(found)))
    assert found["fold"].unique().tolist() == [2]
    write_table(tmp_path / "t.parquet", found, SUBSETS, probability_columns(CLASSES))


def test_all_modalities_are_the_prediction_itself(trained):
    found = run(predict_subsets, trained)
    longest = found.loc[found["subset"].str.len().groupby(found["patient"]).idxmax()]
    predicted, _ = run(predict_fold, trained)
    joined = longest.merge(predicted, on="patient", suffixes=("", "_all"))
    assert (joined["subset"] == joined["modalities"]).all()
    for name in COLUMNS:
        assert joined[name].to_numpy() == pytest.approx(joined[f"{name}_all"].to_numpy(), abs=1e-6)


def test_a_hidden_modality_is_a_missing_one(trained, tmp_path):
    stores = make_stores(tmp_path, lacking={"TEM": {1, 8}, "OM": {4}, "IM": {4, 11}})
    without, _ = run(predict_fold, trained, stores)
    hidden = run(predict_subsets, trained)
    one = hidden[(hidden["patient"] == "p08") & (hidden["subset"] == "OM+IM")]
    expected = without[without["patient"] == "p08"]
    assert one[COLUMNS].to_numpy() == pytest.approx(expected[COLUMNS].to_numpy(), abs=1e-6)


def test_no_patients_give_an_empty_table(trained):
    folder, stores, configuration = trained
    found = predict_subsets(
        [], stores, configuration, "net", 0, 0, folder / "w.safetensors", folder / "s.json", device="cpu"
    )
    assert isinstance(found, pd.DataFrame)
    assert found.empty
