import numpy as np
import pandas as pd
import pytest

from glomflow.errors import GlomflowError
from glomflow.evaluation.texture import LENGTH, texture_features, texture_matrix


def _noise(seed: int = 0, size: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_a_flat_crop_has_no_spread_no_skewness_and_one_pattern() -> None:
    crop = np.full((32, 32, 3), [51, 102, 204], dtype=np.uint8)
    features = texture_features(crop)
    assert features.shape == (LENGTH,) == (72,)
    assert features[:3] == pytest.approx([0.2, 0.4, 0.8])
    assert features[3:9] == pytest.approx(np.zeros(6), abs=1e-9)
    assert features[12:18] == pytest.approx(np.zeros(6), abs=1e-9)
    assert np.isfinite(features).all()


def test_moments_are_those_of_scipy() -> None:
    from scipy.stats import skew

    crop = _noise()
    values = crop.reshape(-1, 3) / 255
    expected = np.concatenate([values.mean(axis=0), values.std(axis=0), skew(values, axis=0)])
    assert texture_features(crop)[:9] == pytest.approx(expected)


def test_histograms_sum_to_one_and_do_not_change_under_a_quarter_turn() -> None:
    crop = _noise()
    features, turned = texture_features(crop), texture_features(np.rot90(crop).copy())
    for start, stop in ((18, 28), (28, 46), (46, 72)):
        assert features[start:stop].sum() == pytest.approx(1.0)
    assert features[18:] == pytest.approx(turned[18:], abs=0.02)


def test_stripes_differ_from_noise_of_the_same_colours() -> None:
    stripes = np.zeros((48, 48, 3), dtype=np.uint8)
    stripes[:, ::4] = 200
    mixed = np.random.default_rng(0).permutation(stripes.reshape(-1, 3)).reshape(48, 48, 3)
    ours, other = texture_features(stripes), texture_features(mixed)
    assert ours[:18] == pytest.approx(other[:18])
    assert np.abs(ours[18:] - other[18:]).sum() > 0.5


def test_matrix_takes_the_rows_asked_for() -> None:
    crops = np.stack([_noise(seed) for seed in range(3)])
    assert np.array_equal(texture_matrix(crops)[[2, 0]], texture_matrix(crops, np.array([2, 0])))
    assert texture_matrix(crops[:0]).shape == (0, LENGTH)


@pytest.mark.parametrize(
    "crop", [np.zeros((32, 32, 3)), np.zeros((32, 32, 1), np.uint8), np.zeros((4, 32, 3), np.uint8)]
)
def test_other_than_uint8_colour_is_an_error(crop: np.ndarray) -> None:
    with pytest.raises(GlomflowError, match="colour_texture: a crop of shape"):
        texture_features(crop)


def test_real_glomeruli_have_finite_features_that_tell_sclerosis(real_data) -> None:
    from PIL import Image

    folder = real_data / "pas_glomeruli"
    rows = pd.read_csv(folder / "labels.csv")
    rows = rows.groupby("label", sort=True).head(12)
    crops = np.stack([np.asarray(Image.open(folder / name).convert("RGB")) for name in rows["image"]])
    features = texture_matrix(crops)
    assert np.isfinite(features).all()
    sclerosed = (rows["label"] == "global_sclerosis").to_numpy()
    difference = features[sclerosed].mean(axis=0) - features[~sclerosed].mean(axis=0)
    assert (np.abs(difference) / (features.std(axis=0) + 1e-9)).max() > 1
