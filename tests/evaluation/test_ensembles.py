"""Late fusion of few-shot methods."""

import numpy as np
import pandas as pd
import pytest

from glomflow.config import FewShot
from glomflow.errors import GlomflowError
from glomflow.evaluation.ensembles import ensembles
from glomflow.tables import FEW_SHOT, probability_columns, write_table

CLASSES = ["normal", "sclerosed"]


def rows_of(method: str, shots: list[int], chances: list[float], crops: str = "ab") -> pd.DataFrame:
    """Two test crops in one run, with the probability that each is normal."""
    rows = [
        {"method": method, "run": 0, "shots": count, "crop": crop, "slide": "S", "p_normal": p}
        for count in shots
        for crop, p in zip(crops, chances, strict=True)
    ]
    frame = pd.DataFrame(rows).assign(label="normal")
    frame["p_sclerosed"] = 1.0 - frame["p_normal"]
    frame["predicted"] = np.where(frame["p_normal"] > 0.5, *CLASSES)
    return frame.assign(own_cosine=0.1, cosine_gap=0.1, silhouette=0.1)


@pytest.fixture
def predictions() -> pd.DataFrame:
    parts = [rows_of("one", [1, 2], [0.9, 0.2]), rows_of("two", [2, 4], [0.3, 0.4]).iloc[::-1]]
    return pd.concat(parts, ignore_index=True)


def test_log_probabilities_are_averaged_at_the_shots_that_all_have(predictions, tmp_path) -> None:
    found = ensembles(predictions, {"both": ["one", "two"]})
    write_table(tmp_path / "p.parquet", found, FEW_SHOT, probability_columns(CLASSES))
    assert found[["method", "shots", "crop"]].to_numpy().tolist() == [["both", 2, "a"], ["both", 2, "b"]]
    for p, (one, two) in zip(found["p_normal"], [(0.9, 0.3), (0.2, 0.4)], strict=True):
        normal, other = np.sqrt(one * two), np.sqrt((1 - one) * (1 - two))
        assert p == pytest.approx(normal / (normal + other))
    assert found["predicted"].tolist() == ["normal", "sclerosed"]
    assert found[["own_cosine", "cosine_gap", "silhouette"]].isna().all().all()


def test_no_member_has_a_veto() -> None:
    sure = pd.concat([rows_of("one", [1], [0.0, 1.0]), rows_of("two", [1], [1.0, 1.0])])
    found = ensembles(sure, {"both": ["one", "two"]})
    np.testing.assert_allclose(found["p_normal"], [0.5, 1.0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[rows["method"] == "one"], r"ensembles\.both: there is no prediction of two"),
        (lambda rows: rows[rows["shots"] != 2], "one, two have no number of shots in common"),
        (
            lambda rows: rows[(rows["crop"] == "a") | (rows["method"] == "one")],
            "do not predict the same crops",
        ),
    ],
)
def test_members_that_do_not_fit_are_named(predictions, change, message) -> None:
    with pytest.raises(GlomflowError, match=message):
        ensembles(change(predictions), {"both": ["one", "two"]})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["probe", "colour"], r"ensembles\.both: 'colour' is not among methods and adapted"),
        (["probe"], "name two or more different"),
        (["probe", "probe"], "name two or more different"),
        (["probe", "zero"], "zero has 0 shots and the others have more; take it out"),
    ],
)
def test_the_configuration_refuses_ensembles_that_cannot_be(members, message) -> None:
    adapted = {"probe": {"method": "linear_probe"}, "zero": {"method": "zero_shot"}}
    with pytest.raises(ValueError, match=message):
        FewShot(adapted=adapted, ensembles={"both": members})


def test_ensembles_come_after_what_they_are_made_of() -> None:
    settings = FewShot(
        adapted={"probe": {"method": "linear_probe"}}, ensembles={"both": ["probe", "colour_texture"]}
    )
    assert settings.names == ["linear_probe", "colour_texture", "probe", "both"]
    with pytest.raises(ValueError, match="is a method or a model as well"):
        FewShot(ensembles={"linear_probe": ["linear_probe", "colour_texture"]})
