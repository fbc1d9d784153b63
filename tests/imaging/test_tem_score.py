"""What a tile shows: structure, dense material, or nothing worth keeping."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from glomflow.imaging.tem_score import TileMeasures, grid_step, score_maps

SIZE = 448


def tissue(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Membranes and cytoplasm as bands of smoothed noise, 0 to 1, with some noise."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(height, width)), 14)
    grain = gaussian_filter(rng.normal(size=(height, width)), 4)
    image = 0.55 + 0.2 * np.tanh(2 * field / field.std()) + 0.06 * grain / grain.std()
    return np.clip(image + 0.02 * rng.normal(size=image.shape), 0.02, 0.98)


def as_samples(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def measured(image: np.ndarray, nm_per_px: float = 20.0) -> TileMeasures:
    height, width = image.shape
    return score_maps(image, nm_per_px).measure(0, 0, width, height)


EMPTY = {
    "blank": np.full((224, 224), 200, np.uint8),
    "saturated": np.full((224, 224), 255, np.uint8),
    "black": np.zeros((224, 224), np.uint8),
    "resin": np.random.default_rng(1).normal(210, 6, (224, 224)).astype(np.uint8),
    "shot noise": np.random.default_rng(2).normal(128, 40, (224, 224)).clip(0, 255).astype(np.uint8),
    "grid bar": np.random.default_rng(0).normal(3, 1.5, (224, 224)).clip(0, 255).astype(np.uint8),
    "uneven light": np.tile(np.linspace(120, 220, 224), (224, 1)).astype(np.uint8),
    "not a number": np.full((224, 224), np.nan, np.float32),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_image_without_tissue_scores_near_zero(name: str) -> None:
    measures = measured(EMPTY[name])
    assert measures.information < 0.02
    assert measures.empty > 0.9


def test_texture_density_and_share_raise_the_score() -> None:
    image = tissue(224, 672, seed=4)
    image[:, 448:] = 0.8
    rows, columns = np.mgrid[:224, :672]
    for row, column in ((60, 60), (100, 150), (170, 90)):
        image[(rows - row) ** 2 + (columns - column) ** 2 < 11**2] -= 0.35
    maps = score_maps(as_samples(image), 20.0)
    empty, half, full, dense = (maps.measure(x, 0, 224, 224).information for x in (448, 390, 224, 0))
    assert empty < 0.1 < half < full < dense < 1.0
    assert full > 1.5 * half


def test_a_dense_deposit_outranks_a_plain_membrane() -> None:
    rows, columns = np.mgrid[:224, :224]
    rng = np.random.default_rng(6)
    plain = 0.75 + 0.02 * rng.normal(size=(224, 224))
    plain[np.abs(rows - 112) < 9] -= 0.3
    deposit = plain.copy()
    deposit[((rows - 94) / 10.0) ** 2 + ((columns - 112) / 14.0) ** 2 < 1] -= 0.5
    assert measured(as_samples(deposit)).information > 1.2 * measured(as_samples(plain)).information


def test_gain_and_offset_of_the_camera_do_not_matter() -> None:
    image = tissue(300, 300, seed=8)
    scores = [
        measured(samples).information
        for samples in (image, image * 40000 + 9000, (image * 9000 + 30000).astype(np.uint16))
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)
    assert scores[2] == pytest.approx(scores[0], rel=1e-2)


def test_an_image_without_dense_material_is_not_stretched_to_hold_some() -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    plain = tissue(SIZE, SIZE, seed=2)
    spot = ((rows - 200) ** 2 + (columns - 200) ** 2) < 10**2
    faint, dense = plain.copy(), plain.copy()
    faint[spot] -= 0.1
    dense[spot] = 0.15 + 0.02 * np.random.default_rng(0).normal(size=spot.sum())
    at_spot = [score_maps(image, 20.0).measure(140, 140, 128, 128) for image in (faint, dense)]
    assert at_spot[1].information > 1.2 * at_spot[0].information


def test_half_a_tile_of_resin_is_empty() -> None:
    image = tissue(SIZE, SIZE)
    image[:, SIZE // 2 :] = 0.9 + 0.01 * np.random.default_rng(0).normal(size=(SIZE, SIZE // 2))
    maps = score_maps(as_samples(image), 20.0)
    assert maps.measure(0, 0, 200, SIZE).empty < 0.05
    assert maps.measure(260, 0, 180, SIZE).empty > 0.9
    assert maps.measure(0, 0, SIZE, SIZE).empty == pytest.approx(0.44, abs=0.06)
    assert maps.measure(0, 0, SIZE, SIZE).saturated < 0.02


def test_a_grid_bar_is_black_featureless_and_large() -> None:
    image = tissue(SIZE, SIZE)
    image[:, :112] = 0.0
    measures = measured(as_samples(image))
    assert measures.grid_bar == pytest.approx(0.25, abs=0.02)
    assert measures.dirt == 0.0
    assert measures.empty < 0.1


def test_dirt_is_black_featureless_and_small() -> None:
    image = tissue(SIZE, SIZE)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    specks = np.zeros(image.shape, np.bool_)
    for row, column in np.random.default_rng(3).integers(30, SIZE - 30, (12, 2)):
        specks |= (rows - row) ** 2 + (columns - column) ** 2 < 14**2
    clean = measured(as_samples(image))
    image[specks] = 0.0
    measures = measured(as_samples(image))
    assert measures.dirt == pytest.approx(specks.mean(), rel=0.35)
    assert measures.grid_bar == 0.0
    assert clean.dirt == 0.0


def test_dense_tissue_with_grain_is_no_dirt() -> None:
    image = tissue(SIZE, SIZE)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    deposit = (rows - 200) ** 2 + (columns - 200) ** 2 < 30**2
    image[deposit] = 0.12 + 0.03 * np.random.default_rng(0).normal(size=deposit.sum())
    measures = measured(as_samples(image))
    assert measures.dirt == measures.grid_bar == 0.0


def test_a_hole_is_saturated_and_empty() -> None:
    image = tissue(SIZE, SIZE)
    image[150:300, 150:300] = 1.0
    measures = measured(as_samples(image))
    assert measures.saturated == pytest.approx((150 / SIZE) ** 2, rel=0.15)
    assert measures.empty >= 0.8 * measures.saturated


@pytest.mark.parametrize("nm_per_px", [0.5, 2.0, 10.0, 20.0, 40.0, 200.0])
def test_the_measures_are_finite_at_any_resolution(nm_per_px: float) -> None:
    measures = measured(as_samples(tissue(224, 224)), nm_per_px)
    assert all(0.0 <= value <= 1.0 for value in vars(measures).values())


@pytest.mark.parametrize("shape", [(8, 8), (8, 500), (3, 2), (1, 1), (65, 67)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_small_images_pass(shape: tuple[int, int], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    measures = measured(image, 5.0)
    assert all(0.0 <= value <= 1.0 for value in vars(measures).values())


@pytest.mark.parametrize(
    ("nm_per_px", "step"), [(5.0, 8), (10.0, 4), (13.3, 3), (20.0, 2), (40.0, 1), (90.0, 1)]
)
def test_the_grid_is_about_40_nm(nm_per_px: float, step: int) -> None:
    assert grid_step(nm_per_px) == step
