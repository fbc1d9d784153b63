"""Pen marks, folds, exposure, bleaching, drift, dirt and blank area, injected and real."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

from glomflow.config_quality import Quality
from glomflow.imaging.quality import im, om, tem
from glomflow.imaging.quality.focus import unit_gray
from glomflow.imaging.quality.views import resized

STAINS = (
    "kidney_01_he",
    "kidney_02_pas",
    "kidney_03_jones_silver",
    "kidney_13_ihc",
    "kidney_14_ihc",
    "kidney_16_ihc",
    "kidney_32_sirius_red",
    "kidney_37_ihc",
    "kidney_38_ihc",
    "kidney_39_ihc",
    "kidney_40_ihc",
)
FIELD_UM = 0.5
SCALE = 4.0


def _tissue(seed=0, size=150):
    """Pink tissue with purple nuclei and white lumens at 4 µm/px, (size, size, 3)."""
    rng = np.random.default_rng(seed)
    lumens = gaussian_filter(rng.normal(size=(size, size)), 2.0)
    nuclei = gaussian_filter(rng.normal(size=(size, size)), 0.6)
    picture = np.empty((size, size, 3))
    picture[:] = (225, 160, 200)
    picture[lumens > np.quantile(lumens, 0.85)] = 243
    picture[nuclei > np.quantile(nuclei, 0.92)] = (130, 90, 170)
    return (picture + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)


def _inked_share(picture):
    return float(om.pen_marks(om.density(picture)).mean())


def _stroke(shape, width, angle=0.6):
    y, x = np.mgrid[: shape[0], : shape[1]] - np.array(shape[:2]).reshape(2, 1, 1) / 2
    across, along = x * math.sin(angle) - y * math.cos(angle), x * math.cos(angle) + y * math.sin(angle)
    return (np.abs(across) < width / 2) & (np.abs(along) < 0.35 * shape[0])


@pytest.fixture(scope="module")
def real_fields(real_data):
    fields = {}
    for name in STAINS:
        with Image.open(real_data / "stains" / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        size = round(pixels.shape[1] * FIELD_UM / SCALE), round(pixels.shape[0] * FIELD_UM / SCALE)
        fields[name] = resized(pixels, *size)
    return fields


# --- optical microscopy ---


@pytest.mark.parametrize("ink", [(25, 25, 30), (25, 50, 160), (15, 120, 70), (205, 25, 45)])
@pytest.mark.parametrize("on_tissue", [True, False])
def test_pen_marks(ink, on_tissue):
    picture = _tissue() if on_tissue else np.full((150, 150, 3), 243, np.uint8)
    mark = _stroke(picture.shape, 20)
    inked = picture.copy()
    inked[mark] = inked[mark] * (np.array(ink) / 255)
    assert _inked_share(picture) == 0.0
    assert _inked_share(inked) == pytest.approx(mark.mean(), rel=0.15)


def test_a_stain_of_all_strengths_is_no_ink():
    strength = gaussian_filter(np.random.default_rng(0).normal(size=(150, 150)), 6.0)
    strength = (strength / strength.max()).clip(0, 1)[:, :, None]
    picture = (243 * np.exp(-2.2 * strength * np.array((0.95, 0.35, 0.1)))).astype(np.uint8)
    assert (om.density(picture).max(axis=2) > om.INK_DENSITY).mean() > 0.05
    assert _inked_share(picture) == 0.0


def test_padding_of_a_slide_is_no_ink():
    picture = _tissue()
    picture[:, :40] = 0
    assert _inked_share(picture) == 0.0
    assert om.fold_fraction(om.density(picture), SCALE) == 0.0


def test_ink_of_sixteen_bit_images():
    picture = _tissue()
    mark = _stroke(picture.shape, 20)
    picture[mark] = (25, 50, 160)
    deep = _inked_share(picture.astype(np.uint16) * 257)
    assert deep == pytest.approx(_inked_share(picture), abs=1e-3)
    assert deep > 0.03


@pytest.mark.parametrize("kind", ["double section", "grey shadow"])
def test_folds(kind):
    picture = _tissue()
    band = gaussian_filter(_stroke(picture.shape, 16).astype(float), 1.0)[:, :, None]
    density = om.density(picture)
    if kind == "grey shadow":
        added = np.full_like(density, 0.4)
    else:
        added = np.broadcast_to(np.float32([0.14, 0.5, 0.26]), density.shape)
    assert om.fold_fraction(density, SCALE) == 0.0
    assert om.fold_fraction(density + band * added, SCALE) == pytest.approx((band > 0.5).mean(), rel=0.4)


def test_pen_marks_are_no_folds():
    picture = _tissue()
    mark = _stroke(picture.shape, 20)
    picture[mark] = picture[mark] * (np.array((25, 25, 30)) / 255)
    density = om.density(picture)
    assert om.fold_fraction(density, SCALE) > 0.03
    assert om.fold_fraction(density, SCALE, om.pen_marks(density)) == 0.0


def test_folds_need_context():
    assert math.isnan(om.fold_fraction(om.density(_tissue(size=70)), SCALE))
    assert om.fold_fraction(om.density(_tissue(size=80)), SCALE) == 0.0


def test_only_the_folded_real_field_has_a_fold(real_fields):
    shares = {name: om.fold_fraction(om.density(field), SCALE) for name, field in real_fields.items()}
    flagged = {name for name, share in shares.items() if share > Quality().max_fold}
    assert flagged == {"kidney_13_ihc"}
    assert 0.02 < shares["kidney_13_ihc"] < 0.06


def test_no_real_field_has_pen_marks(real_fields):
    assert {name: _inked_share(field) for name, field in real_fields.items()} == dict.fromkeys(STAINS, 0.0)


@pytest.mark.parametrize(
    ("name", "ink"),
    [
        (name, ink)
        for name in ("kidney_01_he", "kidney_02_pas", "kidney_14_ihc")
        for ink in ((25, 25, 30), (25, 50, 160), (15, 120, 70), (205, 25, 45))
    ],
)
def test_pen_marks_on_real_fields(real_fields, name, ink):
    inked = real_fields[name].copy()
    mark = _stroke(inked.shape, 20)
    inked[mark] = inked[mark] * (np.array(ink) / 255)
    assert _inked_share(inked) == pytest.approx(mark.mean(), rel=0.15)


# --- immunofluorescence ---


def _fluorescence(seed=0, size=300, level=2000.0):
    rng = np.random.default_rng(seed)
    structure = gaussian_filter(rng.normal(size=(size, size)), 3.0)
    plane = 300 + level * np.exp(0.5 * structure / structure.std()) / 2
    return rng.normal(plane, 20).astype(np.float32)


def test_signal_rises_above_noise():
    assert im.signal_to_noise(_fluorescence(), whole_numbers=True) > 50
    noise = np.random.default_rng(0).normal(100, 20, (300, 300)).astype(np.float32)
    assert 0.5 < im.signal_to_noise(noise, whole_numbers=True) < 2.0


@pytest.mark.parametrize("level", [0, 1])
def test_a_black_image_has_no_signal(level):
    plane = np.random.default_rng(0).integers(0, level + 1, (300, 300)).astype(np.float32)
    assert im.signal_to_noise(plane, whole_numbers=True) < Quality().min_signal_to_noise


@pytest.mark.parametrize(
    ("dtype", "highest", "scale"),
    [
        (np.uint8, 255, 255.0),
        (np.uint8, 90, 255.0),
        (np.uint16, 4095, 4095.0),
        (np.uint16, 16383, 16383.0),
        (np.uint16, 4000, 65535.0),
        (np.float32, 1, math.inf),
    ],
)
def test_full_scale(dtype, highest, scale):
    assert im.full_scale(np.array([[[0], [highest]]], dtype)) == scale


def test_overexposure_is_that_of_the_worst_marker():
    picture = np.full((10, 10, 3), 900, np.uint16)
    picture[:3, :, 1] = 4095
    picture[:1, :, 2] = 4095
    assert im.overexposed_fraction(picture) == 0.3
    assert math.isnan(im.overexposed_fraction(picture.astype(np.float32)))


def test_the_strongest_channel_is_judged():
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, ::2, 1] = 90
    picture[..., 2] = 200
    assert np.array_equal(im.strongest_channel(picture), picture[:, :, 1])


@pytest.mark.parametrize("seed", range(4))
def test_a_bleached_rectangle(seed):
    plane = _fluorescence(seed)
    assert im.bleached_fraction(plane) == 0.0
    plane[90:210, 60:210] = 300 + 0.4 * (plane[90:210, 60:210] - 300)
    assert im.bleached_fraction(plane) == pytest.approx(0.2, rel=0.25)


def test_a_bleached_rectangle_at_the_corner():
    plane = _fluorescence(1)
    plane[:150, 150:] = 300 + 0.4 * (plane[:150, 150:] - 300)
    assert im.bleached_fraction(plane) == pytest.approx(0.25, rel=0.25)


def test_what_is_dim_for_other_reasons_is_not_bleached():
    plane = _fluorescence(2)
    y, x = np.mgrid[:300, :300]
    falloff = 300 + (plane - 300) * np.exp(-((x - 150) ** 2 + (y - 150) ** 2) / 150**2)
    half = plane.copy()
    half[:, :150] = 300 + 0.4 * (half[:, :150] - 300)
    disc = np.where((x - 150) ** 2 + (y - 150) ** 2 < 70**2, 300 + 0.4 * (plane - 300), plane)
    for picture in (falloff, half, disc.astype(np.float32), np.full((300, 300), 7, np.float32)):
        assert im.bleached_fraction(picture.astype(np.float32)) == 0.0


def test_real_fluorescence_is_not_flagged(real_data):
    for marker in ("IgG", "IgA", "IgM", "C3", "C1q"):
        with Image.open(real_data / "if" / f"{marker}.jpg") as image:
            picture = resized(np.asarray(image), 640, 480)
        plane = im.strongest_channel(picture)
        assert np.array_equal(plane, picture[:, :, 1])
        assert im.signal_to_noise(plane, whole_numbers=True) > 20
        assert im.bleached_fraction(plane) == 0.0


# --- electron microscopy ---


def _micrograph(seed=0, size=512):
    """Membranes in all directions, grey cytoplasm, grain."""
    rng = np.random.default_rng(seed)
    waves = gaussian_filter(rng.normal(size=(size, size)), 6.0)
    membranes = np.exp(-((waves / waves.std() % 0.5 - 0.25) ** 2) / 0.002)
    return (170 - 90 * membranes).astype(np.float32)


def _with_grain(plane, seed=0):
    return unit_gray(plane + np.random.default_rng(seed).normal(0, 6, plane.shape))


def _drifted(plane, length, angle):
    steps = np.linspace(-0.5, 0.5, 9) * length
    way = math.sin(angle), math.cos(angle)
    return np.mean([shift(plane, (step * way[0], step * way[1]), mode="nearest") for step in steps], axis=0)


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.2])
def test_drift_smears_one_direction(angle):
    plane = _micrograph()
    limit = Quality().max_drift
    assert tem.drift(_with_grain(plane)) < 0.05 < limit
    assert not tem.drift(_with_grain(gaussian_filter(plane, 2.0))) > limit
    assert limit < tem.drift(_with_grain(_drifted(plane, 6, angle)))


def test_one_straight_wall_is_no_drift():
    plane = np.full((512, 512), 170, np.float32)
    plane[:, 200:240] = 90
    plane[::40, 240:] = 120
    assert not tem.drift(_with_grain(plane)) > Quality().max_drift


def test_drift_cannot_be_told_without_structure():
    noise = np.random.default_rng(0).normal(0.5, 0.1, (512, 512)).astype(np.float32)
    assert not tem.drift(noise) > Quality().max_drift
    assert math.isnan(tem.drift(np.full((512, 512), 0.5, np.float32)))
    assert math.isnan(tem.drift(np.zeros((40, 40), np.float32)))


def _dirt(plane):
    grainy = plane + np.random.default_rng(0).normal(0, 3, plane.shape)
    return tem.contaminated_fraction(unit_gray(grainy), grainy)


def test_dirt_is_black_and_sharp():
    plane = _micrograph()
    y, x = np.mgrid[:512, :512]
    disc = (y - 200) ** 2 + (x - 300) ** 2 < 30**2
    assert _dirt(plane) == 0.0
    assert _dirt(np.where(disc, 5, plane)) == pytest.approx(disc.mean(), rel=0.1)
    assert _dirt(plane * (1 - gaussian_filter(disc.astype(float), 8.0))) < 0.003


def test_the_darkest_of_a_faint_micrograph_is_no_dirt():
    y, x = np.mgrid[:512, :512]
    red_cell = (y - 200) ** 2 + (x - 300) ** 2 < 60**2
    faint = np.where(red_cell, 80, 150 + 0.2 * _micrograph())
    assert (unit_gray(faint)[red_cell] < 0.05).all()
    assert _dirt(faint) == 0.0


def test_blank_is_bright_and_flat():
    plane = _micrograph()
    plane[:256] = 200
    dark = np.where(np.arange(512)[:, None] < 256, 60, _micrograph())
    assert tem.blank_fraction(_with_grain(plane)) == pytest.approx(0.5, abs=0.06)
    assert tem.blank_fraction(_with_grain(dark)) < 0.05
    assert tem.blank_fraction(_with_grain(_micrograph())) < 0.05


def test_real_micrographs_are_clean(real_data):
    for name in ("fpw_good", "fpw_good2", "fpw_okay", "fpw_bad"):
        with Image.open(real_data / "tem" / f"{name}.png") as image:
            gray = resized(np.asarray(image)[:, :, None], 512, 552)[:, :, 0]
        unit = unit_gray(gray)
        assert tem.drift(unit) < 0.05
        assert tem.contaminated_fraction(unit, gray) < Quality().max_contaminated
        assert tem.blank_fraction(unit) < 0.3
        assert tem.drift(unit_gray(_drifted(unit, 8, 0.6))) > Quality().max_drift
