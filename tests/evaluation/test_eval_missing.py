"""Accuracy over the rate of missing modalities, beside a count of all ways of missing them."""

import itertools

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Config, Diagnosis, Evaluation, Model
from glomflow.errors import GlomflowError
from glomflow.evaluation.missing import RATES, missing_curve, subset_chances

CLASSES = ["IgAN", "MN", "LN"]
CONFIG = Config(
    evaluation=Evaluation(bootstrap=200),
    diagnosis=Diagnosis(models={"full": Model(), "tem": Model(modalities=["TEM"])}),
)
PATIENTS = pd.DataFrame({"patient": ["a", "b", "c", "d"], "label": ["IgAN", "IgAN", "MN", "LN"]})
HAD = {"a": ["OM", "IM", "TEM"], "b": ["OM", "IM", "TEM"], "c": ["OM", "IM", "TEM"], "d": ["OM", "TEM"]}
RIGHT = {
    "a": {"OM", "OM+IM", "OM+TEM", "OM+IM+TEM"},
    "b": {"OM+IM+TEM"},
    "c": {"OM", "IM", "TEM", "OM+IM", "OM+TEM", "IM+TEM", "OM+IM+TEM"},
    "d": {"TEM"},
}


def subsets_of(names: list[str]) -> list[tuple[str, ...]]:
    return [part for size in range(1, len(names) + 1) for part in itertools.combinations(names, size)]


def table() -> pd.DataFrame:
    rows = []
    for patient, names in HAD.items():
        label = PATIENTS.set_index("patient").loc[patient, "label"]
        other = CLASSES[(CLASSES.index(label) + 1) % 3]
        for part in subsets_of(names):
            called = label if "+".join(part) in RIGHT[patient] else other
            chances = {f"p_{name}": 0.8 if name == called else 0.1 for name in CLASSES}
            key = {"patient": patient, "model": "full", "fold": 0, "seed": 0, "subset": "+".join(part)}
            rows.append({**key, **chances})
    return pd.DataFrame(rows)


def counted(patient: str, rate: float) -> float:
    """Probability of a right answer, over all ways of missing modalities that leave one."""
    names, right, total = HAD[patient], 0.0, 0.0
    for kept in itertools.product((False, True), repeat=len(names)):
        if any(kept):
            chance = np.prod([1 - rate if keep else rate for keep in kept])
            part = "+".join(name for name, keep in zip(names, kept, strict=True) if keep)
            total += chance
            right += chance * (part in RIGHT[patient])
    return right / total


def test_the_curve_is_the_exact_expectation() -> None:
    found = missing_curve(table(), PATIENTS, CONFIG, "disease").set_index(["metric", "rate"])
    assert set(found["model"]) == {"full"}
    for rate in RATES:
        each = [counted(patient, rate) for patient in "abcd"]
        assert found.loc[("accuracy", rate), "value"] == pytest.approx(np.mean(each))
        balanced = np.mean([np.mean(each[:2]), each[2], each[3]])
        assert found.loc[("balanced_accuracy", rate), "value"] == pytest.approx(balanced)
    assert found.loc[("accuracy", 0.0), "value"] == 0.75
    assert (found["lower"] <= found["value"]).all()
    assert (found["value"] <= found["upper"]).all()
    assert (found["patients"] == 4).all()


def test_seeds_and_repeats_are_averaged() -> None:
    config = CONFIG.model_copy(update={"folds": CONFIG.folds.model_copy(update={"repeats": 2})})
    one, two = table(), table().assign(fold=7)
    flipped = two["p_IgAN"].copy()
    two["p_IgAN"], two["p_MN"] = two["p_MN"], flipped
    both = missing_curve(pd.concat([one, two]), PATIENTS, config, "disease")
    alone = [missing_curve(rows, PATIENTS, config, "disease")["value"] for rows in (one, two)]
    assert both["value"].to_numpy() == pytest.approx(np.mean(alone, axis=0))


def test_chances_sum_to_one() -> None:
    parts = subsets_of(["OM", "IM", "TEM"])
    chances = subset_chances([len(part) for part in parts], [3] * 7, RATES)
    assert chances.sum(axis=0) == pytest.approx(np.ones(len(RATES)))
    assert chances[-1, 0] == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.iloc[1:], "patient a: not one prediction per subset of modalities"),
        (lambda rows: pd.concat([rows, rows.head(1)]), "patient a: not one prediction per subset"),
        (lambda rows: rows.replace({"patient": {"c": "x"}}), "patient x is not an eligible patient"),
        (lambda rows: rows.iloc[:0], "model 'full': no predictions from subsets"),
    ],
)
def test_tables_that_do_not_fit_are_refused(spoil, message) -> None:
    with pytest.raises(GlomflowError, match=message):
        missing_curve(spoil(table()), PATIENTS, CONFIG, "disease")
