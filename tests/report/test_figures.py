"""Figures: drawn for every shape of input, and the same bytes each time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from glomflow.errors import GlomflowError
from glomflow.report import figures_few_shot, figures_images, figures_metrics, style
from glomflow.report.figures_images import InstancePanel, StainPair, Tile

CLASSES = ["IgAN", "MN", "LN"]


def words(figure) -> str:
    """All text of a figure."""
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def confusion(counts) -> pd.DataFrame:
    rows = [
        {"model": "a", "true": CLASSES[i], "predicted": CLASSES[j], "count": float(counts[i][j])}
        for i in range(3)
        for j in range(3)
    ]
    return pd.DataFrame(rows)


def roc() -> pd.DataFrame:
    curve = pd.DataFrame({"fpr": [0.0, 0.1, 1.0], "tpr": [0.0, 0.8, 1.0]})
    return pd.concat(
        [curve.assign(**{"class": name, "repeat": 0, "seed": seed}) for name in CLASSES for seed in (0, 1)],
        ignore_index=True,
    )


def calibration() -> pd.DataFrame:
    low = np.arange(5) / 5
    return pd.DataFrame(
        {
            "low": low,
            "high": low + 0.2,
            "patients": [0.0, 0.0, 4.0, 6.0, 20.0],
            "confidence": [np.nan, np.nan, 0.55, 0.7, 0.92],
            "accuracy": [np.nan, np.nan, 0.5, 0.66, 0.9],
        }
    )


def pooled() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": ["all", "tem"],
            "metric": "accuracy",
            "value": [0.9, 0.8],
            "lower": [0.8, 0.7],
            "upper": [0.97, 0.9],
        }
    )


def few_shot() -> pd.DataFrame:
    rows = [
        {
            "method": method,
            "shots": shots,
            "metric": "balanced_accuracy",
            "mean": 0.6,
            "lower": 0.5,
            "upper": 0.7,
        }
        for method in ("linear_probe", "colour_texture")
        for shots in (1, 2, 4)
    ]
    return pd.DataFrame(rows)


def histories(models=("a", "b")) -> pd.DataFrame:
    rows = [
        {
            "model": m,
            "fold": f,
            "seed": 0,
            "epoch": e,
            "train_loss": 2 / e,
            "validation_loss": 2 / e + 0.1 * f,
        }
        for m in models
        for f in range(2)
        for e in range(1, 5)
    ]
    return pd.DataFrame(rows)


def cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    patients = pd.DataFrame(
        {"patient": ["P1", "P2", "P3"], "label": CLASSES, "site": ["north", None, "south"]}
    )
    inventory = pd.DataFrame(
        {"patient": ["P1", "P1", "P2"], "modality": ["OM", "TEM", "IM"], "status": ["ok", "ok", "blank"]}
    )
    return patients, inventory


def tiles(count: int) -> list[Tile]:
    rng = np.random.default_rng(count)
    return [
        Tile(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), f"P{index}\nnorth") for index in range(count)
    ]


def panel(masks) -> InstancePanel:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (32, 32), dtype=np.uint8) for _ in masks]
    weights = [1.0, 0.5, 0.0][: len(masks)]
    return InstancePanel("P1 · MN", images, weights, [weight > 0 for weight in weights], masks, "→ LN")


def missing(models: int) -> pd.DataFrame:
    rates = [0.0, 0.5, 0.9]
    rows = [(f"m{k}", rate, "accuracy", 0.8 - rate / 3, 0.2, 0.9) for k in range(models) for rate in rates]
    return pd.DataFrame(rows, columns=["model", "rate", "metric", "value", "lower", "upper"])


MAKERS = {
    "cohort_overview": lambda: figures_metrics.cohort_overview(*cohort(), CLASSES),
    "training_curves": lambda: figures_metrics.training_curves(histories(), ["a", "b"], {"a": "A", "b": "B"}),
    "confusion_matrix": lambda: figures_metrics.confusion_matrix(
        confusion([[9, 1, 0], [2, 8, 0], [0, 0, 0]]), CLASSES
    ),
    "roc_curves": lambda: figures_metrics.roc_curves(roc(), CLASSES, {"MN": 0.85}),
    "reliability": lambda: figures_metrics.reliability(calibration(), 0.06),
    "ablation": lambda: figures_metrics.ablation(
        pooled(), ["all", "tem"], {"all": "all three"}, ceilings={"tem": 0.85}, chance=1 / 3
    ),
    "few_shot_curves": lambda: figures_few_shot.few_shot_curves(
        few_shot(), {"linear_probe": "linear probe", "colour_texture": "colour"}, chance=0.2
    ),
    "contact_sheet": lambda: figures_images.contact_sheet({"IgAN": tiles(8), "MN": []}),
    "stain_panels": lambda: figures_images.stain_panels(
        [StainPair(tile.image, tile.image, "north") for tile in tiles(7)]
    ),
    "instance_panels": lambda: figures_images.instance_panels(
        [panel([np.eye(32, dtype=bool), np.zeros((32, 32), bool)]), panel([None, None, None])]
    ),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_figure_gives_the_same_bytes(name, suffix, tmp_path):
    paths = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for path in paths:
        style.save_figure(MAKERS[name](), path, dpi=60)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cohort_overview", ["IgAN", "north", "not given", "TEM"]),
        ("training_curves", ["A", "B", "validation", "epoch"]),
        ("confusion_matrix", ["9\n90 %", "2\n20 %", "0\n0 %", "diagnosis"]),
        ("roc_curves", ["MN  AUC 0.85", "sensitivity"]),
        ("reliability", ["ECE 0.06", "share correct"]),
        ("ablation", ["all three", "tem", "ceiling", "guessing"]),
        ("few_shot_curves", ["linear probe", "guessing", "balanced accuracy"]),
        ("contact_sheet", ["IgAN", "P7\nnorth", "none"]),
        ("stain_panels", ["before", "after", "north"]),
        (
            "instance_panels",
            ["P1 · MN   → LN", "weight 1.00 · deposit", "weight 0.50 · none", "filtered out"],
        ),
    ],
)
def test_figures_say_what_they_show(name, expected):
    said = words(MAKERS[name]())
    for text in expected:
        assert text in said


def test_small_groups_stand_beside_each_other():
    groups = {"a": tiles(3), "b": tiles(2), "c": tiles(4), "d": tiles(1)}
    below, beside = (figures_images.contact_sheet(groups, beside=flag) for flag in (False, True))
    assert words(below) == words(beside)
    assert beside.get_size_inches()[1] == pytest.approx(0.75 * below.get_size_inches()[1], rel=1e-6)


def test_confusion_counts_of_several_seeds_keep_a_decimal():
    said = words(figures_metrics.confusion_matrix(confusion([[8.5, 1.5, 0], [0, 9, 0], [0, 0, 9]]), CLASSES))
    assert "8.5\n85 %" in said
    assert "9\n100 %" in said


def test_long_class_names_are_slanted_and_lose_their_underscores():
    rows = confusion(np.eye(3)).replace({"IgAN": "segmental_sclerosis"})
    figure = figures_metrics.confusion_matrix(rows, ["segmental_sclerosis", "MN", "LN"], truth="lesion")
    assert "segmental sclerosis" in words(figure)
    assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {35.0}


def test_no_truth_means_no_second_row():
    figure = figures_images.instance_panels([panel([None, None])])
    assert "truth" not in words(figure)


def test_missing_modality_in_validation_loss_is_not_drawn():
    rows = histories(("a",)).assign(validation_loss=np.nan)
    figure = figures_metrics.training_curves(rows, ["a"], {})
    assert len(figure.axes[0].lines) == 3


def test_reliability_of_no_patients_is_an_empty_diagram():
    empty = calibration().assign(patients=0.0)
    assert "share correct" in words(figures_metrics.reliability(empty))


def test_saving_another_format_is_refused(tmp_path):
    with pytest.raises(GlomflowError, match=r"cannot be saved as '\.pdf'; name it \.svg or \.png"):
        style.save_figure(MAKERS["ablation"](), tmp_path / "figure.pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_leaves_the_global_style_alone():
    import matplotlib as mpl

    before = mpl.rcParams["font.size"]
    MAKERS["ablation"]()
    assert mpl.rcParams["font.size"] == before


def test_no_interval_is_cut_off_below_guessing() -> None:
    rows = pd.DataFrame([("a", "accuracy", 0.26, 0.11, 0.37)], columns=list(pooled().columns[:5]))
    (axes,) = figures_metrics.ablation(rows, ["a"], {}, chance=1 / 3).axes
    assert axes.get_xlim()[0] == pytest.approx(0.08)


@pytest.mark.parametrize(("models", "panels"), [(6, 1), (7, 7), (33, 33)])
def test_many_models_have_a_panel_each(models: int, panels: int) -> None:
    names = {f"m{k}": f"m{k} (OM + TEM)" for k in range(models)}
    figure = figures_metrics.missing_curve(missing(models), names, chance=1 / 3)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == panels
    assert len(figure.legends) == (1 if panels == 1 else 0)
