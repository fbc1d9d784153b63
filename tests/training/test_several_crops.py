"""Several glomeruli of a patient, and several markers, as bags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glomflow.tables import CROPS, read_table, write_table
from glomflow.training.data import FoldData
from glomflow.training.predict import predict_fold
from training.synthetic import make_stores, settings, train


@pytest.mark.parametrize("variant", ["mean", "max", "first"])
def test_all_selected_crops_are_instances(tmp_path: Path, variant: str) -> None:
    stores = make_stores(tmp_path, lacking={"OM": {0}})
    for modality in ("OM", "IM"):
        for store in stores[modality]:
            write_table(store.index, read_table(store.index, CROPS).assign(selected=True), CROPS)
    bags = FoldData(stores, ["OM", "IM"], ["p00", "p01"], features=True).bags
    assert bags["OM"].slots.tolist() == [[-1, -1], [0, 1]]
    assert bags["OM"].crops == ["OM-p01-1", "OM-p01-0"]
    assert bags["IM"].slots.tolist() == [[0, 1], [2, 3]]
    configuration = settings(
        model={
            "modalities": ["OM", "IM"],
            "om_bag": {"variant": variant},
            "im_bag": {"variant": variant},
        },
        epochs=2,
    )
    weights = train(tmp_path, stores, configuration)
    predictions, _ = predict_fold(
        ["p00", "p01"], stores, configuration, "net", 0, 0, weights, tmp_path / "s.json", device="cpu"
    )
    assert predictions["modalities"].tolist() == ["IM", "OM+IM"]
    assert np.isfinite(predictions.filter(like="p_").to_numpy()).all()
