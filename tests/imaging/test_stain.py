import math

import numpy as np
import pytest

from glomflow.config import Stain
from glomflow.errors import GlomflowError
from glomflow.imaging.stain import (
    PUBLISHED_BACKGROUND,
    StainProfile,
    estimate_background,
    estimate_profile,
    normalise,
    normalise_image,
    optical_density,
    rgb_to_lab,
    tissue_mask,
)
from glomflow.imaging.stain_targets import (
    STANDARD_MACENKO,
    STANDARD_REINHARD,
)
from imaging.stain_pictures import ODD, VECTORS, grey_ramp, two_stains

MACENKO = Stain()
REINHARD = Stain(method="reinhard")
TARGETS = {"macenko": STANDARD_MACENKO["HE"], "reinhard": STANDARD_REINHARD["HE"]}


def settings(method):
    return Stain(method=method)


# --- estimation ---------------------------------------------------------------------------------


def test_macenko_finds_the_vectors_that_a_picture_was_made_with():
    picture = two_stains(np.array([[0.65, 0.70, 0.29], [0.27, 0.75, 0.60]]))
    profile = estimate_profile(picture, MACENKO, "S1", background=(240.0,) * 3)
    assert profile.flag == ""
    assert profile.slide == "S1"
    expected = np.array([[0.65, 0.70, 0.29], [0.27, 0.75, 0.60]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(profile.matrix, expected, atol=0.02)


def test_haematoxylin_comes_first_whatever_the_axes_signs():
    for seed in range(5):
        profile = estimate_profile(two_stains(seed=seed), MACENKO)
        assert profile.matrix[0][0] > profile.matrix[1][0]


@pytest.mark.parametrize(
    ("vectors", "seed"), [(VECTORS, 1), (np.array([[0.71, 0.65, 0.27], [0.4, 0.85, 0.33]]), 2)]
)
def test_macenko_agrees_with_torchstain(vectors, seed):
    macenko = pytest.importorskip("torchstain.numpy.normalizers.macenko")
    picture = two_stains(vectors, seed=seed)
    profile = estimate_profile(picture, MACENKO, background=PUBLISHED_BACKGROUND, concentrations_over="image")
    peer = macenko.NumpyMacenkoNormalizer()
    peer.fit(picture, Io=240, alpha=1, beta=0.15)
    assert np.allclose(np.array(profile.matrix).T, peer.HERef, atol=1e-5)
    assert np.allclose(profile.concentrations, peer.maxCRef, atol=1e-5)
    theirs = macenko.NumpyMacenkoNormalizer().normalize(picture, stains=False)[0].astype(int)
    ours = normalise(picture, profile, STANDARD_MACENKO["HE"]).astype(int)
    # torchstain adds 1 to the samples, does not take it off again, and truncates.
    assert set(np.unique(theirs - ours)) <= {0, 1}


@pytest.mark.parametrize(
    ("level", "share", "expected"),
    [
        ((250, 248, 246), 0.5, (250.0, 248.0, 246.0)),
        ((250, 248, 246), 0.0, (240.0, 240.0, 240.0)),
        ((250, 248, 246), 0.001, (240.0, 240.0, 240.0)),
        ((255, 255, 200), 0.5, (240.0, 240.0, 240.0)),
        ((190, 190, 190), 0.5, (240.0, 240.0, 240.0)),
    ],
    ids=["glass", "none", "too little", "coloured", "too dark"],
)
def test_background(level, share, expected):
    picture = np.full((100, 100, 3), (150, 90, 140), np.uint8)
    picture.reshape(-1, 3)[: int(share * 10000)] = level
    assert estimate_background(picture) == expected


def test_optical_density_is_minus_the_logarithm_of_transmission():
    density = optical_density(np.array([[[239, 119, 0]]], np.uint8), (240.0, 240.0, 240.0))
    assert density[0, 0].tolist() == pytest.approx([0.0, math.log(2), math.log(240)], abs=1e-6)
    assert density.dtype == np.float32


def test_black_borders_are_no_tissue():
    picture = two_stains()
    bordered = np.zeros((160, 160, 3), np.uint8)
    bordered[32:128, 32:128] = picture
    assert not tissue_mask(bordered, PUBLISHED_BACKGROUND, 0.15)[:32].any()
    plain = estimate_profile(picture, MACENKO, background=PUBLISHED_BACKGROUND)
    framed = estimate_profile(bordered, MACENKO, background=PUBLISHED_BACKGROUND)
    assert framed.matrix == plain.matrix
    assert framed.concentrations == plain.concentrations


def test_reinhard_measures_lab_over_tissue():
    from skimage.color import rgb2lab

    picture = two_stains()
    profile = estimate_profile(picture, REINHARD)
    tissue = picture[tissue_mask(picture, profile.background, 0.15)]
    expected = rgb2lab(tissue[None])[0]
    assert profile.lab_mean == pytest.approx(expected.mean(axis=0), abs=0.02)
    assert profile.lab_std == pytest.approx(expected.std(axis=0), abs=0.02)
    assert profile.tissue_pixels == len(tissue)


def test_lab_agrees_with_scikit_image():
    from skimage.color import rgb2lab

    picture = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    assert np.abs(rgb_to_lab(picture) - rgb2lab(picture)).max() < 0.02


# --- what passes through unchanged ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("name", [name for name in ODD if name != "two colours"])
def test_tiles_without_a_profile_pass_unchanged_with_a_flag(name, method):
    picture = ODD[name]
    result, profile = normalise_image(picture, TARGETS[method], settings(method))
    assert profile.flag
    assert np.array_equal(result, picture)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("name", list(ODD))
def test_no_tile_is_blackened_by_the_profile_of_its_slide(name, method):
    picture = ODD[name]
    source = estimate_profile(two_stains(white=245.0), settings(method))
    with np.errstate(all="raise", under="ignore"):
        result = normalise(picture, source, TARGETS[method])
    assert result.dtype == np.uint8
    assert result.shape == picture.shape
    if name != "black":
        assert result.mean() > 0.5 * picture.mean()
    if name in ("blank", "glass", "one white pixel"):
        assert result.min() >= 225


@pytest.mark.parametrize(
    ("picture", "flag"),
    [
        (ODD["5 tissue pixels"], "5 tissue pixels, 200 are needed"),
        (ODD["flat"], "tissue has one colour only; two stains cannot be told apart"),
        (ODD["two colours"], "tissue has one colour only; two stains cannot be told apart"),
        (grey_ramp(), "stain vectors are collinear (condition number"),
    ],
    ids=["too little", "flat", "two colours", "collinear"],
)
def test_macenko_flags_name_the_reason(picture, flag):
    profile = estimate_profile(picture, MACENKO, background=(240.0,) * 3)
    assert profile.flag.startswith(flag)
    assert profile.matrix is None
    assert profile.concentrations is None


def test_a_stain_that_is_nearly_absent_is_flagged():
    # The second stain is weak over the image, though tissue shows both.
    picture = two_stains()
    pale = np.full((1200, 1200, 3), 239, np.uint8)
    pale[:96, :96] = picture
    profile = estimate_profile(pale, MACENKO, background=PUBLISHED_BACKGROUND, concentrations_over="image")
    assert profile.flag.startswith("a stain is nearly absent (99th percentile concentration")


def test_reinhard_flags_one_colour():
    flag = estimate_profile(ODD["flat"], REINHARD).flag
    assert flag == "tissue has one colour only (standard deviation 0.00 to 0.00 in CIELAB)"


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_random_tiles_never_fail(method):
    generator = np.random.default_rng(11)
    with np.errstate(all="raise", under="ignore"):
        for trial in range(60):
            shape = (*generator.integers(1, 40, 2), 3)
            low, high = np.sort(generator.integers(0, 257, 2))
            picture = generator.integers(low, max(high, low + 1), shape).astype(np.uint8)
            tissue = Stain(method=method, min_tissue_pixels=1 + trial % 3)
            result, profile = normalise_image(picture, TARGETS[method], tissue)
            assert result.shape == picture.shape
            if profile.flag:
                assert np.array_equal(result, picture)


# --- application ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_the_own_profile_as_target_changes_nothing(method):
    picture = two_stains()
    source = estimate_profile(picture, settings(method), background=(240.0,) * 3)
    result = normalise(picture, source, source)
    assert np.abs(result.astype(int) - picture).max() <= 1


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_two_scanners_agree_after_normalisation(method):
    other = np.array([[0.55, 0.75, 0.37], [0.22, 0.88, 0.42]])
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    pictures = [two_stains(), two_stains(other, white=225.0, strength=1.4)]
    tissue = tissue_mask(pictures[0], PUBLISHED_BACKGROUND, 0.3)
    before = rgb_to_lab(pictures[0][tissue]).mean(0) - rgb_to_lab(pictures[1][tissue]).mean(0)
    results = [normalise_image(picture, TARGETS[method], settings(method))[0] for picture in pictures]
    after = rgb_to_lab(results[0][tissue]).mean(0) - rgb_to_lab(results[1][tissue]).mean(0)
    assert np.linalg.norm(after) < 0.25 * np.linalg.norm(before)


def test_macenko_gives_the_target_profile():
    picture = two_stains(strength=0.7, white=250.0)
    result, _ = normalise_image(picture, STANDARD_MACENKO["HE"], MACENKO)
    profile = estimate_profile(result, MACENKO, background=PUBLISHED_BACKGROUND)
    assert np.allclose(profile.matrix, STANDARD_MACENKO["HE"].matrix, atol=0.03)
    assert profile.concentrations == pytest.approx(STANDARD_MACENKO["HE"].concentrations, rel=0.05)


def test_reinhard_gives_the_target_profile_and_leaves_glass_alone():
    picture = two_stains(white=245.0)
    result, source = normalise_image(picture, STANDARD_REINHARD["HE"], REINHARD)
    lab = rgb_to_lab(result[tissue_mask(picture, source.background, 0.15)])
    assert lab.mean(axis=0).tolist() == pytest.approx(STANDARD_REINHARD["HE"].lab_mean, abs=2.5)
    assert np.abs(result[:12].astype(int) - picture[:12]).max() <= 1


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_batch_equals_its_images(method):
    pictures = np.stack([two_stains(seed=seed) for seed in range(3)]).reshape(3, 1, 96, 96, 3)
    source = estimate_profile(pictures[0, 0], settings(method))
    batch = normalise(pictures, source, TARGETS[method])
    single = [normalise(picture, source, TARGETS[method]) for picture in pictures[:, 0]]
    assert np.array_equal(batch[:, 0], np.stack(single))
    assert normalise(pictures[:0], source, TARGETS[method]).shape == (0, 1, 96, 96, 3)


def test_none_returns_the_picture_itself():
    picture = two_stains()
    none = estimate_profile(picture, settings("none"), "S1")
    assert none == StainProfile("none", "S1")
    assert normalise(picture, none, StainProfile("none")) is picture


@pytest.mark.parametrize(
    "picture",
    [np.zeros((10, 10, 4), np.uint8), np.zeros((10, 10, 3), np.uint16), np.zeros((10, 10), np.uint8)],
    ids=["RGBA", "16 bit", "grey"],
)
def test_other_pictures_are_refused_with_what_is_expected(picture):
    expected = (
        rf"expects 8-bit RGB, uint8 of shape \(\.\.\., 3\), not {picture.dtype} of shape .*as_rgb_uint8"
    )
    with pytest.raises(GlomflowError, match=expected):
        normalise(picture, StainProfile("macenko"), STANDARD_MACENKO["HE"])
    with pytest.raises(GlomflowError, match=expected):
        estimate_profile(picture, MACENKO)


def test_profiles_of_two_methods_are_refused():
    with pytest.raises(GlomflowError, match="slide 'S1' is macenko, the target reinhard; delete"):
        normalise(two_stains(), StainProfile("macenko", "S1"), STANDARD_REINHARD["HE"])
