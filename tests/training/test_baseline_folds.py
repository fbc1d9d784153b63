"""Every baseline network trains and predicts a fold as CMUS-Net does, with patients who lack modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glomflow.tables import INSTANCES, PREDICTIONS, probability_columns, write_table
from glomflow.training.predict import predict_fold
from training.synthetic import CLASSES, label_of, make_stores, settings, train

PATIENTS = 18
LACKING = {"OM": {3, 13, 14}, "IM": {14, 15}, "TEM": {5, 14, 16}}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory):
    return make_stores(tmp_path_factory.mktemp("stores"), PATIENTS, lacking=LACKING)


@pytest.mark.parametrize(
    "kind", ["late_fusion", "concatenation", "gated_unit", "coattention", "mmformer", "mdl_iia"]
)
def test_trains_and_predicts_a_fold(kind: str, stores, tmp_path: Path) -> None:
    chosen = settings(model={"kind": kind, "dropout": 0.0}, epochs=10)
    weights = train(tmp_path, stores, chosen)
    patients = [f"p{number:02d}" for number in range(12, PATIENTS)]
    predictions, instances = predict_fold(
        patients, stores, chosen, "net", 0, 0, weights, tmp_path / "s.json", device="cpu"
    )
    write_table(tmp_path / "p.parquet", predictions, PREDICTIONS, probability_columns(CLASSES))
    write_table(tmp_path / "i.parquet", instances, INSTANCES)
    assert predictions["modalities"].tolist() == [
        "OM+IM+TEM",
        "IM+TEM",
        "",
        "OM+TEM",
        "OM+IM",
        "OM+IM+TEM",
    ]
    chances = predictions[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1.0, atol=1e-12)
    complete = predictions[predictions["modalities"] == "OM+IM+TEM"]
    assert complete["predicted"].tolist() == [label_of(12), label_of(17)]
    assert set(instances["modality"]) == {"OM", "IM", "TEM"}
