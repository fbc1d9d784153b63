"""What models are, in words."""

import pytest

from glomflow.config import Loss, Model, Training
from glomflow.report.words_models import (
    attention_words,
    loss_words,
    models_table,
    notes,
    pooling_words,
    training_words,
)


@pytest.mark.parametrize(
    ("model", "pooling", "attention"),
    [
        (
            {"smil": {"variant": "sum"}},
            "the first six instances are added up with equal weight (SMIL sum)",
            "the other maps answer the TEM map (cross-modal scale attention, 4 heads)",
        ),
        (
            {"smil": {"variant": "top_k", "k": 2}, "cmsa": {"variant": "none"}},
            "mean of the 2 instances that a learned score puts first",
            "none",
        ),
        ({"modalities": ["OM", "IM"]}, "–", "none (no TEM)"),
        ({"modalities": ["TEM"], "smil": {"variant": "max"}}, "maximum over the instances", "–"),
        ({"kind": "coattention"}, "–", "–"),
    ],
)
def test_pooling_and_attention(model: dict, pooling: str, attention: str) -> None:
    assert pooling_words(Model(**model)) == pooling
    assert attention_words(Model(**model)) == attention


def test_notes_name_only_what_sets_a_model_apart() -> None:
    assert notes(Model()) == "–"
    model = Model(
        task="stage", ordinal=True, absent="learned", modality_dropout=0.2, width=64, encoders={"TEM": "em"}
    )
    assert notes(model) == (
        "MN stage; ordinal heads; encoders TEM: em; projected to 64 channels; learned stand-in for a missing "
        "modality; modality dropout 0.2"
    )


def test_loss_words() -> None:
    assert loss_words(Loss(), Model()) == "fusion 1, OM 0.3, IM 0.5, TEM 0.2"
    loss = Loss(weighting="uncertainty", class_weights="balanced", focal_gamma=2.0, label_smoothing=0.1)
    assert loss_words(loss, Model(modalities=["OM"])) == (
        "fusion 1, OM 0.3, weights learned from there (Kendall 2018), classes balanced, focal with gamma 2 "
        "(Lin 2017), labels smoothed by 0.1"
    )


def test_training_words() -> None:
    assert training_words(Training(epochs=5, learning_rate=3e-4, final_learning_rate=1e-5)) == (
        "Adam, learning rate 0.0003 to 1e-05 on a cosine, weight decay 5e-05, 5 epochs of 4 patients a step; "
        "the epoch of lowest validation loss is kept"
    )
    assert "the last epoch is kept; 2 seeds each" in training_words(Training(selection="last", seeds=[0, 1]))


def test_table_lists_every_model() -> None:
    table = models_table({"a": Model(), "b": Model(kind="gated_unit", modalities=["OM", "TEM"])})
    assert [row[:3] for row in table.rows] == [
        ["a", "OM, IM and TEM", "CMUS-Net (arXiv 2512.15171)"],
        ["b", "OM and TEM", "gated multimodal unit (Arevalo 2017)"],
    ]
