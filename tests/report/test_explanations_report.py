"""The section and the figures on what predictions rest on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Config, Diagnosis, Explanations, Model
from glomflow.errors import GlomflowError
from glomflow.evaluation.explanations import BY_CLASS, CHECKS, MEAN_CURVES, Checks
from glomflow.report import figures_explanations
from glomflow.report.examples_explanations import chosen_patients, explanation_examples
from glomflow.report.gallery import draw_figure
from glomflow.report.material import Material, ReportInputs
from glomflow.report.numbers import NBSP
from glomflow.report.sections_explanations import explanations_section
from glomflow.report.style import save_figure
from glomflow.tables import CROPS

CLASSES = ["IgAN", "MN", "LN"]


def configuration(**explanations: object) -> Config:
    options = Explanations(**{"enabled": True, **explanations})
    return Config(diagnosis=Diagnosis(models={"net": Model()}, explanations=options))


def check(measure: str, value: float, reference: float = np.nan, **more: object) -> dict[str, object]:
    row = {"model": "net", "check": "localisation", "modality": "TEM", "kind": "grad_cam", "group": "all"}
    difference = value - reference
    ends = {"lower": value - 0.1, "upper": value + 0.1, "patients": 20, "items": 40}
    gap = {"difference_lower": difference - 0.1, "difference_upper": difference + 0.1}
    given = {"measure": measure, "value": value, "reference": reference, "difference": difference}
    return {**row, **given, **ends, **gap, **more}


def made_up_checks(*, known: bool = True) -> Checks:
    rows = [
        check("pointing", 0.6, 0.3),
        check("energy", 0.1, 0.09),
        check("energy", 0.7, 0.5, modality="OM", kind="cmsa"),
        check("top_by_map", 0.1, 0.31, check="ranking"),
    ]
    rows = rows if known else []
    rows += [
        check("deletion", 0.4, 0.6, check="faithfulness", modality="all"),
        check("insertion", 0.62, 0.6, check="faithfulness", modality="all"),
        check("rank_correlation", 0.05, check="randomised"),
        check("similarity", 0.3, check="randomised", modality="OM", kind="cmsa"),
        check("error", 2e-16, check="additivity", modality="all", kind="shapley", lower=np.nan, upper=np.nan),
    ]
    by_class = [
        {"model": "net", "predicted": group, "modality": name, "value": value, "patients": 9}
        for group in ("all", "MN", "LN")
        for name, value in (("OM", 0.1), ("TEM", 0.3))
    ]
    share = np.linspace(0, 1, 5)
    curves = [
        pd.DataFrame({"share": share, "value": 0.9 - 0.5 * share}).assign(order=order, direction=direction)
        for order in ("map", "random")
        for direction in ("deletion", "insertion")
    ]
    return Checks(
        pd.DataFrame(rows, columns=list(CHECKS)),
        pd.DataFrame(by_class).assign(lower=0.05, upper=0.35)[list(BY_CLASS)],
        pd.concat(curves).assign(model="net", lower=0.2, upper=0.95)[list(MEAN_CURVES)],
    )


def material(tmp_path: Path, *, known: bool = True) -> Material:
    made_up_checks(known=known).write(tmp_path)
    return Material(ReportInputs(explanations_dir=tmp_path), configuration())


def all_text(section) -> str:
    texts = [getattr(block, "text", "") for block in section.blocks]
    tables = [cell for block in section.blocks for row in getattr(block, "rows", ()) for cell in row]
    return " | ".join([*texts, *tables]).replace(NBSP, " ")


def test_the_section_says_which_checks_were_passed(tmp_path: Path) -> None:
    section = explanations_section(material(tmp_path))
    text = all_text(section)
    assert section.title == "What the predictions rest on"
    assert "TEM: highest place in deposits: above chance" in text
    assert "TEM: share of map in deposits: not told from chance" in text
    assert "OM attention: share of map in glomerulus: above chance" in text
    assert "TEM: first tile by map shows deposit: below chance" in text
    assert "deletion: the prediction follows the map more than a random order" in text
    assert "insertion: the prediction does not follow the map more than a random order" in text
    assert "TEM +30 (+5" not in text
    assert "On average: TEM +30 (5–35) points; OM +10 (5–35) points." in text
    assert "contributions: largest error of their sum | 20 | 2.0e−16" in text


def test_a_cohort_without_truth_says_that_it_was_not_checked(tmp_path: Path) -> None:
    found = material(tmp_path, known=False)
    real = found.config.model_copy(
        update={"cohort": found.config.cohort.model_copy(update={"source": "sheets"})}
    )
    text = all_text(explanations_section(Material(found.inputs, real)))
    assert "where maps should point is not known in this cohort, so that this was not checked" in text
    assert "deposits" not in text


def test_no_checks_make_no_section() -> None:
    assert explanations_section(Material(ReportInputs(), configuration())) is None


def test_right_and_wrong_patients_come_in_the_order_of_a_hash() -> None:
    names = [f"P{n}" for n in range(10)]
    truth = dict.fromkeys(names, "MN")
    predicted = {name: "MN" if n % 2 else "LN" for n, name in enumerate(names)}
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    right = [name for name in ordered if predicted[name] == "MN"]
    wrong = [name for name in ordered if predicted[name] == "LN"]
    assert chosen_patients(predicted, truth, 4) == [*right[:2], *wrong[:2]]
    assert chosen_patients(predicted, truth, 8) == [*right[:4], *wrong[:4]]
    assert chosen_patients(dict.fromkeys(names, "MN"), truth, 3) == ordered[:3]
    assert chosen_patients(dict.fromkeys(names, "LN"), truth, 3) == ordered[:3]


def store(modality: str, crops: list[str]) -> list[tuple[np.ndarray, pd.DataFrame]]:
    channels = 1 if modality == "TEM" else 3
    images = np.full((len(crops), 8, 8, channels), 128, np.uint8)
    frame = pd.DataFrame({"row": range(len(crops)), "crop": crops})
    return [(images, frame.reindex(columns=list(CROPS)))]


def examples(*, crops: tuple[str, ...] = ("t0", "t1")):
    rows = []
    for row, (modality, crop, kind, value) in enumerate(
        [
            ("TEM", "t0", "grad_cam", 0.1),
            ("TEM", "t1", "grad_cam", 0.4),
            ("OM", "o", "grad_cam", 0.2),
            ("OM", "o", "cmsa", 0.5),
        ]
    ):
        key = {"patient": "P0", "model": "net", "fold": 0, "seed": 0, "draw": 0, "row": row}
        size = {"height": 2, "width": 2, "weight": 1.0 if modality == "TEM" else np.nan, "value": value}
        rows.append({**key, **size, "modality": modality, "crop": crop, "kind": kind})
    maps = np.stack([np.full((2, 2), value, np.float32) for value in (0.1, 0.4, 0.2, 0.5)])
    key = {"patient": "P0", "model": "net", "fold": 0, "seed": 0, "predicted": "LN"}
    contributions = pd.DataFrame(
        [
            {**key, "modality": name, "contribution": share, "p_all": 0.8, "p_empty": 0.3}
            for name, share in (("TEM", 0.6), ("OM", -0.1))
        ]
    )
    stores = {"TEM": store("TEM", list(crops)), "OM": store("OM", ["o"])}
    masks = {"t1": np.ones((8, 8), dtype=bool)}
    index = pd.DataFrame(rows)
    return explanation_examples(maps, index, contributions, stores, {"P0": "MN"}, 3, deposits=masks)


def test_a_panel_shows_the_tiles_that_say_most_first() -> None:
    (panel,) = examples()
    assert panel.title == "P0 · MN → LN"
    assert not panel.right
    assert [(tile.modality, tile.name) for tile in panel.tiles] == [("OM", "o"), ("TEM", "t1"), ("TEM", "t0")]
    assert panel.contributions == [("OM", -0.1), ("TEM", 0.6)]
    om, first, second = panel.tiles
    assert om.attention is not None
    assert float(om.attention.max()) == 1.0
    assert (om.mask, om.note) == (None, "")
    assert float(first.values.max()) == 1.0
    assert float(second.values.max()) == pytest.approx(0.25)
    assert first.mask is not None
    assert first.mask.all()
    assert second.mask is not None
    assert not second.mask.any()
    assert first.note == "weight 1.00"


def test_a_map_over_an_unknown_crop_is_an_error() -> None:
    with pytest.raises(GlomflowError, match="maps: crop 't1' is not in the TEM crop store; explain again"):
        examples(crops=("t0",))


def test_figures_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    checks = made_up_checks()
    for name, draw in {
        "panels.png": lambda: figures_explanations.explanation_panels(examples()),
        "none.png": lambda: figures_explanations.explanation_panels([]),
        "checks.svg": lambda: figures_explanations.explanation_checks(checks.summary, checks.curves),
        "bare.svg": lambda: figures_explanations.explanation_checks(
            made_up_checks(known=False).summary, checks.curves
        ),
        "contributions.svg": lambda: figures_explanations.explanation_contributions(checks.by_class, CLASSES),
    }.items():
        save_figure(draw(), tmp_path / name, dpi=40)
        first = (tmp_path / name).read_bytes()
        save_figure(draw(), tmp_path / name, dpi=40)
        assert (tmp_path / name).read_bytes() == first


def test_the_gallery_needs_an_explained_model(tmp_path: Path) -> None:
    made_up_checks().write(tmp_path)
    inputs = ReportInputs(explanations_dir=tmp_path)
    for name in ("explanation_checks", "explanation_contributions"):
        assert draw_figure(name, inputs, configuration()).axes
    with pytest.raises(GlomflowError, match=r"set diagnosis\.explanations\.enabled: true"):
        draw_figure("explanation_checks", inputs, configuration(enabled=False))
