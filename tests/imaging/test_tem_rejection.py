"""Tiles of resin, grid bars, holes and dirt are rejected; bars that do not fit are flagged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from glomflow.config import TemTiles
from glomflow.imaging import tem_area
from glomflow.imaging.tem import REJECTIONS, rejection, tile_tem_shard
from glomflow.imaging.tem_score import TileMeasures
from glomflow.tables import CROPS, write_table

ALL = TemTiles(size=128, overlap=0.0, max_per_image=99, max_instances=99)


def tissue(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(height, width)), 14)
    grain = gaussian_filter(rng.normal(size=(height, width)), 4)
    image = 0.55 + 0.2 * np.tanh(2 * field / field.std()) + 0.06 * grain / grain.std()
    return np.clip(image + 0.02 * rng.normal(size=image.shape), 0.02, 0.98)


def as_samples(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 60000).astype(np.uint16)


def resin(height: int, width: int) -> np.ndarray:
    return 0.9 + 0.005 * np.random.default_rng(1).normal(size=(height, width))


def cohort(folder: Path, files: dict[str, np.ndarray], nm_per_px: float = 10.0) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for name, pixels in files.items():
        tifffile.imwrite(folder / f"{name}.tif", pixels)
        rows.append({"image": name, "patient": "p1", "modality": "TEM", "path": f"{name}.tif", "slide": name})
    return pd.DataFrame(rows).assign(
        status="ok", um_per_px=nm_per_px / 1000, lesion=None, pixel_size_from="tags"
    )


def spoilt() -> np.ndarray:
    """Tissue, with resin to the right, a grid bar below and a hole at the top left."""
    image = tissue(1024, 1024)
    image[:, 420:] = resin(1024, 604)
    rows, columns = np.mgrid[:1024, :1024]
    image[rows > 740 + 0.2 * columns] = 0.0
    image[:256, :256] = 1.0
    return as_samples(image)


def test_spoilt_tiles_are_rejected_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = cohort(tmp_path, {"a": spoilt()})
    _, index = tile_tem_shard(frame, frame, tmp_path, ALL)
    assert set(zip(index["x"], index["y"], strict=True)) == {
        (256.0, 0.0),
        (0.0, 256.0),
        (256.0, 256.0),
        (0.0, 512.0),
        (256.0, 512.0),
    }
    assert set(index["flag"]) == {""}
    assert capsys.readouterr().out == (
        "TEM image a.tif: 16 tiles, 11 rejected (4 grid_bar, 1 saturated, 6 empty)\n"
    )
    lenient = ALL.model_copy(update={f"max_{reason}": 1.0 for reason in REJECTIONS})
    assert len(tile_tem_shard(frame, frame, tmp_path, lenient)[1]) == 16


def test_rejected_tiles_are_kept_only_where_there_is_no_other(tmp_path: Path) -> None:
    empty, good = as_samples(resin(512, 512)), as_samples(tissue(512, 512))
    alone = cohort(tmp_path, {"a": empty})
    _, index = tile_tem_shard(alone, alone, tmp_path, TemTiles(size=128))
    assert len(index) == 2
    assert set(index["flag"]) == {"empty"}
    both = cohort(tmp_path, {"a": empty, "b": good})
    _, index = tile_tem_shard(both, both, tmp_path, TemTiles(size=128))
    assert set(index["image"]) == {"b"}
    assert set(index["flag"]) == {""}


def test_whole_images_are_flagged_but_never_left_out(tmp_path: Path) -> None:
    frame = cohort(tmp_path, {"a": as_samples(resin(512, 512)), "b": as_samples(tissue(512, 512))})
    _, index = tile_tem_shard(frame, frame, tmp_path, TemTiles(instance="image"))
    assert dict(zip(index["image"], index["flag"], strict=True)) == {"a": "empty", "b": ""}


def test_reasons_follow_the_thresholds() -> None:
    measures = TileMeasures(information=0.5, empty=0.9, grid_bar=0.3, saturated=0.0, dirt=0.1)
    assert rejection(measures, TemTiles()) == "grid_bar"
    assert rejection(measures, TemTiles(max_grid_bar=0.3)) == "empty"
    assert rejection(measures, TemTiles(max_grid_bar=0.3, max_empty=0.9)) == ""
    assert rejection(measures, TemTiles(max_grid_bar=0.3, max_dirt=0.05)) == "dirt"


def with_bar(length: int) -> np.ndarray:
    image = as_samples(tissue(600, 800))
    image[-60:] = 0
    image[-33:-27, 40 : 40 + length] = 65535
    return image


@pytest.mark.parametrize("instance", ["tile", "image"])
def test_a_bar_that_does_not_fit_is_flagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], instance: str
) -> None:
    frame = cohort(tmp_path, {"a": with_bar(100), "b": with_bar(135)})
    settings = TemTiles(size=128, instance=instance)
    _, index = tile_tem_shard(frame, frame, tmp_path, settings)
    flags = dict(zip(index["image"], index["flag"], strict=True))
    assert flags == {"a": "", "b": "scale_bar_mismatch"}
    assert set(index["um_per_px"]) == ({0.02} if instance == "tile" else {0.01 * 538 / 128})
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: TEM image b.tif: its scale bar is 135.0 px long, 1350 nm at 10 nm/px (from tags), which is "
        "no round length; 1000 nm would mean 7.407 nm/px: check the pixel size"
    ]
    write_table(tmp_path / "index.parquet", index, CROPS)


def test_a_stated_bar_finds_what_roundness_cannot(tmp_path: Path) -> None:
    frame = cohort(tmp_path, {"a": with_bar(100)})
    settings = TemTiles(size=128, scale_bar_nm=2000.0)
    _, index = tile_tem_shard(frame, frame, tmp_path, settings)
    assert set(index["flag"]) == {"scale_bar_mismatch"}
    _, index = tile_tem_shard(frame, frame, tmp_path, settings.model_copy(update={"scale_bar_nm": 1000.0}))
    assert set(index["flag"]) == {""}


@pytest.mark.parametrize("colour", [False, True])
def test_an_image_too_large_to_hold_gives_the_same_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: bool
) -> None:
    pixels = (tissue(1500, 900, seed=3) * 255).astype(np.uint8)
    if colour:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    frame = cohort(tmp_path, {"a": pixels})
    settings = ALL.model_copy(update={"nm_per_px": 20.0})
    held_tiles, held_index = tile_tem_shard(frame, frame, tmp_path, settings)
    monkeypatch.setattr(tem_area, "HELD_PX", 200_000)
    tiles, index = tile_tem_shard(frame, frame, tmp_path, settings)
    pd.testing.assert_frame_equal(
        index.sort_values("crop", ignore_index=True).drop(columns=["row", "information"]),
        held_index.sort_values("crop", ignore_index=True).drop(columns=["row", "information"]),
    )
    order = [index["crop"].tolist().index(crop) for crop in held_index["crop"]]
    assert np.abs(tiles[order].astype(int) - held_tiles).max() <= 1
    difference = index["information"].to_numpy()[order] - held_index["information"].to_numpy()
    assert np.abs(difference).max() < 0.02


@pytest.mark.parametrize("instance", ["tile", "image"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20, 1e200])
def test_the_scale_of_the_samples_does_not_matter(tmp_path: Path, scale: float, instance: str) -> None:
    image = tissue(300, 300)
    settings = TemTiles(size=64, instance=instance)
    plain, scaled = (
        tile_tem_shard(frame, frame, tmp_path, settings)
        for frame in (cohort(tmp_path, {"a": image}), cohort(tmp_path, {"b": image * scale}))
    )
    assert np.abs(plain[0].astype(int) - scaled[0]).max() <= 1
    assert scaled[1]["information"].to_numpy() == pytest.approx(plain[1]["information"].to_numpy(), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (9, 40), (33, 33)])
@pytest.mark.parametrize("nm_per_px", [1.0, 10.0, 45.0])
@pytest.mark.parametrize("instance", ["tile", "image"])
def test_degenerate_images_pass(
    tmp_path: Path, shape: tuple[int, int], nm_per_px: float, instance: str
) -> None:
    rng = np.random.default_rng(0)
    files = {"a": rng.integers(0, 255, shape).astype(np.uint8), "b": np.zeros(shape, np.int16)}
    frame = cohort(tmp_path, files, nm_per_px)
    tiles, index = tile_tem_shard(frame, frame, tmp_path, TemTiles(size=64, instance=instance))
    assert len(tiles) == len(index)
    assert index["information"].between(0, 1).all()
