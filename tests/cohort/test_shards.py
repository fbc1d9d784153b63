"""How many shards suit a cohort."""

import pytest

from glomflow.cohort.sheets import MAX_SHARDS, recommended_shards, shards_advice
from glomflow.config import Run


@pytest.mark.parametrize(
    ("patients", "expected"),
    [(1, 1), (60, 2), (500, 20), (1000, 40), (10_000, 200), (30_000, 430), (100_000, 1000), (10**9, 10_000)],
)
def test_recommended_shards(patients: int, expected: int) -> None:
    assert recommended_shards(patients) == expected
    assert shards_advice(patients, expected) == ""


def test_unsuitable_numbers_are_told() -> None:
    assert shards_advice(10_000, 49).startswith(
        "run.shards: 49 puts about 204 patients into a job; about 200 "
    )
    assert shards_advice(10_000, 50) == shards_advice(10_000, 800) == ""
    assert shards_advice(10_000, 801) != ""


def test_the_configuration_knows_the_limit() -> None:
    assert Run(shards=MAX_SHARDS).shards == MAX_SHARDS
    with pytest.raises(ValueError, match="less than or equal to 10000"):
        Run(shards=MAX_SHARDS + 1)
