"""What the finder learns from: prepared fields and the patches drawn from them."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glomflow.errors import GlomflowError
from glomflow.imaging.annotations import Outline
from glomflow.training.finder_data import PatchSource, PreparedField, prepare_field
from glomflow.training.finder_types import FinderField
from training.finder_synthetic import circle, draw, field, settings


def source(fields: list[PreparedField], **training: object) -> PatchSource:
    return PatchSource(fields, settings(training=training).training, 7)


def test_a_field_is_prepared_at_the_resolution_of_the_finder(tmp_path: Path) -> None:
    picture = draw(160, 120, [(80, 60, 40)])
    Image.fromarray(picture).save(tmp_path / "field.png")
    outlines = (circle(80, 60, 40), circle(500, 60, 30))
    given = FinderField("a", tmp_path / "field.png", 1.0, outlines)
    prepared = prepare_field(given, 2.0, tmp_path)
    assert prepared.canvas.shape == (60, 80, 5)
    assert prepared.centres.tolist() == [[40.0, 30.0]]
    assert int((prepared.canvas[..., 3] == 255).sum()) == pytest.approx(np.pi * 20**2, rel=0.06)
    middle = picture.reshape(60, 2, 80, 2, 3).mean(axis=(1, 3))
    assert np.abs(prepared.canvas[..., :3] - middle).max() <= 0.5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["field.png"]


def test_the_distance_falls_from_the_middle_to_the_outline(tmp_path: Path) -> None:
    prepared = prepare_field(field("a", [(64, 64, 30)]), 2.0, tmp_path)
    profile = prepared.canvas[64, :, 4]
    assert profile[64] >= 240
    assert int(profile[49]) == pytest.approx(135, abs=8)
    assert profile[34] < 25
    assert profile[30] == 0


def test_discs_that_touch_have_a_distance_each(tmp_path: Path) -> None:
    prepared = prepare_field(field("a", [(34, 64, 30), (94, 64, 30)]), 2.0, tmp_path)
    row = prepared.canvas[64, :, 4]
    assert min(row[34], row[94]) >= 240
    assert row[64] < 40


def test_a_cut_glomerulus_has_no_outline_at_the_border(tmp_path: Path) -> None:
    prepared = prepare_field(field("a", [(0, 64, 30)]), 2.0, tmp_path)
    assert prepared.canvas[64, 0, 4] >= 240


def test_a_box_stands_for_the_ellipse_in_it(tmp_path: Path) -> None:
    corners = np.array([[20.0, 40], [100, 40], [100, 90], [20, 90]])
    given = FinderField("a", draw(128, 128, []), 2.0, (Outline(corners, is_box=True),))
    mask = prepare_field(given, 2.0, tmp_path).canvas[..., 3]
    assert int((mask == 255).sum()) == pytest.approx(np.pi * 40 * 25, rel=0.06)
    assert mask[42, 22] == 0


def test_threads_do_not_change_a_batch(tmp_path: Path) -> None:
    drawn = source([prepare_field(field("a", [(40, 40, 20)]), 2.0, tmp_path)])
    batches = []
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as pool:
            batches.append(drawn.batch("step", 3, count=6, changed=True, pool=pool))
            batches.append(drawn.batch("step", 4, count=6, changed=True, pool=pool))
    assert np.array_equal(batches[0][0], batches[2][0])
    assert np.array_equal(batches[0][1], batches[2][1])
    assert not np.array_equal(batches[0][0], batches[1][0])


@pytest.mark.parametrize("edge", [128, 48])
def test_targets_follow_their_images(tmp_path: Path, edge: int) -> None:
    """The field's green channel is its own target, so that each must still be the other's."""
    prepared = prepare_field(field("a", [(20, 24, 14)], edge), 2.0, tmp_path)
    prepared.canvas[..., 0] = prepared.canvas[..., 3]
    prepared.canvas[..., 1] = prepared.canvas[..., 4]
    drawn = source([prepared], stain=0.0, colour=0.0, scale=1.5, glomeruli=1.0)
    with ThreadPoolExecutor(1) as pool:
        images, targets = drawn.batch("step", 1, count=12, changed=True, pool=pool)
    assert images.shape == (12, 64, 64, 3)
    assert np.array_equal(images[..., :2], targets)
    assert all(target[..., 0].max() == 255 for target in targets)


def test_colours_change_and_outlines_do_not(tmp_path: Path) -> None:
    prepared = prepare_field(field("a", [(64, 64, 30)], 64), 2.0, tmp_path)
    plain = source([prepared], stain=0.0, colour=0.0, scale=1.0)
    bright = source([prepared], stain=1.0, colour=0.3, scale=1.0)
    with ThreadPoolExecutor(1) as pool:
        before = plain.batch("step", 1, count=4, changed=True, pool=pool)
        after = bright.batch("step", 1, count=4, changed=True, pool=pool)
    assert np.array_equal(before[1], after[1])
    differences = np.abs(before[0].astype(int) - after[0]).mean(axis=(1, 2, 3))
    assert differences.min() > 2


def test_patches_are_drawn_around_glomeruli_and_off_glass(tmp_path: Path) -> None:
    picture = np.full((600, 600, 3), 250, np.uint8)
    picture[:128, :128] = draw(128, 128, [(64, 64, 20)])
    prepared = prepare_field(FinderField("a", picture, 2.0, (circle(64, 64, 20),)), 2.0, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        around = source([prepared], glomeruli=1.0).batch("v", count=20, changed=False, pool=pool)
        anywhere = source([prepared], glomeruli=0.0).batch("v", count=200, changed=False, pool=pool)
    assert all(target.max() == 255 for target in around[1])
    tissue = (anywhere[0].min(axis=3) < 220).any(axis=(1, 2)).mean()
    assert tissue > 0.2  # blind draws would meet it in 0.06 at most


def test_fields_without_a_glomerulus_teach_nothing(tmp_path: Path) -> None:
    empty = [prepare_field(field(name, []), 2.0, tmp_path) for name in "ab"]
    message = "none of the 2 annotated images that it should learn from shows a glomerulus"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        source(empty)
