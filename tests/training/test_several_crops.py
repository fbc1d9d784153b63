"""Several glomeruli of a patient, and several markers, as bags."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomflow.tables import CROPS, read_table, write_table
from glomflow.training.predict import predict_fold
from training.synthetic import make_stores, settings, train


@pytest.mark.parametrize("variant", ["mean", "max", "first"])
def test_all_selected_crops_are_instances(tmp_path: Path, variant: str) -> None:
    stores = make_stores(tmp_path, lacking={"OM": {0}})
    for modality in ("OM", "IM"):
        for store in stores[modality]:
            write_table(store.index, read_table(store.index, CROPS).assign(selected=True), CROPS)
    configuration = settings(
        model={
            "modalities": ["OM", "IM"],
            "om_bag": {"variant": variant},
            "im_bag": {"variant": variant},
        },
        epochs=2,
    )
    weights = train(tmp_path, stores, configuration)
    predictions, instances = predict_fold(
        ["p00", "p01"], stores, configuration, "net", 0, 0, weights, tmp_path / "s.json", device="cpu"
    )
    assert predictions["modalities"].tolist() == ["IM", "OM+IM"]
    of_om = instances[instances["modality"] == "OM"].sort_values("rank")
    assert of_om["crop"].tolist() == ["OM-p01-1", "OM-p01-0"]
    assert (instances["modality"] == "IM").sum() == 4
    if variant == "mean":
        assert of_om["weight"].tolist() == [0.5, 0.5]
    if variant == "first":
        assert of_om["kept"].tolist() == [True, False]
