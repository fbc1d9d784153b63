"""Degenerate images, 2,000 per normaliser: no failure, no NaN, nothing changed without a profile."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glomflow.config import Stain
from glomflow.errors import GlomflowError
from glomflow.imaging.stain import StainProfile, estimate_profile, is_changed, normalise, normalise_image
from glomflow.imaging.stain.augment import augment_stains
from glomflow.imaging.stain_standards import standard_target
from glomflow.imaging.stain_white import standard_white, white_profile

METHODS = ["macenko", "vahadane", "reinhard"]
IMAGES = settings(
    max_examples=2000,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
KINDS = [
    "white",
    "glass",
    "flat",
    "black",
    "black border",
    "tissue on glass",
    "noise",
    "narrow noise",
    "one hue",
    "two colours",
    "ramp",
    "stripes of primaries",
    "two dyes",
]
VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


def two_dyes(generator, pixels):
    amounts = generator.gamma(1.0, generator.uniform(0.01, 1.5), (pixels, 2))
    return 245.0 * np.exp(-amounts @ VECTORS) - 1


def draw(kind, shape, seed):
    """Returns an image (H, W, 3) uint8 of a kind."""
    generator = np.random.default_rng(seed)
    pixels = shape[0] * shape[1]
    colour = generator.integers(0, 256, 3)
    image = np.broadcast_to(colour, (pixels, 3)).astype(float)
    if kind == "white":
        image = np.full((pixels, 3), 255.0)
    elif kind == "glass":
        image = generator.normal(generator.uniform(200, 255), generator.uniform(0, 4), (pixels, 3))
    elif kind == "black":
        image = np.full((pixels, 3), float(generator.integers(0, 8)))
    elif kind == "black border":
        image = two_dyes(generator, pixels)
        image[: pixels // 2] = 0
    elif kind == "tissue on glass":
        image = np.full((pixels, 3), 243.0)
        image[: generator.integers(0, 8)] = colour
    elif kind == "noise":
        image = generator.uniform(0, 256, (pixels, 3))
    elif kind == "narrow noise":
        image = image + generator.normal(0, generator.uniform(0, 6), (pixels, 3))
    elif kind == "one hue":
        density = generator.uniform(0, 3, (pixels, 1)) * generator.uniform(0, 1, 3)
        image = 250.0 * np.exp(-density) - 1
    elif kind == "two colours":
        image = np.where(np.arange(pixels)[:, None] % 2, colour, generator.integers(0, 256, 3)).astype(float)
    elif kind == "ramp":
        image = np.linspace(0, 255, pixels)[:, None] + generator.integers(-40, 40, 3)
    elif kind == "stripes of primaries":
        image = 255.0 * np.eye(3)[np.arange(pixels) % 3]
    elif kind == "two dyes":
        image = two_dyes(generator, pixels)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).reshape(*shape, 3)


KIND = st.sampled_from(KINDS)
EDGE = st.integers(1, 18)
SEED = st.integers(0, 2**32 - 1)
STAINS = ["HE", "PAS", "TRICHROME"]
TYPES = ["bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64"]


def numbers(profile):
    """All numbers that a profile holds."""
    return np.concatenate(
        [np.ravel(value) for value in astuple(profile) if value is not None and not isinstance(value, str)]
    )


def check(image, result, source, target):
    assert np.isfinite(numbers(source).astype(float)).all()
    assert result.dtype == np.uint8
    assert result.shape == image.shape
    if is_changed(source, target):
        assert source.flag == ""
        assert source.concentrations is not None or source.lab_mean is not None
    else:
        assert source.flag
        assert result is image


@pytest.mark.parametrize("method", METHODS)
def test_images_by_their_own_profile_and_by_that_of_a_slide(method):
    """Recoloured to a published standard, with numpy's warnings as errors."""
    slide = estimate_profile(draw("two dyes", (64, 64), 3), Stain(method=method), "S")
    assert slide.flag == ""
    seen = {"changed": 0, "flagged": 0}

    @IMAGES
    @given(KIND, EDGE, EDGE, SEED)
    def run(kind, height, width, seed):
        image = draw(kind, (height, width), seed)
        chosen = Stain(method=method, min_tissue_pixels=(1, 3, 30, 200)[seed % 4])
        target = standard_target(STAINS[seed % 3], chosen)
        before = image.copy()
        with np.errstate(all="raise", under="ignore"):
            result, source = normalise_image(image, target, chosen)
            by_slide = normalise(image, slide, target)
        check(image, result, source, target)
        check(image, by_slide, slide, target)
        assert np.array_equal(image, before)
        # Glass stays bright whatever else a tile shows.
        glass = (image >= np.array(slide.background)).all(axis=2)
        assert (by_slide[glass] >= 225).all()
        seen["flagged" if source.flag else "changed"] += 1

    run()
    # Both outcomes are common, so that neither branch goes untried.
    assert min(seen.values()) > 200


def test_images_by_their_white_level_and_augmented():
    chosen = Stain()
    target = standard_white("PASM", chosen)

    @IMAGES
    @given(KIND, EDGE, EDGE, SEED)
    def run(kind, height, width, seed):
        image = draw(kind, (height, width), seed)
        with np.errstate(all="raise", under="ignore"):
            source = white_profile(image, chosen)
            result = normalise(image, source, target)
            augmented = augment_stains(image, np.random.default_rng(seed), (0.2, 1.0, 5.0)[seed % 3])
        check(image, result, source, target)
        # Never more than the step from the darkest glass, 200, to the target's 240, of a white sample.
        assert np.abs(result.astype(int) - image).max() <= 52
        assert (augmented.dtype, augmented.shape) == (np.uint8, image.shape)
        assert (augmented[(image == 255).all(axis=2)] == 255).all()

    run()


@settings(IMAGES, max_examples=500)
@given(EDGE, EDGE, st.sampled_from([None, 1, 2, 3, 4]), st.sampled_from(["uint8", *TYPES]))
def test_other_arrays_are_refused(height, width, channels, dtype):
    """RGBA, grey, 16-bit and float pictures give an error that says what is expected."""
    if channels == 3 and dtype == "uint8":
        channels = 4
    image = np.zeros((height, width, channels) if channels else (height, 5), dtype)
    for method in METHODS:
        chosen = Stain(method=method)
        target = standard_target("HE", chosen)
        with pytest.raises(GlomflowError, match="stain normalisation expects 8-bit RGB, uint8 of shape"):
            normalise_image(image, target, chosen)
        with pytest.raises(GlomflowError, match=rf"not {dtype} of shape .*as_rgb_uint8"):
            normalise(image, StainProfile(method), target)
    with pytest.raises(GlomflowError, match="expects 8-bit RGB"):
        augment_stains(image, np.random.default_rng(0), 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_profiles_of_degenerate_images_are_flagged_in_words(method):
    for kind in ("white", "flat", "black", "tissue on glass"):
        profile = estimate_profile(draw(kind, (20, 20), 1), Stain(method=method, min_tissue_pixels=1))
        assert len(profile.flag.split()) >= 3
        assert not math.isnan(profile.tissue_pixels)
