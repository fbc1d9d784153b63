"""The glomerulus track in the report: curves, reliability, recalls, selection, patches and texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from glomflow.config import Adapted
from glomflow.config_vlm import Vlm, VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.files import write_json
from glomflow.imaging.crop_store import write_store
from glomflow.report import examples_similarity, figures_few_shot, figures_similarity, style
from glomflow.report.figures_few_shot import apart
from glomflow.report.gallery import draw_figure
from glomflow.report.material import Material
from glomflow.report.numbers import NBSP
from glomflow.report.sections_glomeruli import few_shot_section
from glomflow.report.sections_methods import methods_section
from glomflow.report.tables_few_shot import (
    few_shot_calibration_table,
    few_shot_recall_table,
    few_shot_space_table,
    few_shot_training_table,
)
from glomflow.report.words_few_shot import similarity_sentences
from glomflow.tables import CROPS, GEOMETRY, SIMILARITY, Column, write_table

CLASSES = ["normal", "global_sclerosis"]


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def plain(rows) -> list[tuple[str, ...]]:
    return [tuple(cell.replace(NBSP, " ") for cell in row) for row in rows]


def scores(methods: dict[str, list[int]], metrics: dict[str, float]) -> pd.DataFrame:
    rows = [
        (method, shots, metric, value, value - 0.1, value + 0.1)
        for method, numbers in methods.items()
        for shots in numbers
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(rows, columns=["method", "shots", "metric", "mean", "lower", "upper"])


def calibration(methods: dict[str, int], scaled: tuple[str, ...] = ()) -> pd.DataFrame:
    rows = [
        (method, shots, kind, low, low + 0.5, crops, value, value / 2, 0.1, 0.9)
        for method, shots in methods.items()
        for kind in ("stated", *(["scaled"] if method in scaled else []))
        for low, crops, value in ((0.0, 0.0, np.nan), (0.5, 8.0, 0.8))
    ]
    columns = ["method", "shots", "probabilities", "low", "high", "crops", "confidence", "accuracy"]
    return pd.DataFrame(rows, columns=[*columns, "lower", "upper"])


def geometry(**values: object) -> pd.DataFrame:
    frame = pd.DataFrame({"method": "tip", "shots": [1, 1, 1], "run": [0, 1, 2], "epochs": [2, 5, 9]})
    frame["validation_auc"] = [0.5, 0.7, 0.9]
    frame["temperature"] = [0.5, 1.5, 1.0]
    frame[["scaled_ece", "umap_text_distance"]] = np.nan
    return frame.assign(**values)[list(GEOMETRY)]


@pytest.mark.parametrize(
    ("wanted", "sizes", "expected"),
    [
        ([0.2, 0.8], [0.1, 0.1], [0.2, 0.8]),
        ([0.2, 0.2], [0.1, 0.1], [0.15, 0.25]),
        ([0.2, 0.22, 0.9], [0.1, 0.2, 0.1], [0.11, 0.26, 0.9]),
        ([0.2, 0.2, 0.31], [0.1, 0.1, 0.1], [0.13667, 0.23667, 0.33667]),
        ([], [], []),
    ],
)
def test_labels_keep_apart_and_stay_near(wanted, sizes, expected) -> None:
    assert apart(wanted, sizes) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("methods", [3, 8])
def test_level_lines_are_named_beside_the_panels(methods: int) -> None:
    """No name lies over a panel, where curves run, nor over another name."""
    names = {f"m{k}": f"m{k} (clip)" for k in range(methods)} | {"z": "zero-shot (clip)"}
    shown = {name: [0] if name == "z" else [1, 2, 4] for name in names}
    table = scores(shown, {"balanced_accuracy": 0.21})
    figure = figures_few_shot.few_shot_curves(table, names, chance=0.2)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    panels = [axes for axes in figure.axes if axes.get_visible()]
    found = [
        Text.get_window_extent(text, renderer)  # without the line that leads to it
        for axes in panels
        for text in axes.texts
        if text.get_text() in ("zero-shot\n(clip)", "guessing")
    ]
    assert len(found) == (2 if methods == 3 else 4)
    assert len(panels) == (1 if methods == 3 else 8)
    for place, box in enumerate(found):
        assert not any(box.overlaps(axes.get_window_extent(renderer)) for axes in panels)
        assert not any(box.overlaps(other) for other in found[place + 1 :])
        assert box.x1 <= figure.bbox.x1


def test_reliability_shows_the_largest_number_of_shots_of_each_method() -> None:
    table = pd.concat([calibration({"a": 1, "b": 4}, ("b",)), calibration({"a": 8})])
    errors = scores({"a": [1, 8], "b": [4]}, {"ece": 0.25})
    scaled = scores({"b": [4]}, {"scaled_ece": 0.125})
    names = {"a": "probe", "b": "CLAP (clip)", "c": "not run"}
    figure = figures_few_shot.few_shot_reliability(table, pd.concat([errors, scaled]), names)
    said = [text.replace(NBSP, " ") for text in words(figure)]
    assert "4 shots · ECE 0.25 (0.15–0.35)\nscaled 0.12 (0.02–0.23)" in said
    assert "8 shots · ECE 0.25 (0.15–0.35)\n" in said
    assert not any(text.startswith("1 shot") for text in said)
    assert {"probe", "CLAP\n(clip)", "as stated", "after temperature scaling"} <= set(said)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [len(axes.collections) for axes in shown] == [4, 4]
    points = shown[1].collections[1].get_offsets()
    assert points.tolist() == [[0.8, 0.4]]


def test_recalls_name_each_class_and_its_glomeruli() -> None:
    rows = [
        (method, shots, name, 0.5, 0.25, 0.75, 12.5 if name == "normal" else 4.0, 3)
        for method, shots in (("a", 1), ("a", 2), ("b", 0))
        for name in CLASSES
    ]
    columns = ["method", "shots", "class", "mean", "lower", "upper", "crops", "slides"]
    table = few_shot_recall_table(pd.DataFrame(rows, columns=columns), {"a": "probe", "b": "zero-shot"})
    assert table.headers == ("method", "shots", "normal", "global sclerosis")
    cell = "0.50 (0.25–0.75)"
    assert plain(table.rows) == [
        ("probe", "1", cell, cell),
        ("", "2", cell, cell),
        ("zero-shot", "0", cell, cell),
    ]
    assert "normal 12.5 (of 3 slides), global sclerosis 4 (of 3 slides)" in table.note


def test_calibration_has_a_scaled_column_only_where_a_temperature_is() -> None:
    table = scores({"a": [1], "b": [1]}, {"ece": 0.3, "brier": 0.5, "decision_margin": 0.2})
    bare = few_shot_calibration_table(table, {"a": "probe"})
    assert bare.headers == ("method", "shots", "ECE", "Brier", "margin")
    assert "Scaled" not in bare.note
    more = pd.concat([table, scores({"b": [1]}, {"scaled_ece": 0.1})])
    both = few_shot_calibration_table(more, {"a": "probe"})
    assert both.headers[3] == "ECE, scaled"
    assert [row[3] for row in plain(both.rows)] == ["–", "0.10 (0.00–0.20)"]
    assert "Scaled: after dividing logits by the temperature" in both.note


def test_what_was_selected_is_listed() -> None:
    fixed = geometry(method="clap", epochs=300, validation_auc=np.nan, temperature=np.nan)
    none = geometry(method="zero", epochs=0, validation_auc=np.nan, temperature=np.nan)
    table = few_shot_training_table(
        pd.concat([geometry(), fixed, none]), {"zero": "zero-shot", "clap": "CLAP", "tip": "Tip-Adapter-F"}
    )
    assert plain(table.rows) == [
        ("CLAP", "1", "300", "–", "–"),
        ("Tip-Adapter-F", "1", "5 (2–9)", "0.70 ± 0.16", "1.00 (0.50–1.50)"),
    ]
    assert few_shot_training_table(none, {"zero": "zero-shot"}) is None


def test_the_common_space_has_umap_where_it_was_laid_out() -> None:
    table = scores({"tip": [1]}, {"alignment": 0.3, "similarity_gap": 0.1, "silhouette": 0.2})
    assert few_shot_space_table(table, geometry(), {}).headers[-1] == "silhouette"
    laid = few_shot_space_table(table, geometry(umap_text_distance=[1.0, 2.0, 4.5]), {})
    assert (laid.headers[-1], laid.rows[0][-1]) == ("distance by UMAP", "2.50")
    assert few_shot_space_table(table[table["metric"] == "alignment"], None, {}) is None


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two glomeruli, one right and one wrong, on crops of 20 x 20 px, of which the model sees the middle."""
    folder = tmp_path_factory.mktemp("similarity")
    crops = np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), dtype=np.uint8)
    index = pd.DataFrame({name: [None] * 3 for name in CROPS})
    index = index.assign(row=range(3), crop=["c0", "c1", "c2"], image="i", patient="P-1", slide="S-1")
    index = index.assign(modality="OM", selected=True, flag="", lesion="normal")
    write_store(folder / "om.npy", folder / "om.parquet", crops, index)
    maps = np.zeros((2, 2, 2, 2), np.float32)
    maps[0, 0, 0, 1], maps[1, 1] = 0.5, -0.25
    rows = pd.DataFrame({"row": [0, 1], "crop": ["c2", "c0"], "slide": "S-1", "label": "normal"})
    rows = rows.assign(predicted=CLASSES, x=5.0, y=5.0, width=10.0, height=10.0)
    rows = rows.assign(c_normal=[0.4, -0.1], c_global_sclerosis=[0.2, 0.3])
    extra = {f"c_{name}": Column("float64", "cosine") for name in CLASSES}
    np.save(folder / "maps.npy", maps)
    write_table(folder / "maps.parquet", rows, SIMILARITY, extra)
    write_json(folder / "said.json", {"backbone": "clip", "remark": "", "glomeruli": 2, "grid": [2, 2]})
    return folder, maps, rows, crops


def test_maps_lie_where_the_model_sees_the_crop(compared) -> None:
    folder, maps, _, crops = compared
    array, index = examples_similarity.read_similarity(folder / "maps.npy", folder / "maps.parquet")
    assert np.array_equal(array, maps)
    right, wrong = examples_similarity.panels(maps, index, [(crops, pd.read_parquet(folder / "om.parquet"))])
    assert np.array_equal(right.image, crops[2])
    assert (right.right, wrong.right, wrong.title) == (True, False, "normal → global sclerosis")
    assert right.contrast.tolist() == [[0.0, 0.5], [0.0, 0.0]]
    assert wrong.contrast.tolist() == [[0.25, 0.25], [0.25, 0.25]]
    figure = figures_similarity.similarity_panels([right, wrong])
    said = words(figure)
    assert {"right", "wrong"} <= {text.strip() for text in said}
    assert "0.40 · true · predicted" in said
    assert "−0.10 · true" in said
    assert "c2 · slide S-1 · colours from 0.00 to 0.50" in said
    assert "true less others" in said
    crop, first, *_ = figure.axes[0].images
    grey, laid = figure.axes[0].images[1:3]
    assert crop.get_array().shape[-1] == 3
    assert grey.get_array().shape == (20, 20)
    left, end, _, top = grey.get_extent()
    edge = end - left
    assert laid.get_extent() == pytest.approx(
        [left + edge / 4, left + 3 * edge / 4, top + 3 * edge / 4, top + edge / 4]
    )
    assert first is grey
    assert laid.get_array().tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_of_many_classes_the_true_one_and_the_nearest_are_shown(compared) -> None:
    folder, _, _, crops = compared
    names = [f"k{number}" for number in range(9)]
    row = {"row": 0, "crop": "c1", "slide": "S-1", "label": "k0", "predicted": "k8"}
    row |= dict.fromkeys(("x", "y"), 0.0) | dict.fromkeys(("width", "height"), 20.0)
    index = pd.DataFrame([row | {f"c_{name}": place / 10 for place, name in enumerate(names)}])
    store = [(crops, pd.read_parquet(folder / "om.parquet"))]
    [panel] = examples_similarity.panels(np.zeros((1, 9, 1, 1), np.float32), index, store)
    assert list(panel.maps) == ["k0", "k4", "k5", "k6", "k7", "k8"]
    with pytest.raises(GlomflowError, match=r"crop 'c9' is not in the crop store; delete the maps and run"):
        examples_similarity.panels(np.zeros((1, 9, 1, 1), np.float32), index.assign(crop="c9"), store)


def test_maps_that_do_not_fit_their_index_are_refused(compared, tmp_path) -> None:
    folder, maps, *_ = compared
    np.save(tmp_path / "maps.npy", maps[:1])
    with pytest.raises(GlomflowError, match=r"maps\.npy: of shape \(1, 2, 2, 2\), but .* has 2 rows and 2"):
        examples_similarity.read_similarity(tmp_path / "maps.npy", folder / "maps.parquet")


@pytest.fixture
def shown(compared, made_up_run, tmp_path):
    """A run with a backbone whose patches were compared, and one without a text tower."""
    folder, *_ = compared
    backbones = {"clip": VlmBackbone(), "mute": VlmBackbone().model_copy(update={"library": "timm"})}
    adapted = {"zero": Adapted(method="zero_shot", backbone="clip")}
    adapted["probe"] = Adapted(method="linear_probe", backbone="mute")
    few_shot = made_up_run.config.few_shot.model_copy(update={"adapted": adapted})
    vlm = Vlm().model_copy(update={"backbones": backbones})
    config = made_up_run.config.model_copy(update={"few_shot": few_shot, "vlm": vlm})
    write_table(tmp_path / "geometry.parquet", geometry(method="probe"), GEOMETRY)
    inputs = dataclasses.replace(
        made_up_run.inputs,
        om_store=[(folder / "om.npy", folder / "om.parquet")],
        few_shot_geometry=[tmp_path / "geometry.parquet"],
        similarity=[folder / "said.json"],
        similarity_maps=[(folder / "maps.npy", folder / "maps.parquet")],
    )
    return inputs, config


def test_the_section_shows_maps_and_says_who_has_none(shown, tmp_path) -> None:
    inputs, config = shown
    name = "similarity_maps-clip"
    style.save_figure(draw_figure(name, inputs, config), tmp_path / f"{name}.png", dpi=40)
    inputs = dataclasses.replace(inputs, figures={name: tmp_path / f"{name}.png"})
    section = few_shot_section(Material(inputs, config))
    kinds = [block.text for block in section.blocks if block.kind == "heading"]
    assert kinds == ["Classes", "Calibration", "Images and texts"]
    [picture] = [block for block in section.blocks if block.kind == "picture"]
    assert picture.caption.startswith("Cosine of each patch")
    assert picture.caption.endswith("Backbone: clip.")
    told = " ".join(block.text for block in section.blocks if block.kind == "prose").replace(NBSP, " ")
    assert "clip is frozen" in told
    assert "it cuts an image into 2 × 2 patches. 2 test glomeruli of the first run are shown." in told
    assert "mute has no text tower, so patches have no text to be compared with." in told
    captions = [block.caption for block in section.blocks if block.kind == "table"]
    assert "What was selected." in captions
    items = dict(methods_section(Material(inputs, config)).blocks[0].items)
    assert "only its value path is left" in items["Patches and texts"]


def test_a_backbone_whose_patches_could_not_be_compared_says_why(shown) -> None:
    _, config = shown
    said = {"clip": {"remark": "its pooling is odd", "glomeruli": 0, "grid": [1, 1]}}
    assert similarity_sentences(config, said)[0] == "There are no maps of clip: its pooling is odd."


def test_maps_of_another_backbone_are_not_drawn(shown) -> None:
    with pytest.raises(GlomflowError, match="needs the maps of mute, which are not among the inputs"):
        draw_figure("similarity_maps-mute", *shown)


def test_reliability_of_the_made_up_run_is_drawn(made_up_run) -> None:
    figure = draw_figure("few_shot_reliability", made_up_run.inputs, made_up_run.config)
    assert {"linear probe", "colour and texture"} <= set(words(figure))


def test_sections_without_adapted_models_say_nothing_of_texts(made_up_run) -> None:
    section = few_shot_section(Material(made_up_run.inputs, made_up_run.config))
    assert [block.text for block in section.blocks if block.kind == "heading"] == ["Classes", "Calibration"]
