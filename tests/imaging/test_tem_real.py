"""TEM tiles of real glomerular micrographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.config import TemTiles
from glomflow.imaging.pixels import as_gray
from glomflow.imaging.readers import open_image
from glomflow.imaging.tem import tile_tem_shard
from glomflow.imaging.tem_overlay import find_overlay, overlay_boxes
from glomflow.imaging.tem_scale_bar import check_scale_bar, find_scale_bar
from glomflow.imaging.tem_score import score_maps

PLAIN = ("fpw_bad.png", "fpw_good.png", "fpw_good2.png", "fpw_okay.png")
GRAPHICS = {
    "gbm_scalebar.jpg": {
        "bar": (44, 2388, 658, 2408),
        "2 µm": (50, 2310, 248, 2388),
        "name": (1008, 2340, 1580, 2404),
        "magnification": (2432, 2334, 3534, 2398),
    },
    "olympus_sis.tif": {"bar": (1035, 1003, 1365, 1009), "5 µm": (1184, 1011, 1214, 1025)},
}
NM_PER_PX = {
    "gbm_scalebar.jpg": 2000 / 615,
    "olympus_sis.tif": 15.15,
    **dict.fromkeys(PLAIN, 10.0),
}


def gray(path: Path) -> np.ndarray:
    with open_image(path) as reader:
        return as_gray(reader.thumbnail(4096))


def tables(names: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": list(names),
            "patient": "p1",
            "modality": "TEM",
            "path": list(names),
            "slide": list(names),
            "status": "ok",
            "um_per_px": [NM_PER_PX[name] / 1000 for name in names],
            "lesion": None,
        }
    )


@pytest.mark.parametrize("name", PLAIN)
def test_tissue_is_not_taken_for_overlay(real_data: Path, name: str) -> None:
    assert find_overlay(gray(real_data / "tem" / name)).mean() < 0.01


@pytest.mark.parametrize("name", GRAPHICS)
def test_burnt_in_graphics_are_covered(real_data: Path, name: str) -> None:
    mask = find_overlay(gray(real_data / "tem" / name))
    for left, top, right, bottom in GRAPHICS[name].values():
        assert mask[top:bottom, left:right].all()
    assert mask.mean() < 0.05
    assert not mask[: round(0.9 * len(mask))].any()


@pytest.mark.parametrize(
    ("name", "length", "nm"), [("gbm_scalebar.jpg", 614.0, 2000.0), ("olympus_sis.tif", 330.0, 5000.0)]
)
def test_the_scale_bar_is_measured(real_data: Path, name: str, length: float, nm: float) -> None:
    picture = gray(real_data / "tem" / name)
    bar = find_scale_bar(picture, overlay_boxes(picture))
    assert bar is not None
    assert bar.length == pytest.approx(length, abs=0.5)
    assert check_scale_bar(bar.length, NM_PER_PX[name], None, name, "") is None
    assert check_scale_bar(bar.length, NM_PER_PX[name], nm, name, "") is None
    assert check_scale_bar(bar.length, 2.3 * NM_PER_PX[name], nm, name, "") is not None


@pytest.mark.parametrize("name", PLAIN)
def test_no_bar_is_seen_where_there_is_none(real_data: Path, name: str) -> None:
    picture = gray(real_data / "tem" / name)
    assert find_scale_bar(picture, overlay_boxes(picture)) is None


def test_a_red_blood_cell_is_no_grid_bar_and_precipitate_is_dirt(real_data: Path) -> None:
    maps = {name: score_maps(gray(real_data / "tem" / name), 10.0) for name in PLAIN}
    assert not any(of.grid_bar.any() for of in maps.values())
    assert maps["fpw_good.png"].dirt.mean() < 0.002
    precipitate = maps["fpw_okay.png"].dirt
    assert precipitate[14:24, 160:172].any()
    assert precipitate.mean() < 0.005
    hole = maps["fpw_good2.png"].saturated
    assert 0.005 < hole.mean() < 0.05


@pytest.mark.parametrize("name", [*PLAIN, *GRAPHICS])
def test_tiles_lie_off_the_graphics_and_show_tissue(real_data: Path, name: str) -> None:
    frame = tables((name,))
    settings = TemTiles(max_per_image=1000, max_instances=1000)
    tiles, index = tile_tem_shard(frame, frame, real_data / "tem", settings)
    assert len(tiles) >= 8
    assert set(index["flag"]) == {""}
    for left, top, right, bottom in GRAPHICS.get(name, {}).values():
        clear = (
            (index["x"] >= right)
            | (index["x"] + index["width"] <= left)
            | (index["y"] >= bottom)
            | (index["y"] + index["height"] <= top)
        )
        assert clear.all()
    spread = tiles.reshape(len(tiles), -1).std(axis=1)
    assert spread[0] > spread[-1]
    assert index["information"].iloc[0] > 1.4 * index["information"].iloc[-1]


def test_an_empty_lumen_comes_last(real_data: Path) -> None:
    frame = tables(("olympus_sis.tif",))
    settings = TemTiles(max_per_image=1000, max_instances=1000)
    _, index = tile_tem_shard(frame, frame, real_data / "tem", settings)
    centre_x, centre_y = index["x"] + index["width"] / 2, index["y"] + index["height"] / 2
    lumen = (centre_x - 740).abs().lt(120) & (centre_y - 350).abs().lt(150)
    assert lumen.any()
    assert index.loc[lumen, "information"].max() < 0.1
    assert index["information"].max() > 0.4


@pytest.mark.parametrize("instance", ["tile", "image"])
def test_a_patient_of_real_images(real_data: Path, instance: str) -> None:
    names = (*PLAIN, *GRAPHICS)
    frame = tables(names)
    settings = TemTiles(instance=instance, max_per_image=2, max_instances=10)
    tiles, index = tile_tem_shard(frame, frame, real_data / "tem", settings)
    assert tiles.shape == ((10 if instance == "tile" else 6), 224, 224, 1)
    assert index["information"].is_monotonic_decreasing
    assert index["crop"].is_unique
