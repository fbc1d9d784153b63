"""Words that follow from numbers, and tables at their edges."""

from __future__ import annotations

import pandas as pd
import pytest

from glomflow.config import Config, Folds, Imaging, Report, Stain
from glomflow.evaluation.instances import HITS
from glomflow.evaluation.summary import Summary
from glomflow.evaluation.summary_schemas import TABLES as SUMMARY_TABLES
from glomflow.report import tables, tables_results
from glomflow.report.captions import FIGURES
from glomflow.report.gallery import MAKERS
from glomflow.report.material import Material, ReportInputs
from glomflow.report.numbers import NBSP
from glomflow.report.page import sections
from glomflow.report.sections_data import stain_section
from glomflow.report.sections_diagnosis import verdict
from glomflow.report.sections_methods import limits, methods_section
from glomflow.tables import write_table


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [
        (0.1, 0.2, "These patients do not tell the two apart."),
        (0.1, float("nan"), "These patients do not tell the two apart."),
        (0.1, 0.01, "The advantage is larger than the choice of patients explains."),
        (-0.1, 0.01, "The disadvantage is larger than the choice of patients explains."),
    ],
)
def test_verdict(difference, p, expected):
    assert verdict({"difference": difference, "p_holm": p}, 0.05) == expected


def test_every_figure_has_words_a_maker_and_a_caption_for_snakemake(repo):
    assert list(MAKERS) == list(FIGURES)
    for name, words in FIGURES.items():
        file = repo / "rules" / "captions" / f"{name}.rst"
        assert " ".join(file.read_text(encoding="utf-8").split()) == words.caption
        assert words.alt.endswith(".")


def test_long_lists_are_cut_and_say_so():
    count = tables.MOST_ROWS + 5
    inventory = pd.DataFrame(
        {
            "patient": [f"P{n:03d}" for n in range(count)],
            "modality": "OM",
            "path": [f"{n}.tif" for n in range(count)],
            "status": "unreadable",
            "reason": None,
        }
    )
    table = tables.exclusions_table(inventory)
    assert len(table.rows) == tables.MOST_ROWS
    assert table.note == "5 more are in the inventory."
    assert table.rows[0] == ("P000", "OM", "0.tif", "unreadable", "")
    patients = tables.excluded_patients_table(inventory[["patient", "reason"]])
    assert patients.note == "And 5 more."
    crops = pd.DataFrame({"slide": [f"s{n:03d}" for n in range(40)], "lesion": ["a", "b"] * 20})
    lesions = tables.lesion_table(crops, ["a", "b"])
    assert len(lesions.rows) == tables.MOST_SLIDES + 1
    assert lesions.rows[-1] == ("all 40 slides", "20", "20", "40")
    assert lesions.note == "28 more slides are not shown."


def test_nothing_left_out_makes_no_table():
    inventory = pd.DataFrame(
        {"patient": ["P1"], "modality": ["OM"], "path": ["a"], "status": ["ok"], "reason": [""]}
    )
    assert tables.exclusions_table(inventory) is None
    assert tables.excluded_patients_table(pd.DataFrame({"patient": [], "reason": []})) is None


def test_one_stratum_makes_no_table(made_up_run):
    strata = Material(made_up_run.inputs, made_up_run.config).summary.strata
    one = strata[(strata["stratum"] == "site") & (strata["value"] == "north")]
    assert tables_results.strata_table(one, "cmus_net") is None


def test_a_real_cohort_has_no_ceilings(made_up_run):
    summary = Material(made_up_run.inputs, made_up_run.config).summary
    pooled = summary.pooled.assign(ceiling=float("nan"), realised_ceiling=float("nan"))
    models = list(made_up_run.config.diagnosis.models)
    table = tables_results.ablation_table(pooled, summary.comparisons, models, str)
    assert "ceiling by design" not in table.headers
    assert plain(table.rows[0][1]) == "0.86 (0.76–0.93)"
    assert all(len(row) == len(table.headers) for row in table.rows)


@pytest.mark.parametrize(
    ("stain", "expected"),
    [
        (Stain(method="none"), "Colours were left as they were scanned."),
        (Stain(method="reinhard"), "the method of Reinhard, to fixed published stain vectors"),
        (Stain(target="cohort_median"), "the median of all slides' profiles, test patients' too"),
    ],
)
def test_stain_section_says_what_was_matched_to_what(made_up_run, stain, expected):
    config = Config(imaging=Imaging(stain=stain))
    inputs = ReportInputs(stain_profiles=made_up_run.inputs.stain_profiles)
    section = stain_section(Material(inputs, config))
    assert expected in section.blocks[0].text
    assert plain(section.blocks[1].text).startswith("58 slide profiles; 1 could not be estimated and passes")


def test_limits_follow_the_configuration(made_up_run):
    config = made_up_run.config.model_copy(
        update={
            "folds": Folds(parity=True),
            "imaging": Imaging(stain=Stain(target="cohort_median")),
            "report": Report(),
        }
    )
    names = [name for name, _ in limits(Material(made_up_run.inputs, config))]
    assert names == [
        "A phantom is not a patient",
        "Another hospital",
        "Training is a draw, too",
        "Mix of diagnoses",
        "Weights are no explanation",
        "No validation patients",
        "Few slides",
        "Stain target",
        "Use",
    ]


@pytest.mark.parametrize(
    ("few_shot_methods", "inputs", "has_floor"),
    [
        (["linear_probe", "colour_texture"], "on features standardised", True),
        (["linear_probe"], "on features standardised", False),
        (["colour_texture"], "on colour moments and local binary patterns standardised", False),
    ],
)
def test_methods_name_what_was_run(made_up_run, few_shot_methods, inputs, has_floor):
    few_shot = made_up_run.config.few_shot.model_copy(update={"methods": few_shot_methods})
    config = made_up_run.config.model_copy(update={"few_shot": few_shot})
    bullets = methods_section(Material(made_up_run.inputs, config)).blocks[0]
    text = dict(bullets.items)["Few labelled glomeruli"]
    assert inputs in text
    assert ("is the floor that features have to beat" in text) == has_floor


def test_unknown_model_keeps_its_name(made_up_run):
    assert Material(made_up_run.inputs, made_up_run.config).model_label("other") == "other"


def test_a_single_model_has_no_comparison(made_up_run, tmp_path):
    whole = Summary.read(made_up_run.inputs.summary_dir)
    frames = {name: getattr(whole, name) for name in SUMMARY_TABLES}
    first = {name: frame[frame["model"] == "cmus_net"] for name, frame in frames.items()}
    first["comparisons"] = whole.comparisons.head(0)
    Summary(**first, settings=whole.settings).write(tmp_path)
    inputs = ReportInputs(summary_dir=tmp_path)
    found = {section.key: section for section in sections(inputs, made_up_run.config)}
    assert "ablation" not in found
    assert "best model" not in found["summary"].blocks[1].text


def test_no_deposit_hits_make_no_section(made_up_run, tmp_path):
    write_table(tmp_path / "hits.parquet", pd.DataFrame(), HITS)
    inputs = ReportInputs(deposit_hits=tmp_path / "hits.parquet")
    assert [section.key for section in sections(inputs, made_up_run.config)] == ["methods", "provenance"]
