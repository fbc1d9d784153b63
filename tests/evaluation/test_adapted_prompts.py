"""Prompts are checked before anything is trained."""

import json
from pathlib import Path

import pandas as pd
import pytest

from glomflow.config import Cohort, Config, FewShot, Run
from glomflow.config_vlm import LabelSet, Vlm, VlmPretraining
from glomflow.errors import GlomflowError
from glomflow.evaluation.adapted_prompts import checked_prompts
from glomflow.evaluation.draws import DRAWS, draw_shots
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.label_sets import check_labels
from glomflow.tables import write_table

import_torchvision()
pytest.importorskip("open_clip")

GLOMERULI = Run(tracks=["glomeruli"])
SLIDES = [(f"S{n}", f"P{n}", lesion, 2) for n in range(4) for lesion in ("normal", "ischaemic")]


def config(**values) -> Config:
    labels = LabelSet.model_validate({"preset": "phantom"} | values)
    return Config(vlm=Vlm(labels=labels, pretraining=VlmPretraining(context_length=16)))


@pytest.fixture
def draws(make_index, tmp_path) -> Path:
    path = tmp_path / "draws.parquet"
    write_table(path, draw_shots(make_index(SLIDES), FewShot(shots=[1], runs=1), seed=0), DRAWS)
    return path


def test_prompts_of_the_drawn_classes_are_written_with_their_tokens(draws) -> None:
    found = json.loads(json.dumps(checked_prompts(config(), "phantom", draws)))
    assert list(found["classes"]) == ["ischaemic", "normal"]
    assert found["most_tokens"] == 16
    assert found["classes"]["normal"]["name"] == "Normal"
    assert found["classes"]["normal"]["tokens"]["Preserved tuft with patent lumens"] == 9


def test_a_drawn_class_without_prompts_stops(draws) -> None:
    found = pd.read_parquet(draws)
    write_table(draws, found.replace({"label": {"ischaemic": "torn"}}), DRAWS)
    with pytest.raises(GlomflowError, match="the class torn of the annotations has no prompts"):
        checked_prompts(config(), "phantom", draws)


def test_all_prompts_with_too_many_tokens_are_named(draws) -> None:
    long = {"prompts": [" ".join(["glomerulus"] * 20), " ".join(["normal"] * 15)]}
    with pytest.raises(GlomflowError) as caught:
        checked_prompts(config(classes={"normal": long}), "phantom", draws)
    assert "2 problems with the prompts" in str(caught.value)
    assert "phantom takes 16 tokens, it has 17; shorten it" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"cohort": Cohort(source="crops", folder="x", classes=["normal", "torn"])},
            "the class torn of the annotations has no prompts",
        ),
        ({"few_shot": FewShot(classes=["normal", "scarred"])}, "the class scarred of the annotations has no"),
        ({"vlm": Vlm(labels=LabelSet(folder="nowhere"))}, "there is no folder nowhere"),
    ],
)
def test_what_the_configuration_tells_is_checked_at_once(keys, message: str) -> None:
    with pytest.raises(GlomflowError, match=message):
        check_labels(Config(run=GLOMERULI, **keys))


def test_few_shot_classes_may_leave_a_class_without_prompts_out() -> None:
    crops = Cohort(source="crops", folder="x", classes=["normal", "torn", "crescentic"])
    check_labels(Config(run=GLOMERULI, cohort=crops, few_shot=FewShot(classes=["normal", "crescentic"])))
    check_labels(Config())
