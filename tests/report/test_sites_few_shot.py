"""Runs that hold sites out, in the report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Cohort, Config, Evaluation, FewShot, Run
from glomflow.evaluation.draws import draw_shots
from glomflow.evaluation.few_shot_summary import few_shot_summary
from glomflow.report.material import Material
from glomflow.report.numbers import NBSP
from glomflow.report.sections_glomeruli import few_shot_section, summary_section
from glomflow.report.sections_methods import limits
from glomflow.report.sites_few_shot import few_shot_sites_table
from glomflow.tables import FEW_SHOT_SPACE

CLASSES = ["normal", "sclerosed"]


@pytest.fixture(scope="module")
def material(tmp_path_factory, made_up_run) -> Material:
    """Six slides of the east, whose glomeruli are told rightly, and two of the west, told wrongly."""
    folder = tmp_path_factory.mktemp("sites")
    rows = [(f"S{n}", lesion, k) for n in range(8) for lesion in CLASSES for k in range(2)]
    index = pd.DataFrame(rows, columns=["slide", "lesion", "k"])
    index = index.assign(crop=[f"{s}-{x}-{k}" for s, x, k in rows], patient=index["slide"])
    sites = {f"S{n}": "east" if n < 6 else "west" for n in range(8)}
    few_shot = FewShot(shots=[1], runs=3, protocol="leave_one_site_out", methods=["linear_probe"])
    config = Config(
        run=Run(tracks=["glomeruli"]),
        cohort=Cohort(source="crops", folder="crops", classes=CLASSES),
        few_shot=few_shot,
        evaluation=Evaluation(bootstrap=200),
    )
    draws = draw_shots(index, few_shot, seed=0, sites=sites)
    test = draws[draws["split"] == "test"].reset_index(drop=True)
    truth = test["label"].map(CLASSES.index).to_numpy()
    called = np.where(test["site"] == "west", 1 - truth, truth)
    rows = test[["run", "crop", "slide", "label"]].assign(method="linear_probe", shots=1)
    rows["predicted"] = np.array(CLASSES)[called]
    rows[list(FEW_SHOT_SPACE)] = np.nan
    rows[[f"p_{name}" for name in CLASSES]] = np.eye(2)[called]
    few_shot_summary(rows, draws, config.evaluation, seed=0).write(folder)
    inputs = dataclasses.replace(
        made_up_run.inputs, few_shot_dir=folder, summary_dir=None, stage_dir=None, phantom=None
    )
    return Material(inputs, config)


def test_each_site_has_a_row(material) -> None:
    table = few_shot_sites_table(material.few_shot.sites, {"linear_probe": "probe"})
    cells = [tuple(cell.replace(NBSP, " ") for cell in row) for row in table.rows]
    assert [row[:5] for row in cells] == [
        ("probe", "1", "east", "24 of 6 slides", "2"),
        ("", "", "west", "8 of 2 slides", "2"),
    ]
    assert [row[5].split()[0] for row in cells] == ["1.00", "0.00"]


def test_the_section_says_that_sites_are_held_out(material) -> None:
    section = few_shot_section(material)
    assert "Each site is held out 3 times:" in section.blocks[0].text.replace(NBSP, " ")
    captions = [block.caption for block in section.blocks if block.kind == "table"]
    assert any(caption.startswith("Each held-out site") for caption in captions)
    words = summary_section(material).blocks[1].text.replace(NBSP, " ")
    assert "on glomeruli of sites that it had not seen. Each site was held out in turn, in 3 rounds" in words
    assert "not sites" in dict(limits(material))["Another hospital"]


def test_without_held_out_sites_there_is_no_table(made_up_run) -> None:
    found = Material(made_up_run.inputs, made_up_run.config).few_shot
    assert few_shot_sites_table(found.sites, {}) is None
