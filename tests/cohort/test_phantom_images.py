"""What the phantom draws."""

from __future__ import annotations

import numpy as np
import pytest

from glomflow.cohort.phantom.captions import LESIONS
from glomflow.cohort.phantom.factors import CLASSES, NONDIAGNOSTIC
from glomflow.cohort.phantom.fields import (
    draw_outline,
    nucleus_stamps,
    paste,
    smooth_noise,
    tessellate,
)
from glomflow.cohort.phantom.glomerulus import draw_glomerulus
from glomflow.cohort.phantom.im import MARKERS, draw_immunofluorescence
from glomflow.cohort.phantom.om import draw_field
from glomflow.cohort.phantom.sites import SITES, site_named
from glomflow.cohort.phantom.tem import Micrograph, draw_micrograph, draw_strip, tissue_shape

APPEARANCES = (*CLASSES, NONDIAGNOSTIC)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([1, *seed])


def test_smooth_noise() -> None:
    noise = smooth_noise(rng(), (300, 500), 6)
    assert noise.shape == (300, 500)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(0.55 * 1.65, rel=0.08)
    assert np.abs(np.diff(noise, axis=0)).max() < 1.6


def test_tessellation_finds_the_nearest_seed() -> None:
    y, x = np.meshgrid(np.arange(40, dtype=np.float32), np.arange(60, dtype=np.float32), indexing="ij")
    cells = tessellate(rng(), x, y, 11.0, 0.25)
    apart = np.hypot(x[..., None] - cells.seeds[:, 0], y[..., None] - cells.seeds[:, 1])
    np.testing.assert_array_equal(cells.owner, apart.argmin(axis=-1))
    np.testing.assert_allclose(cells.distance, apart.min(axis=-1), atol=1e-3)
    assert cells.border.min() >= 0
    assert cells.border.dtype == np.float32


def test_outline_closes_and_keeps_its_mean_radius() -> None:
    outline = draw_outline(rng(), 80.0, (2, 3, 4), 0.06)
    radius = np.hypot(*outline.polygon(720).T)
    assert radius.mean() == pytest.approx(80, rel=0.01)
    assert radius.min() > 70
    assert radius.max() < 90


def test_stamps_are_cut_at_the_edge() -> None:
    stamps = nucleus_stamps(rng(), 2, 3.0, 2.0, 1.0)
    canvas = np.zeros((12, 12), np.float32)
    paste(canvas, stamps, np.array([[0, 0], [11, 5], [40, 40]], np.float32), np.array([0, 1, 0]))
    assert canvas[0, 0] > 0.5
    assert canvas[5, 11] > 0.5
    assert canvas[11, 0] == 0


@pytest.mark.parametrize("lesion", LESIONS)
def test_glomeruli_fit_a_crop(lesion: str) -> None:
    section = draw_glomerulus(rng(), 1.0, 170.0, lesion, NONDIAGNOSTIC)
    assert section.pas.shape == section.haematoxylin.shape == section.cover.shape
    assert section.pas.shape[0] % 2 == 1
    assert 140 < np.ptp(section.outline, axis=0).max() < 200
    assert section.cover[0].max() == 0


def test_lesions_differ_in_matrix_and_nuclei() -> None:
    drawn = {lesion: draw_glomerulus(rng(), 1.0, 170.0, lesion, NONDIAGNOSTIC) for lesion in LESIONS}
    matrix = {lesion: section.pas[section.cover > 0.9].mean() for lesion, section in drawn.items()}
    nuclei = {lesion: section.haematoxylin[section.cover > 0.9].mean() for lesion, section in drawn.items()}
    assert matrix["globally_sclerotic"] > 2 * matrix["normal"]
    assert matrix["segmentally_sclerotic"] > 1.15 * matrix["normal"]
    assert nuclei["crescentic"] > 1.15 * nuclei["normal"]
    assert nuclei["globally_sclerotic"] < nuclei["normal"]


def test_diseases_differ_in_matrix_and_nuclei() -> None:
    drawn = {a: draw_glomerulus(rng(), 1.0, 170.0, "normal", a) for a in APPEARANCES}
    matrix = {a: s.pas[s.cover > 0.9].mean() for a, s in drawn.items()}
    nuclei = {a: s.haematoxylin[s.cover > 0.9].mean() for a, s in drawn.items()}
    assert matrix["IgAN"] > 1.5 * matrix[NONDIAGNOSTIC]
    assert matrix["MN"] > 1.3 * matrix[NONDIAGNOSTIC]
    assert nuclei["LN"] > 1.7 * nuclei[NONDIAGNOSTIC]


def test_global_sclerosis_hides_the_disease() -> None:
    drawn = [draw_glomerulus(rng(), 1.0, 170.0, "globally_sclerotic", a).pas.mean() for a in APPEARANCES]
    assert max(drawn) < 1.05 * min(drawn)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_field(site) -> None:
    lesions = ["normal", "ischaemic", "crescentic", "normal"]
    field = draw_field(rng(), site, "MN", lesions)
    height, width = field.rgb.shape[:2]
    assert field.rgb.dtype == np.uint8
    assert 1100 <= min(height, width) <= max(height, width) <= 1500
    assert len(field.outlines) == len(lesions)
    for outline in field.outlines:
        assert outline.min() > 0
        assert (outline < (width, height)).all()
        assert 130 < np.ptp(outline, axis=0).mean() * site.om_um_per_px < 205
    white = (field.rgb > 225).all(axis=-1).mean()
    assert 0.05 < white < 0.5


@pytest.mark.parametrize(
    ("appearance", "strong", "weak"),
    [
        ("MN", ["IgG"], ["IgA", "IgM", "C1q"]),
        ("IgAN", ["IgA"], ["IgG", "IgM", "C1q"]),
        ("LN", ["IgG", "IgA", "IgM", "C3", "C1q"], []),
        (NONDIAGNOSTIC, [], ["IgG", "IgA", "IgM", "C3", "C1q"]),
    ],
)
def test_immunofluorescence(appearance: str, strong: list[str], weak: list[str]) -> None:
    channels = draw_immunofluorescence(rng(), site_named("site_b"), appearance)
    assert channels.shape == (5, 448, 448)
    assert channels.dtype == np.uint16
    bright = dict(zip(MARKERS, np.percentile(channels.reshape(5, -1), 99, axis=1) / 65535, strict=True))
    assert all(0.18 < bright[marker] < 0.6 for marker in strong)
    assert all(bright[marker] < 0.14 for marker in weak)


def micrograph(appearance: str, stage: str | None, view: str, *, deposits: bool, seed: int = 0) -> Micrograph:
    site = SITES[seed % 3]
    return draw_micrograph(rng(seed), site, view, deposits=deposits, appearance=appearance, stage=stage)


@pytest.mark.parametrize("view", ["capillary", "mesangium"])
def test_images_without_deposits_say_nothing_of_the_disease(view: str) -> None:
    drawn = [
        micrograph(appearance, stage, view, deposits=False).image
        for appearance, stage in [("MN", "I"), ("MN", "III"), ("IgAN", None), (NONDIAGNOSTIC, None)]
    ]
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)


@pytest.mark.parametrize("view", ["capillary", "mesangium"])
def test_nondiagnostic_deposits_do_not_depend_on_the_stage(view: str) -> None:
    first, second = (micrograph(NONDIAGNOSTIC, stage, view, deposits=True).image for stage in (None, "III"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("appearance", "stage", "view"),
    [
        ("MN", "I", "capillary"),
        ("MN", "II", "mesangium"),
        ("MN", "III", "capillary"),
        ("IgAN", None, "mesangium"),
        ("LN", None, "capillary"),
        ("LN", None, "mesangium"),
        (NONDIAGNOSTIC, None, "capillary"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_deposits_are_dark_and_large_enough(appearance: str, stage: str | None, view: str, seed: int) -> None:
    from scipy import ndimage

    drawn = micrograph(appearance, stage, view, deposits=True, seed=seed)
    site = SITES[seed]
    assert drawn.mask is not None
    assert drawn.mask.shape == drawn.image.shape
    height, width = tissue_shape(site)
    tissue, mask = drawn.image[:height], drawn.mask[:height]
    assert not drawn.mask[height:].any()
    assert np.median(tissue[mask]) < 0.7 * np.percentile(tissue[~mask], 20)
    labels, count = ndimage.label(mask)
    sizes = [
        max(part.stop - part.start for part in window) * site.tem_nm_per_px
        for window in ndimage.find_objects(labels)
    ]
    assert count >= 1
    assert max(sizes) >= 240
    margin = round((height - 4480 / site.tem_nm_per_px) / 2)
    centre = mask[margin : height - margin, (width - height) // 2 + margin : (width + height) // 2 - margin]
    assert centre.sum() > 0.7 * mask.sum()


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_strip_holds_a_bar_of_the_stated_length(site) -> None:
    height, width = tissue_shape(site)
    assert 4600 <= height * site.tem_nm_per_px <= 5200
    assert 4900 <= width * site.tem_nm_per_px <= 5600
    strip = draw_strip(site, width)
    assert strip.shape == (site.strip_px, width)
    ink = strip if site.strip_dark else 65535 - strip
    middle = ink[site.strip_px // 2] == 65535
    first = int(middle.argmax())
    length = int((~middle[first:]).argmax())
    assert length == round(site.bar_nm / site.tem_nm_per_px)
    assert (ink[:, first + length + 5 :] > 0).any()


def test_micrographs_differ_by_image() -> None:
    first, second = (micrograph("MN", "I", "capillary", deposits=False, seed=seed).image for seed in (0, 3))
    assert first.shape == second.shape
    assert (first != second).mean() > 0.5
