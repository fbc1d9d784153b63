"""Focus, tissue, saturation, and what an image is measured from."""

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from glomflow.config_quality import Quality
from glomflow.imaging.quality import (
    Views,
    focus,
    is_blank,
    judge,
    measure,
    saturated_fraction,
    tissue_fraction,
    views,
)
from glomflow.imaging.quality.flags import RULES
from glomflow.imaging.quality.focus import noise_sd, unit_gray
from glomflow.imaging.readers import open_image
from glomflow.tables import INVENTORY


def _texture(seed=0, size=200, sigma=1.0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), sigma)
    return (128 + 40 * noise / noise.std()).clip(0, 255)[:, :, None]


def _measured(path, modality="TEM", um_per_px=math.nan, settings=None):
    with open_image(path) as reader:
        found = Views(reader)
        return measure(found, found.thumbnail(64), modality, um_per_px, settings or Quality())


# --- focus ---


def test_focus_falls_with_blur():
    sharp = _texture()
    values = [focus(gaussian_filter(sharp, (sigma, sigma, 0)).astype(np.uint8)) for sigma in (0, 1, 2)]
    assert values[0] > 3 * values[1] > 9 * values[2] > 0


def test_focus_does_not_depend_on_the_range_of_the_type():
    sharp = _texture()
    assert focus((sharp * 257).astype(np.uint16)) == pytest.approx(focus(sharp.astype(np.uint8)), rel=0.02)


@pytest.mark.parametrize("size", [(20, 20), (1, 1), (2, 9)])
def test_focus_of_a_constant_is_nought(size):
    assert focus(np.full((*size, 3), 9, np.uint8)) == 0.0


@pytest.mark.parametrize("kind", ["normal", "uniform", "poisson"])
def test_noise_is_no_focus(kind):
    rng = np.random.default_rng(3)
    draws = {
        "normal": lambda: rng.normal(100, 12, (300, 300, 1)),
        "uniform": lambda: rng.uniform(0, 255, (300, 300, 1)),
        "poisson": lambda: rng.poisson(50, (300, 300, 1)),
    }
    assert focus(draws[kind]()) < 0.002


def test_noise_does_not_sharpen_a_blurred_picture():
    sharp = _texture(size=400, sigma=2.0)
    soft = gaussian_filter(sharp, (4, 4, 0))
    soft = 128 + (soft - soft.mean()) * sharp.std() / soft.std()
    noise = np.random.default_rng(1).normal(0, 10, soft.shape)
    assert focus(sharp) > 0.003
    assert focus(sharp + noise) > 0.002
    assert focus(soft + noise) < 0.0005


@pytest.mark.parametrize("sd", [0.02, 0.1])
def test_noise_is_estimated_beside_edges(sd):
    plane = np.zeros((300, 300), np.float32)
    plane[:, 100:] = 1.0
    plane[150:] += 0.5
    noisy = plane + np.random.default_rng(0).normal(0, sd, plane.shape).astype(np.float32)
    assert noise_sd(plane) == 0.0
    assert noise_sd(noisy) == pytest.approx(sd, rel=0.05)


def test_unit_gray_ends_at_the_percentiles():
    gray = unit_gray(np.arange(10_001, dtype=np.uint16).reshape(1, -1, 1))
    assert (gray.min(), gray.max()) == (0.0, 1.0)
    assert gray[0, 5000] == pytest.approx(0.5, abs=1e-4)
    assert gray[0, 49] == 0.0
    assert gray[0, 60] > 0.0


# --- blank, tissue, saturation ---


@pytest.mark.parametrize("fill", [0, 255, 77])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_constant_images_are_blank(fill, dtype):
    assert is_blank(np.full((5, 6, 3), fill, dtype))


def test_one_channel_with_content_is_not_blank():
    picture = np.zeros((5, 6, 3), np.uint8)
    picture[2, 2, 1] = 1
    assert not is_blank(picture)


def test_an_image_of_missing_samples_is_blank():
    assert is_blank(np.full((5, 6, 1), np.nan, np.float32))


def test_om_tissue_is_what_absorbs_light():
    picture = np.full((10, 10, 3), 240, np.uint8)
    picture[:3] = (180, 90, 160)
    assert tissue_fraction(picture, "OM") == pytest.approx(0.3)


def test_padding_of_a_slide_is_not_tissue():
    picture = np.full((10, 10, 3), 240, np.uint8)
    picture[:3] = (180, 90, 160)
    picture[5:] = 0
    assert tissue_fraction(picture, "OM") == pytest.approx(0.3)


def test_om_tissue_of_sixteen_bit_colour():
    picture = np.full((10, 10, 3), 62000, np.uint16)
    picture[:, :4] = 20000
    assert tissue_fraction(picture, "OM") == pytest.approx(0.4)


def test_im_signal_is_what_shines():
    picture = np.random.default_rng(0).integers(0, 300, (40, 50, 5)).astype(np.uint16)
    picture[:10, :, 2] += 20000
    assert tissue_fraction(picture, "IM") == pytest.approx(0.25)


@pytest.mark.parametrize("level", [0, 3])
def test_a_black_im_image_has_no_signal(level):
    picture = np.random.default_rng(0).integers(0, level + 1, (40, 50, 3)).astype(np.uint8)
    assert tissue_fraction(picture, "IM") == 0.0


def test_tem_blank_share_is_flat():
    picture = _texture().astype(np.uint8)
    picture[:, 100:] = 235
    assert tissue_fraction(picture, "TEM") == pytest.approx(0.5, abs=0.03)


def test_saturation_counts_both_ends():
    pixels = np.full((40, 60, 1), 100, np.uint8)
    pixels[:10] = 255
    pixels[-10:] = 0
    assert saturated_fraction(pixels) == 0.5
    assert math.isnan(saturated_fraction(np.eye(9, dtype=np.float32)[:, :, None]))


# --- scales ---


@pytest.fixture
def field(tmp_path):
    pixels = np.full((400, 600), 100, np.uint8)
    pixels[:, 300:] = _texture(size=400)[:, :300, 0]
    Image.fromarray(pixels).save(tmp_path / "field.png")
    return tmp_path / "field.png"


@pytest.mark.parametrize(
    ("modality", "um_per_px", "expected"),
    [("OM", 0.5, 1.0), ("OM", 2.5, 2.5), ("IM", 0.5, 1.0), ("TEM", 0.005, 0.02), ("TEM", 0.03, 0.03)],
)
def test_focus_is_read_at_the_scale_of_the_modality(field, modality, um_per_px, expected):
    assert _measured(field, modality, um_per_px).focus_um_per_px == pytest.approx(expected)


def test_focus_is_read_from_the_thumbnail_where_the_pixel_size_is_unknown(field):
    quality = _measured(field)
    assert math.isnan(quality.focus_um_per_px)
    with open_image(field) as reader:
        assert quality.focus == pytest.approx(focus(Views(reader).thumbnail(64)), rel=1e-6)


def test_focus_of_the_same_field_at_two_pixel_sizes_agrees(tmp_path):
    coarse = _texture(size=256).astype(np.uint8)[:, :, 0]
    Image.fromarray(coarse).save(tmp_path / "coarse.png")
    Image.fromarray(np.kron(coarse, np.ones((2, 2), np.uint8))).save(tmp_path / "fine.png")
    values = [
        _measured(tmp_path / name, "TEM", um).focus for name, um in (("coarse.png", 0.02), ("fine.png", 0.01))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_measures_that_do_not_apply_are_missing(field):
    missing = {
        modality: {name for name, value in vars(_measured(field, modality, um)).items() if math.isnan(value)}
        for modality, um in (("OM", 1.0), ("IM", 1.0), ("TEM", 0.02))
    }
    om = {"pen_fraction", "fold_fraction"}
    im = {"signal_to_noise", "overexposed_fraction", "bleached_fraction"}
    tem = {"drift", "contaminated_fraction", "blank_fraction"}
    assert missing == {"OM": im | tem, "IM": om | tem, "TEM": om | im}


def test_an_image_is_decoded_once(field, monkeypatch):
    with open_image(field) as reader:
        boxes = []
        decode = reader._decode
        monkeypatch.setattr(reader, "_decode", lambda *box: boxes.append(box) or decode(*box))
        found = Views(reader)
        measure(found, found.thumbnail(64), "OM", 0.5, Quality())
    assert boxes == [(0, 0, 0, 600, 400)]


def test_thumbnail_of_views_is_that_of_the_reader(field):
    with open_image(field) as reader:
        ours, theirs = Views(reader).thumbnail(60), reader.thumbnail(60)
    assert ours.shape == theirs.shape == (40, 60, 1)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint16, 1), (np.uint16, 5), (np.float32, 2)])
def test_other_types_are_averaged_in_their_own_type(dtype, channels):
    picture = np.zeros((8, 12, channels), dtype)
    picture[:, ::2] = 1000
    small = views.resized(picture, 3, 2)
    assert small.dtype == dtype
    assert small.shape == (2, 3, channels)
    assert (small == 500).all()


@pytest.fixture
def slide(tmp_path, monkeypatch):
    """A "large" image: 2000 x 1500 px, its tissue in the lower right quarter; whole reads are off."""
    monkeypatch.setattr(views, "WHOLE_SAMPLES", 1000)
    monkeypatch.setattr(views, "OVERVIEW_PIXELS", 40_000)
    pixels = np.full((1500, 2000, 3), 240, np.uint8)
    grain = _texture(size=1000, sigma=3.0)[:750] - 128
    pixels[750:, 1000:] = (np.array((180, 100, 160)) + grain).clip(0, 190)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(256, 256), photometric="rgb")
    return tmp_path / "slide.tif"


def test_regions_of_a_large_image_lie_on_its_tissue(slide, monkeypatch):
    monkeypatch.setattr(views, "PATCH", 64)
    with open_image(slide) as reader:
        found = Views(reader)
        picture = found.thumbnail(100)
        regions = found.at_scale(2.0, (picture[:, :, 1] < 200).astype(float), whole_up_to=1000)
        again = found.at_scale(2.0, (picture[:, :, 1] < 200).astype(float), whole_up_to=1000)
    assert len(regions) == views.PATCHES == 9
    assert all(region.shape == (64, 64, 3) for region in regions)
    assert all((region[:, :, 1] < 200).mean() >= 0.49 for region in regions)
    assert all(np.array_equal(*pair) for pair in zip(regions, again, strict=True))


def test_a_large_image_is_not_read_whole_at_full_resolution(slide, monkeypatch):
    monkeypatch.setattr(views, "PATCH", 64)
    monkeypatch.setattr("glomflow.imaging.quality.FOCUS_PIXELS", 1000)
    sizes = []
    with open_image(slide) as reader:
        read = reader.read_region
        monkeypatch.setattr(reader, "read_region", lambda *box: sizes.append(box[4:]) or read(*box))
        found = Views(reader)
        quality = measure(found, found.thumbnail(100), "OM", 0.5, Quality())
    assert sizes[0] == (231, 173)
    assert sizes[1:] == [(1024, 1024)] + [(64, 64)] * 9
    assert quality.focus > 0


# --- flags ---


GOOD = {rule.column: 0.5 if rule.below else 0.0 for rule in RULES} | {
    "signal_to_noise": 50.0,
    "focus_um_per_px": 1.0,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.flag)
def test_every_flag_has_a_column_a_key_and_a_threshold(rule):
    assert rule.column in INVENTORY
    for modality, key in rule.keys.items():
        scale = {"focus_um_per_px": 0.02} if modality == "TEM" else {}
        threshold = getattr(Quality(), key)
        step = -1e-9 if rule.below else 1e-9
        (finding,) = judge(GOOD | scale | {rule.column: threshold + step}, modality, Quality())
        assert (finding.flag, finding.key) == (rule.flag, f"imaging.quality.{key}")
        assert judge(GOOD | scale | {rule.column: threshold}, modality, Quality()) == []
        assert judge(GOOD | scale | {rule.column: math.nan}, modality, Quality()) == []


def test_a_finding_names_value_threshold_and_key():
    (finding,) = judge(GOOD | {"pen_fraction": 0.0345}, "OM", Quality())
    assert str(finding) == "pen_fraction 0.0345 is above 0.002 (imaging.quality.max_pen)"


@pytest.mark.parametrize(
    ("scale", "flags"), [(1.0, ["blurred"]), (1.5, ["blurred"]), (1.6, []), (math.nan, [])]
)
def test_focus_of_another_scale_is_not_held_against_the_threshold(scale, flags):
    found = judge(GOOD | {"focus": 0.0, "focus_um_per_px": scale}, "OM", Quality())
    assert [finding.flag for finding in found] == flags


# --- real images ---


def _real(folder: Path, name: str, modality: str, um_per_px: float):
    with open_image(folder / name) as reader:
        found = Views(reader)
        return measure(found, found.thumbnail(384), modality, um_per_px, Quality())


def test_focus_ranks_graded_micrographs(real_data):
    good, good2, okay, bad = (
        _real(real_data, f"tem/fpw_{grade}.png", "TEM", 0.01).focus
        for grade in ("good", "good2", "okay", "bad")
    )
    assert min(good, good2) > 1.5 * okay > 1.5 * bad


@pytest.mark.parametrize(
    ("name", "um_per_px", "least"),
    [
        ("kidney_01_he", 0.5, 0.01),
        ("kidney_03_jones_silver", 0.5, 0.01),
        ("kidney_37_ihc", 0.5, 0.01),
    ],
)
def test_real_fields_lose_focus_as_they_are_blurred(real_data, tmp_path, name, um_per_px, least):
    with Image.open(real_data / "stains" / f"{name}.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    values = []
    for sigma in (0, 1, 2, 4):
        soft = gaussian_filter(pixels, (sigma / um_per_px, sigma / um_per_px, 0)) if sigma else pixels
        Image.fromarray(soft.astype(np.uint8)).save(tmp_path / "soft.png")
        values.append(_real(tmp_path, "soft.png", "OM", um_per_px).focus)
    assert values[0] > least > values[2]
    assert values == sorted(values, reverse=True)
    assert values[0] > Quality().min_focus_om > values[2]
