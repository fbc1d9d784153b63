"""Rules in words."""

import re
from pathlib import Path

import pytest

from glomflow.stages import RULES, STAGES, job_words, stage_of


def test_every_rule_has_words_and_no_other(repo: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted((repo / "rules").glob("*.smk"))]
    rules = {name for text in texts for name in re.findall(r"^\s*rule (\w+):", text, flags=re.M)}
    assert len(rules) > 40
    assert rules == set(RULES)


def test_stages_are_known_and_used() -> None:
    assert {words.stage for words in RULES.values()} | {"other"} == set(STAGES)
    assert stage_of("ingest") == "images"
    assert stage_of("new_rule") == "other"


@pytest.mark.parametrize(
    ("rule", "wildcards", "words"),
    [
        ("ingest", {"shard": "0003"}, "open images, shard 0003"),
        ("train", {"model": "om_only", "fold": "2", "seed": "0"}, "train om_only, fold 2, seed 0"),
        ("features", {"encoder": "", "modality": "om", "shard": "0000"}, "encode crops, OM, shard 0000"),
        (
            "features",
            {"encoder": "uni/", "modality": "im_fold1", "shard": "0000"},
            "encode crops, encoder uni, IM of fold 1, shard 0000",
        ),
        (
            "few_shot_adapted",
            {"backbone": "phantom", "adapted": "lora"},
            "adapt phantom: lora",
        ),
        ("search", {"fold": "1"}, "search settings of ?, fold 1"),
        ("folds", {}, "deal the folds"),
        ("new_rule", {"what": "x"}, "new rule, what x"),
    ],
)
def test_jobs_in_words(rule, wildcards, words) -> None:
    assert job_words(rule, wildcards) == words
