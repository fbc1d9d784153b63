"""Which images are shown, and that every figure is drawn from files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import Config
from glomflow.errors import GlomflowError
from glomflow.evaluation.instances import TILES
from glomflow.imaging.crop_store import write_store
from glomflow.report import examples
from glomflow.report.gallery import MAKERS, draw_figure
from glomflow.report.page import ReportInputs
from glomflow.report.style import save_figure
from glomflow.tables import CROPS, INSTANCES, INVENTORY, PREDICTIONS, probability_columns, write_table

CLASSES = ["IgAN", "MN", "LN"]


def store(rows: pd.DataFrame, channels: int, size: int = 16) -> examples.Store:
    """A store whose crops are filled with their row number."""
    crops = np.zeros((len(rows), size, size, channels), np.uint8)
    crops[:] = np.arange(len(rows), dtype=np.uint8)[:, None, None, None]
    return crops, rows.reset_index(drop=True)


def crop_rows(patients: list[str], modality: str = "OM") -> pd.DataFrame:
    count = len(patients)
    frame = pd.DataFrame({"row": range(count), "crop": [f"c{n}" for n in range(count)], "patient": patients})
    frame["image"] = [f"{patient}-{modality}" for patient in patients]
    frame["slide"] = [f"slide-{patient}" for patient in patients]
    frame["modality"] = modality
    frame[["x", "y", "width", "height", "um_per_px"]] = [4.0, 8.0, 16.0, 16.0, 1.0]
    frame["lesion"] = ["normal", "global_sclerosis"] * (count // 2) + ["normal"] * (count % 2)
    frame["information"] = 1.0
    frame["selected"] = True
    frame["flag"] = ""
    return frame[list(CROPS)]


def patients_of(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"patient": names, "label": [CLASSES[n % 3] for n in range(len(names))], "site": "north"}
    )


def test_spread_takes_each_value_once_before_any_twice():
    frame = pd.DataFrame({"patient": ["a"] * 5 + ["b"] * 2 + ["c"]})
    drawn = examples.spread(frame, "patient", 5, np.random.default_rng(0))["patient"].tolist()
    assert sorted(drawn[:3]) == ["a", "b", "c"]
    assert sorted(drawn[3:]) == ["a", "b"]


def test_class_examples_are_of_the_class_selected_and_repeatable():
    rows = crop_rows(["P0", "P0", "P1", "P2", "P3"])
    rows.loc[1, "selected"] = False
    patients = patients_of(["P0", "P1", "P2", "P3"])
    one, two = (examples.class_examples([store(rows, 3)], patients, CLASSES, 2, seed=5) for _ in range(2))
    assert {name: sorted(tile.caption for tile in tiles) for name, tiles in one.items()} == {
        "IgAN": ["P0\nnorth", "P3\nnorth"],
        "MN": ["P1\nnorth"],
        "LN": ["P2\nnorth"],
    }
    assert sorted(int(tile.image[0, 0, 0]) for tile in one["IgAN"]) == [0, 4]
    assert [tile.caption for tile in one["IgAN"]] == [tile.caption for tile in two["IgAN"]]


def test_examples_of_two_shards_come_from_their_own_store():
    first, second = crop_rows(["P0", "P0"]), crop_rows(["P3"])
    second["crop"] = ["d0"]
    stores = [store(first, 3), (np.full((1, 16, 16, 3), 99, np.uint8), second)]
    groups = examples.class_examples(stores, patients_of(["P0", "P1", "P2", "P3"]), ["IgAN"], 2, seed=1)
    shown = {tile.caption.split("\n")[0]: int(tile.image[0, 0, 0]) for tile in groups["IgAN"]}
    assert shown["P3"] == 99
    assert shown["P0"] in {0, 1}


def test_lesion_examples_name_the_slide():
    rows = crop_rows(["P0", "P1", "P2", "a-patient-with-a-very-long-name"])
    groups = examples.lesion_examples([store(rows, 3)], ["global_sclerosis", "crescentic"], 3, seed=1)
    assert sorted(tile.caption for tile in groups["global sclerosis"]) == ["slide-P1", "slide-a-pat…ong-name"]
    assert groups["crescentic"] == []


def test_no_store_means_no_examples():
    patients = patients_of(["P0"])
    assert examples.class_examples([], patients, CLASSES, 3, seed=1) == {"IgAN": [], "MN": [], "LN": []}
    assert examples.lesion_examples([], ["normal"], 3, seed=1) == {"normal": []}


def inventory_of(rows: pd.DataFrame, path: str) -> pd.DataFrame:
    frame = pd.DataFrame({column: [""] * len(rows) for column in INVENTORY})
    for column, spec in INVENTORY.items():
        if spec.dtype != "string":
            frame[column] = 1 if spec.dtype == "int64" else 0.5
    for column in ("image", "patient", "modality", "slide"):
        frame[column] = rows[column].to_numpy()
    frame["path"] = path
    frame["status"] = "ok"
    frame["thumbnail"] = "thumbnails/t.png"
    return frame.drop_duplicates("image", ignore_index=True)


def test_stain_examples_read_the_same_box_again(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[8:24, 4:20] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rows = crop_rows(["P0", "P1"])
    pairs = examples.stain_examples(
        [store(rows, 3)], inventory_of(rows, "a.png"), {"P0": "north"}, tmp_path, 5, seed=1
    )
    assert [pair.title for pair in pairs] == ["north", "slide-P1"]
    assert (pairs[0].before == (200, 100, 50)).all()
    assert (pairs[0].after == 0).all()


def bag(patient: str, model: str = "cmus_net", seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient": patient,
            "model": model,
            "fold": 0,
            "seed": seed,
            "modality": "TEM",
            "crop": ["c0", "c1", "c2"],
            "rank": [0, 1, 2],
            "weight": [0.2, 0.0, 1.0],
            "kept": [True, False, True],
        }
    )


def truth_of(instances: pd.DataFrame) -> pd.DataFrame:
    tiles = instances.assign(image="P1-TEM", path="t.tif", x=4.0, y=8.0, width=16.0, height=16.0)
    tiles["deposit"] = tiles["crop"] == "c2"
    tiles["deposit_share"] = 0.1
    tiles["mask"] = [None, None, "mask.png"]
    return tiles


def test_instances_are_by_weight_with_their_deposits(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[8:12, 4:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    rows = crop_rows(["P1"] * 3, "TEM")
    instances = pd.concat([bag("P1"), bag("P1", seed=1), bag("P1", model="other")], ignore_index=True)
    predictions = pd.DataFrame(
        {"patient": ["P1"], "model": ["cmus_net"], "fold": [0], "seed": [0], "predicted": ["LN"]}
    )
    panels = examples.instance_examples(
        [store(rows, 1)],
        instances,
        patients_of(["P0", "P1"]),
        "cmus_net",
        CLASSES,
        seed=1,
        truth=truth_of(bag("P1")),
        folder=tmp_path,
        predictions=predictions,
    )
    (panel,) = panels
    assert panel.title == "P1 · MN"
    assert panel.outlook == "→ LN"
    assert panel.weights == [1.0, 0.2, 0.0]
    assert panel.kept == [True, True, False]
    assert [int(tile[0, 0]) for tile in panel.tiles] == [2, 0, 1]
    assert [int(part.sum()) for part in panel.masks] == [16, 0, 0]
    assert panel.masks[0][:4, :4].all()


def test_masks_of_tiles_beyond_the_image_are_empty_there():
    row = {"x": -8.0, "y": 0.0, "width": 16.0, "height": 16.0}
    found = examples.tile_deposits(row, np.ones((16, 16), dtype=bool), (8, 8))
    assert not found[:, :4].any()
    assert found[:, 4:].all()


def test_instances_without_truth_have_no_masks():
    rows = crop_rows(["P1"] * 3, "TEM")
    (panel,) = examples.instance_examples(
        [store(rows, 1)], bag("P1"), patients_of(["P0", "P1"]), "cmus_net", CLASSES, seed=1
    )
    assert panel.masks == [None, None, None]
    assert panel.outlook == ""


def test_an_instance_without_a_crop_is_named():
    rows = crop_rows(["P1"] * 2, "TEM")
    with pytest.raises(GlomflowError, match=r"tile 'c2' is not in the TEM crop store; predict again"):
        examples.instance_examples(
            [store(rows, 1)], bag("P1"), patients_of(["P1"]), "cmus_net", CLASSES, seed=1
        )


@pytest.fixture(scope="module")
def drawable(made_up_run, tmp_path_factory) -> ReportInputs:
    """Inputs with the pixels that the figures read."""
    folder = tmp_path_factory.mktemp("drawable")
    rng = np.random.default_rng(0)
    stores = {}
    for name, channels in (("om", 3), ("im", 3), ("tem", 1)):
        index = pd.read_parquet(getattr(made_up_run.inputs, f"{name}_store")[0][1])
        paths = (folder / f"{name}.npy", folder / f"{name}.parquet")
        write_store(*paths, rng.integers(0, 255, (len(index), 24, 24, channels), dtype=np.uint8), index)
        stores[f"{name}_store"] = [paths]
    for path in made_up_run.inventory["path"]:
        (folder / path).parent.mkdir(exist_ok=True)
        if path.startswith("OM/"):
            Image.fromarray(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)).save(folder / path)
    for thumbnail in made_up_run.inventory["thumbnail"]:
        (folder / thumbnail).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 12), 9, np.uint8)).save(folder / thumbnail)
    tem = pd.read_parquet(stores["tem_store"][0][1])
    instances = tem[["patient", "crop"]].assign(
        model="cmus_net", fold=0, seed=0, modality="TEM", weight=0.5, kept=True
    )
    instances["rank"] = instances.groupby("patient").cumcount()
    write_table(folder / "instances.parquet", instances[list(INSTANCES)], INSTANCES)
    places = tem[["image", "x", "y", "width", "height"]].reset_index(drop=True)
    tiles = pd.concat([instances.reset_index(drop=True), places], axis=1).assign(path="t.tif", mask=None)
    tiles = tiles.assign(deposit=False, deposit_share=0.0)
    write_table(folder / "tiles.parquet", tiles[list(TILES)], TILES)
    write_table(
        folder / "predictions.parquet", made_up_run.predictions, PREDICTIONS, probability_columns(CLASSES)
    )
    return dataclasses.replace(
        made_up_run.inputs,
        **stores,
        predictions=[folder / "predictions.parquet"],
        instances=[folder / "instances.parquet"],
        deposit_tiles=folder / "tiles.parquet",
        cohort_folder=folder,
        thumbnails=folder,
    )


def test_no_weighted_tiles_are_said(drawable, made_up_run, tmp_path):
    write_table(tmp_path / "none.parquet", pd.DataFrame(), INSTANCES)
    inputs = dataclasses.replace(drawable, instances=[tmp_path / "none.parquet"])
    with pytest.raises(GlomflowError, match=r"no model weights TEM tiles; leave the figure .* out"):
        draw_figure("instance_panels", inputs, made_up_run.config)


# The finder's and the explanations' figures are drawn from files in tests of their own.
ELSEWHERE = ("finder_", "explanation_")


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith(ELSEWHERE)])
def test_every_figure_is_drawn_from_files(name, drawable, made_up_run, tmp_path):
    save_figure(draw_figure(name, drawable, made_up_run.config), tmp_path / f"{name}.png", dpi=40)
    with Image.open(tmp_path / f"{name}.png") as image:
        assert min(image.size) > 50


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cohort_overview", "needs the table of patients, which is not among the inputs"),
        ("worst_images", "needs the inventory, which is not among the inputs"),
        ("training_curves", "needs histories of training, which is not among the inputs"),
        ("ablation", "needs the summary of the evaluation, which is not among the inputs"),
        ("few_shot_curves", "needs the few-shot summary, which is not among the inputs"),
        ("instance_panels", "needs the tables of instances, which is not among the inputs"),
        ("roc", "there is no figure 'roc'; known are ablation, "),
    ],
)
def test_a_figure_says_what_it_lacks(name, message):
    with pytest.raises(GlomflowError, match=message):
        draw_figure(name, ReportInputs(), Config())
