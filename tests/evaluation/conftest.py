"""Small made-up cohorts, predictions and crop indexes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

CLASSES = ["IgAN", "MN", "LN"]


@pytest.fixture(scope="session")
def make_patients() -> Callable[..., pd.DataFrame]:
    def make(count: int = 30) -> pd.DataFrame:
        ids = [f"P{number:03d}" for number in range(count)]
        return pd.DataFrame(
            {
                "patient": ids,
                "label": [CLASSES[number % 3] for number in range(count)],
                "site": [("north", "south")[number // 3 % 2] for number in range(count)],
                "stage": None,
                "shard": 0,
            }
        )

    return make


@pytest.fixture(scope="session")
def make_predictions(make_patients) -> Callable[..., pd.DataFrame]:
    """Returns predictions whose logit of the true class is raised by ``skill``."""

    def make(
        count: int = 30, model: str = "full", skill: float = 1.5, seeds: tuple[int, ...] = (0,), draw: int = 0
    ) -> pd.DataFrame:
        patients = make_patients(count)
        truth = patients["label"].map(CLASSES.index).to_numpy()
        frames = []
        for seed in seeds:
            rng = np.random.default_rng([draw, seed])
            logits = rng.normal(size=(count, 3))
            logits[np.arange(count), truth] += skill
            scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            frame = pd.DataFrame(
                {
                    "patient": patients["patient"],
                    "model": model,
                    "fold": np.arange(count) // 3 % 5,
                    "seed": seed,
                    "predicted": np.array(CLASSES)[scores.argmax(axis=1)],
                    "modalities": "OM+IM+TEM",
                }
            )
            frame[[f"p_{name}" for name in CLASSES]] = scores
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    return make


@pytest.fixture(scope="session")
def make_index() -> Callable[..., pd.DataFrame]:
    """Returns a crop index from (slide, patient, lesion, how many) rows."""

    def make(rows: list[tuple[str, str | None, str | None, int]]) -> pd.DataFrame:
        crops = [
            {"crop": f"{slide}-{lesion}-{number}", "slide": slide, "patient": patient, "lesion": lesion}
            for slide, patient, lesion, count in rows
            for number in range(count)
        ]
        return pd.DataFrame(crops, columns=["crop", "slide", "patient", "lesion"])

    return make
