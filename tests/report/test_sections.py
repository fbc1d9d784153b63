"""Words that follow from numbers, and tables at their edges."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from glomflow.config import Adapted, Config, Folds, Imaging, Report, Stain
from glomflow.evaluation.instances import HITS
from glomflow.evaluation.summary import Summary
from glomflow.evaluation.summary_schemas import TABLES as SUMMARY_TABLES
from glomflow.files import write_json
from glomflow.report import tables, tables_results
from glomflow.report.captions import FIGURES
from glomflow.report.gallery import MAKERS, MAKERS_OF
from glomflow.report.material import Material, ReportInputs
from glomflow.report.numbers import NBSP
from glomflow.report.page import sections
from glomflow.report.sections_data import folds_section, split_words, stain_section
from glomflow.report.sections_diagnosis import favoured_sentences, verdict
from glomflow.report.sections_glomeruli import few_shot_section
from glomflow.report.sections_methods import limits, methods_section
from glomflow.report.words_few_shot import method_labels
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
    assert [*MAKERS, *MAKERS_OF] == list(FIGURES)
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
    models = list(made_up_run.config.diagnosis.models_of("disease"))
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
            "folds": Folds(protocol="published"),
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


def section_text(section) -> str:
    """All prose and table cells of a section."""
    parts = []
    for block in section.blocks:
        if block.kind == "prose":
            parts.append(block.text)
        elif block.kind == "table":
            parts += [block.caption, *block.headers, *(cell for row in block.rows for cell in row)]
        elif block.kind == "bullets":
            parts += [word for item in block.items for word in item]
    return plain(" | ".join(parts))


def test_a_better_baseline_is_said_plainly(made_up_run, tmp_path):
    summary = Summary.read(made_up_run.inputs.summary_dir)
    rows = summary.comparisons
    chosen = (rows["other"] == "cmus_net_sum") & (rows["metric"] == "accuracy")
    rows.loc[chosen, ["difference", "lower", "upper", "p_holm"]] = [-0.08, -0.14, -0.02, 0.004]
    write_json(tmp_path / "a.json", {"model_name": "cmus_net", "trained_parameters": 120000})
    write_json(tmp_path / "b.json", {"model_name": "cmus_net_sum", "trained_parameters": 90000})
    inputs = dataclasses.replace(made_up_run.inputs, trained=[tmp_path / "a.json", tmp_path / "b.json"])
    material = Material(inputs, made_up_run.config)
    [said] = favoured_sentences(material, summary)
    assert plain(said).replace("\u202f", " ") == (
        "cmus_net_sum beats cmus_net by +8 (2–14) points, P = 0.004 after adjustment; it has smil.variant "
        "sum instead of distance and 90 000 trained weights instead of 120 000."
    )
    rows.loc[chosen, "p_holm"] = 0.2
    assert favoured_sentences(material, summary) == [
        "No other model is more accurate than cmus_net by more than the choice of patients explains."
    ]
    found = {section.key: section for section in sections(inputs, made_up_run.config)}
    assert "120\u202f000" in section_text(found["ablation"])


def test_stages_have_a_section_of_their_own(made_up_run):
    found = {section.key: section for section in sections(made_up_run.inputs, made_up_run.config)}
    text = section_text(found["stage"])
    assert "Trained and tested on the 20 patients with a stage" in text
    assert "quadratic κ" in text
    assert "stages on average" in text
    assert "quadratic" not in section_text(found["results"])


def test_missing_modalities_have_a_section(made_up_run):
    found = {section.key: section for section in sections(made_up_run.inputs, made_up_run.config)}
    table = found["missing"].blocks[-1]
    assert table.headers == ("model", "metric", "rate 0", "rate 0.3", "rate 0.6", "rate 0.9")
    assert [row[1] for row in table.rows[:2]] == ["accuracy", "balanced accuracy"]


def test_searched_settings_are_listed(tmp_path):
    chosen = {"learning_rate": 0.00123, "hidden": 64}
    done = {"chosen": chosen, "loss": 0.5, "configured_loss": 0.75, "trials": 9, "reason": ""}
    write_json(tmp_path / "a.json", {"model": "m", "fold": 0, **done})
    left = {"chosen": {}, "loss": None, "configured_loss": None, "trials": 0, "reason": "it tunes itself"}
    write_json(tmp_path / "b.json", {"model": "l", "fold": 0, **left})
    inputs = ReportInputs(searches=[tmp_path / "a.json", tmp_path / "b.json"])
    [found] = [section for section in sections(inputs, Config()) if section.key == "search"]
    assert found.blocks[1].rows == [("m", "0", "0.00123", "64", "0.500", "0.750")]
    assert "not searched: it tunes itself." in section_text(found)


@pytest.mark.parametrize(
    ("folds", "expected"),
    [
        (Folds(), "5 folds, each once"),
        (Folds(repeats=3), "3 times 5 folds, once in each"),
        (Folds(protocol="leave_one_site_out"), "each site left out once"),
    ],
)
def test_splits_in_words(made_up_run, folds, expected):
    config = made_up_run.config.model_copy(update={"folds": folds})
    material = Material(made_up_run.inputs, config)
    assert split_words(material) == expected
    assert folds_section(material).blocks[0].text


def test_no_deposit_hits_make_no_section(made_up_run, tmp_path):
    write_table(tmp_path / "hits.parquet", pd.DataFrame(), HITS)
    inputs = ReportInputs(deposit_hits=tmp_path / "hits.parquet")
    assert [section.key for section in sections(inputs, made_up_run.config)] == ["methods", "provenance"]


def test_adapted_models_are_called_by_method_and_backbone(made_up_run):
    adapted = {
        "a": Adapted(method="clap"),
        "b": Adapted(method="lora", preset="clip"),
        "c": Adapted(method="lora", selection="validation"),
    }
    few_shot = made_up_run.config.few_shot.model_copy(
        update={"adapted": adapted, "validation_slide_fraction": 0.2}
    )
    config = made_up_run.config.model_copy(update={"few_shot": few_shot})
    labels = method_labels(config)
    assert list(labels) == ["linear_probe", "colour_texture", "a", "b", "c"]
    assert (labels["a"], labels["b"], labels["c"]) == ("CLAP (phantom)", "b", "c")
    material = Material(made_up_run.inputs, config)
    assert "c chose epochs or settings on 20 % of the slides" in plain(
        few_shot_section(material).blocks[0].text
    )
    text = dict(methods_section(material).blocks[0].items)["Few labelled glomeruli"]
    assert "CLAP (phantom) (settings default), b (settings clip)" in text
