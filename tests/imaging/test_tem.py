"""TEM tiles: where they lie, what they show, and which are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from glomflow.cohort.phantom.sites import site_named
from glomflow.cohort.phantom.tem import draw_micrograph
from glomflow.config import TemTiles
from glomflow.imaging.tem import tile_positions, tile_tem_shard
from glomflow.imaging.tem_overlay import find_overlay
from glomflow.tables import CROPS, write_table

NM_PER_PX = 10.0


def tissue(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Membranes and cytoplasm as bands of smoothed noise, 0 to 1, with some noise."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(height, width)), 14)
    grain = gaussian_filter(rng.normal(size=(height, width)), 4)
    image = 0.55 + 0.2 * np.tanh(2 * field / field.std()) + 0.06 * grain / grain.std()
    return np.clip(image + 0.02 * rng.normal(size=image.shape), 0.02, 0.98)


def micrograph(height: int = 900, width: int = 1000, seed: int = 0, bar: int = 60) -> np.ndarray:
    """16-bit micrograph over a black strip with a white bar, ``bar`` px high."""
    image = (tissue(height, width, seed) * 30000 + 5000).astype(np.uint16)
    if bar:
        image[-bar:] = 0
        image[-bar // 2 - 3 : -bar // 2 + 3, 40:240] = 65535
    return image


def cohort(
    folder: Path, files: dict[str, tuple[str, np.ndarray]], nm_per_px: float = NM_PER_PX
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Writes images {name: (patient, pixels)}; returns the columns of their tables that matter here."""
    rows: list[dict[str, Any]] = []
    for number, (name, (patient, pixels)) in enumerate(files.items()):
        tifffile.imwrite(folder / f"{name}.tif", pixels)
        rows.append(
            {
                "image": name,
                "patient": patient,
                "modality": "TEM",
                "path": f"{name}.tif",
                "slide": name,
                "status": "ok",
                "um_per_px": nm_per_px / 1000,
                "lesion": None,
                "row": number + 2,
            }
        )
    frame = pd.DataFrame(rows)
    return frame, frame


@pytest.mark.parametrize(
    ("extent", "size", "overlap", "expected"),
    [
        (224, 224, 0.25, [0]),
        (100, 224, 0.25, [0]),
        (225, 224, 0.25, [0, 1]),
        (392, 224, 0.25, [0, 168]),
        (393, 224, 0.25, [0, 84, 169]),
        (672, 224, 0.0, [0, 224, 448]),
        (10, 4, 0.5, [0, 2, 4, 6]),
    ],
)
def test_tile_positions(extent: int, size: int, overlap: float, expected: list[int]) -> None:
    assert tile_positions(extent, size, overlap) == expected


def test_tiles_lie_on_tissue_only(tmp_path: Path) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph())})
    settings = TemTiles(max_per_image=100, max_instances=100)
    tiles, index = tile_tem_shard(inventory, images, tmp_path, settings)
    overlay = find_overlay(micrograph())
    assert overlay[-60:].all()
    assert tiles.shape == (len(index), 224, 224, 1)
    assert tiles.dtype == np.uint8
    for row in index.itertuples():
        box = overlay[int(row.y) : int(row.y + row.height), int(row.x) : int(row.x + row.width)]
        assert box.shape == (448, 448)
        assert not box.any()
    assert set(index["um_per_px"]) == {0.02}
    assert sorted(set(index["x"])) == [0.0, 276.0, 552.0]
    assert index["crop"].is_unique
    assert index["crop"][0] == f"a@{index['x'][0]:.0f}_{index['y'][0]:.0f}"
    write_table(tmp_path / "index.parquet", index, CROPS)


def test_the_most_informative_come_first_and_bounds_hold(tmp_path: Path) -> None:
    files = {
        "b1": ("p2", micrograph(seed=1)),
        "b2": ("p2", micrograph(seed=2)),
        "a1": ("p1", micrograph(seed=3)),
    }
    inventory, images = cohort(tmp_path, files)
    _, index = tile_tem_shard(inventory, images, tmp_path, TemTiles(max_per_image=2, max_instances=3))
    assert list(index["patient"]) == ["p1", "p1", "p2", "p2", "p2"]
    assert list(index["row"]) == [0, 1, 2, 3, 4]
    assert index["selected"].all()
    for _, of_patient in index.groupby("patient"):
        assert of_patient["information"].is_monotonic_decreasing
        assert of_patient["image"].value_counts().max() <= 2


def test_no_image_takes_the_place_of_another(tmp_path: Path) -> None:
    dense = micrograph(bar=0)
    rows, columns = np.mgrid[:900, :1000]
    dense[((rows % 150) - 75) ** 2 + ((columns % 150) - 75) ** 2 < 25**2] = 5000
    files = {"a": ("p1", dense), "b": ("p1", micrograph(seed=1)), "c": ("p1", micrograph(seed=2))}
    inventory, images = cohort(tmp_path, files)
    _, four = tile_tem_shard(inventory, images, tmp_path, TemTiles(max_per_image=4, max_instances=4))
    assert sorted(four["image"]) == ["a", "a", "b", "c"]
    assert four["information"].is_monotonic_decreasing
    assert list(four["image"][:2]) == ["a", "a"]


def test_the_kept_tile_is_the_one_with_tissue(tmp_path: Path) -> None:
    image = (np.random.default_rng(0).normal(30000, 300, (900, 1000))).astype(np.uint16)
    image[:448, 552:] = micrograph(448, 448, bar=0)
    inventory, images = cohort(tmp_path, {"a": ("p1", image)})
    _, index = tile_tem_shard(inventory, images, tmp_path, TemTiles(max_per_image=1))
    assert (index["x"][0], index["y"][0]) == (552.0, 0.0)


def test_tiles_of_equal_rank_keep_one_order(tmp_path: Path) -> None:
    flat = np.full((900, 1000), 20000, np.uint16)
    inventory, images = cohort(tmp_path, {"b": ("p1", flat), "a": ("p1", flat)})
    tiles, index = tile_tem_shard(inventory, images, tmp_path, TemTiles())
    assert list(index["crop"]) == ["a@0_0", "a@276_0", "b@0_0", "b@276_0"]
    assert (index["information"] == 0).all()
    assert (tiles == 128).all()


@pytest.mark.parametrize(("height", "width"), [(400, 1000), (1000, 300), (60, 60), (20, 500)])
def test_small_images_are_padded_by_reflection(tmp_path: Path, height: int, width: int) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph(height, width, bar=0))})
    tiles, index = tile_tem_shard(inventory, images, tmp_path, TemTiles())
    assert tiles.shape[1:] == (224, 224, 1)
    assert set(index["flag"]) == {"padded"}
    assert (index["x"] >= 0).all()
    assert (index["x"] + index["width"] <= width).all()
    assert (index["y"] + index["height"] <= height).all()
    if height == 400:
        assert np.array_equal(tiles[0, :12], tiles[0, 12:24][::-1])


def test_an_image_without_usable_area_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph(10, 500, bar=0))})
    tiles, index = tile_tem_shard(inventory, images, tmp_path, TemTiles())
    assert tiles.shape == (0, 224, 224, 1)
    assert list(index.columns) == list(CROPS)
    assert capsys.readouterr().out == (
        "warning: TEM image a.tif is left out: less than 8 px of it at 20 nm/px are free of scale bar "
        "and text\n"
    )


def test_an_image_that_fails_now_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph()), "b": ("p1", micrograph(seed=1))})
    (tmp_path / "b.tif").write_bytes(b"not an image")
    _, index = tile_tem_shard(inventory, images, tmp_path, TemTiles())
    assert set(index["image"]) == {"a"}
    assert "warning: TEM image b.tif is left out: b.tif: cannot be read" in capsys.readouterr().out


def test_other_modalities_and_excluded_images_are_passed_over(tmp_path: Path) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph()), "b": ("p2", micrograph())})
    inventory["modality"] = ["TEM", "OM"]
    inventory["status"] = ["blank", "ok"]
    tiles, index = tile_tem_shard(inventory, images, tmp_path, TemTiles())
    assert len(tiles) == len(index) == 0
    write_table(tmp_path / "index.parquet", index, CROPS)


def test_contrast_is_the_range_of_the_tissue_not_of_the_bar(tmp_path: Path) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph())})
    tiles, _ = tile_tem_shard(inventory, images, tmp_path, TemTiles(max_per_image=9))
    assert tiles.min() < 8
    assert tiles.max() > 247
    assert 80 < tiles.mean() < 176


def test_the_whole_image_as_an_instance(tmp_path: Path) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph())})
    tiles, index = tile_tem_shard(inventory, images, tmp_path, TemTiles(instance="image", size=64))
    assert tiles.shape == (1, 64, 64, 1)
    row = index.iloc[0]
    assert row["crop"] == "a#0"
    assert row["height"] == row["width"] == 837.0
    assert (row["x"], row["y"]) == ((1000 - 837) / 2, 0.0)
    assert row["um_per_px"] == pytest.approx(0.01 * 837 / 64)
    assert row["y"] + row["height"] <= 840


def test_a_ready_made_crop_needs_no_pixel_size(tmp_path: Path) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph())}, nm_per_px=float("nan"))
    tiles, index = tile_tem_shard(inventory, images, tmp_path, TemTiles())
    assert len(tiles) == 1
    assert index["um_per_px"].isna().all()
    assert np.isfinite(index["information"]).all()


def test_twice_gives_the_same(tmp_path: Path) -> None:
    inventory, images = cohort(tmp_path, {"a": ("p1", micrograph()), "b": ("p1", micrograph(seed=5))})
    first, second = (tile_tem_shard(inventory, images, tmp_path, TemTiles()) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    pd.testing.assert_frame_equal(first[1], second[1])


SITES = ("site_a", "site_b", "site_c")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tiles of drawn micrographs of all sites and diseases, half of them with deposits."""
    folder = tmp_path_factory.mktemp("phantom")
    masks: dict[str, np.ndarray | None] = {}
    tables = []
    for number in range(18):
        site = site_named(SITES[number % 3])
        disease, deposits = ("MN", "IgAN", "LN")[number // 3 % 3], number < 9
        view = "mesangium" if disease == "IgAN" else "capillary"
        drawn = draw_micrograph(
            np.random.default_rng([3, number]), site, view, deposits=deposits, appearance=disease, stage="II"
        )
        name = f"m{number:02d}"
        masks[name] = drawn.mask
        one, _ = cohort(folder, {name: ("p1", drawn.image)}, site.tem_nm_per_px)
        tables.append(one.assign(strip_px=site.strip_px, deposits=deposits))
    frame = pd.concat(tables, ignore_index=True)
    _, index = tile_tem_shard(frame, frame, folder, TemTiles(max_per_image=99, max_instances=999))
    return {"folder": folder, "frame": frame, "index": index, "masks": masks}


def test_the_strip_of_a_phantom_is_found_and_nothing_else(phantom: dict[str, Any]) -> None:
    for row in phantom["frame"].itertuples():
        overlay = find_overlay(tifffile.imread(phantom["folder"] / row.path))
        assert overlay[-row.strip_px :].all()
        assert overlay[: -row.strip_px].mean() < 0.01


def test_deposits_rank_high(phantom: dict[str, Any]) -> None:
    best = phantom["index"].drop_duplicates("image").merge(phantom["frame"][["image", "deposits"]])
    for row in best[best["deposits"]].itertuples():
        mask = phantom["masks"][row.image]
        assert mask[int(row.y) : int(row.y + row.height), int(row.x) : int(row.x + row.width)].any()
    with_deposits, without = (best.loc[best["deposits"] == shown, "information"] for shown in (True, False))
    assert np.mean(with_deposits.to_numpy()[:, None] > without.to_numpy()) > 0.65
