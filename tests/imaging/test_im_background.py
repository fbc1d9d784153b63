"""Background of immunofluorescence: what is found, and that nothing is ever brightened."""

from __future__ import annotations

import numpy as np
import pytest

from glomflow.config import ImCrops
from glomflow.imaging.im_background import background_at, background_of

PERCENTILE = ImCrops(background="percentile")
ROLLING = ImCrops(background="rolling")


def spots(haze: np.ndarray) -> np.ndarray:
    """Bright spots of 3 px on a haze, (72, 96, 1)."""
    picture = np.array(haze, dtype=np.float32)
    for row in range(6, 72, 12):
        for column in range(6, 96, 12):
            picture[row : row + 3, column : column + 3] += 0.4
    return picture[:, :, None]


def test_a_percentile_finds_even_haze() -> None:
    floor, bounded = background_of(spots(np.full((72, 96), 0.06)), PERCENTILE)
    assert floor.shape == (1, 1, 1)
    assert floor.item() == pytest.approx(0.06)
    assert not bounded


def test_a_rolling_ball_follows_uneven_haze() -> None:
    haze = np.tile(np.linspace(0.02, 0.1, 96), (72, 1))
    floor, bounded = background_of(spots(haze), ROLLING)
    assert floor.shape == (72, 96, 1)
    assert np.abs(floor[:, :, 0] - haze).max() < 0.02
    assert not bounded
    even, _ = background_of(spots(haze), PERCENTILE)
    assert np.abs(even.item() - haze).max() > 0.05


@pytest.mark.parametrize("settings", [PERCENTILE, ROLLING], ids=["percentile", "rolling"])
def test_channels_are_apart_and_a_dark_one_has_no_background(settings: ImCrops) -> None:
    picture = np.concatenate([spots(np.full((72, 96), 0.06)), np.zeros((72, 96, 1), np.float32)], axis=2)
    floor, _ = background_of(picture, settings)
    assert floor[..., 0].max() == pytest.approx(0.06, abs=2e-3)
    assert floor[..., 1].max() == 0.0


@pytest.mark.parametrize("settings", [PERCENTILE, ROLLING], ids=["percentile", "rolling"])
def test_background_is_bounded(settings: ImCrops) -> None:
    floor, bounded = background_of(np.full((72, 96, 1), 0.4, np.float32), settings)
    assert floor.max() == pytest.approx(0.25 * 0.5)
    assert bounded


@pytest.mark.parametrize("seed", range(5))
def test_a_rolling_ball_stays_below_the_picture(seed: int) -> None:
    picture = np.random.default_rng(seed).uniform(0, 0.1, (30, 41, 2)).astype(np.float32)
    floor, _ = background_of(picture, ROLLING)
    assert (floor >= 0).all()
    assert (floor <= picture).all()


def test_without_a_method_there_is_no_background() -> None:
    with pytest.raises(ValueError, match="no background to estimate with background: none"):
        background_of(np.zeros((4, 4, 1), np.float32), ImCrops())


def test_a_background_is_sampled_where_the_crop_lies() -> None:
    floor = np.tile(np.arange(10, dtype=np.float32)[None, :, None], (10, 1, 1))
    sampled = background_at(floor, 200.0, 300.0, 400.0, (1000, 1000), 4)
    assert sampled.shape == (4, 4, 1)
    # The crop's pixels are centred at 250, 350, 450 and 550 of 1000 px: 2, 3, 4 and 5 of the floor.
    assert sampled[0, :, 0].tolist() == pytest.approx([2, 3, 4, 5])
    assert sampled[:, 1, 0].tolist() == pytest.approx([3, 3, 3, 3])
    beyond = background_at(floor, -1000.0, 0.0, 1000.0, (1000, 1000), 2)
    assert beyond[:, :, 0].tolist() == [[0, 0], [0, 0]]
    one = np.full((1, 1, 2), 0.1, np.float32)
    assert background_at(one, 0.0, 0.0, 10.0, (1000, 1000), 4) is one
