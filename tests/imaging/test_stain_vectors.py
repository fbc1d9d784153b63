"""Stain vectors: exact percentiles, three stains, sparse factorisation."""

import numpy as np
import pytest

from glomflow.config import Stain
from glomflow.errors import GlomflowError
from glomflow.imaging.stain import StainProfile, estimate_profile, normalise, normalise_image
from glomflow.imaging.stain.density import density_table, flat_pixels, tissue_mask, tissue_of
from glomflow.imaging.stain.parallel import in_threads, thread_count
from glomflow.imaging.stain.statistics import amount_percentiles, angle_percentiles, tissue_pixels
from glomflow.imaging.stain.vahadane import dictionary_vectors
from glomflow.imaging.stain.vectors import ordered
from imaging.stain_pictures import THREE, three_stains, two_stains

WHITE = (240.0, 240.0, 240.0)
METHODS = ["macenko", "vahadane"]


@pytest.mark.parametrize("shape", [(96, 96, 3), (7, 9, 3), (400, 301, 3)])
@pytest.mark.parametrize("percentile", [1.0, 10.0, 49.0])
def test_percentiles_are_those_of_all_pixels(shape, percentile):
    pixels = flat_pixels(np.random.default_rng(1).integers(30, 230, shape, dtype=np.uint8))
    table = density_table(WHITE)
    density = np.stack([table[channel][pixels[:, channel]] for channel in range(3)], axis=1)
    axes, _ = np.linalg.qr(np.array([[0.6, 0.5], [0.7, -0.4], [0.4, 0.1]]))
    axes *= np.sign(density.mean(axis=0) @ axes)
    angles = np.arctan2(density @ axes[:, 1], density @ axes[:, 0])
    expected = np.percentile(angles, [percentile, 100 - percentile])
    assert np.allclose(angle_percentiles(pixels, table, axes, percentile, 2), expected, rtol=0, atol=1e-12)
    weights = np.array([[1.2, -0.4, 0.3], [-0.1, 0.9, 0.2], [0.3, 0.3, 0.3]])
    for stains in (1, 2, 3):
        found = amount_percentiles(pixels, table, weights[:stains], 100 - percentile, 2)
        top = np.percentile(density @ weights[:stains].T, 100 - percentile, axis=0)
        assert found == pytest.approx(top, abs=1e-12)


def test_angles_past_the_right_angle_are_told_apart():
    # Levels above the white level have negative density: these pixels lie behind the axes' origin.
    generator = np.random.default_rng(2)
    pixels = flat_pixels(generator.choice(np.array([90, 250], np.uint8), (4000, 3)))
    table = density_table((120.0, 120.0, 120.0))
    axes = np.linalg.qr(np.array([[0.6, 0.5], [0.7, -0.4], [0.4, 0.1]]))[0]
    density = np.stack([table[channel][pixels[:, channel]] for channel in range(3)], axis=1)
    angles = np.arctan2(density @ axes[:, 1], density @ axes[:, 0])
    assert np.abs(angles).max() > 2
    expected = np.percentile(angles, [1, 99])
    assert np.allclose(angle_percentiles(pixels, table, axes, 1.0, 1), expected, rtol=0, atol=1e-12)


def test_tissue_pixels_are_those_of_the_mask():
    picture = np.random.default_rng(3).integers(0, 256, (70, 300, 3), dtype=np.uint8)
    picture[:5] = 3
    mask = tissue_mask(picture, (250.0, 230.0, 210.0), 0.2)
    density = -np.log((picture + 1.0) / [250.0, 230.0, 210.0])
    assert np.array_equal(mask, (density >= 0.2).all(axis=2) & (picture > 5).any(axis=2))
    kept = tissue_pixels(flat_pixels(picture), tissue_of((250.0, 230.0, 210.0), 0.2), 2)
    assert np.array_equal(kept, picture[mask])


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_results_do_not_depend_on_the_number_of_threads(method, monkeypatch):
    monkeypatch.setattr("glomflow.imaging.stain.parallel.LEAST_PARTS", 1)
    picture = two_stains(size=(300, 301))
    chosen = Stain.model_construct(**{**Stain().model_dump(), "method": method})
    profiles = [estimate_profile(picture, chosen, threads=threads) for threads in (1, 2, 5)]
    assert profiles[0] == profiles[1] == profiles[2]
    target = estimate_profile(two_stains(seed=9, strength=0.7), chosen)
    results = [normalise(picture, profiles[0], target, threads=threads) for threads in (1, 2, 5)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], picture)


@pytest.mark.parametrize(("parts", "workers"), [(0, 1), (15, 1), (16, 2), (25, 3), (1000, 4)])
def test_small_images_are_left_to_one_thread(parts, workers):
    done = np.zeros(parts, int)
    names = set()

    def work(worker, first, last):
        names.add(worker)
        done[first:last] += 1

    assert in_threads(work, parts, 4) == workers
    assert names == set(range(workers))
    assert np.array_equal(done, np.ones(parts))


@pytest.mark.parametrize(("stated", "expected"), [("3", 3), ("2,1", 2), ("0", None), ("many", None)])
def test_threads_are_the_jobs_allowance(monkeypatch, stated, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert thread_count(4) == 4
    assert thread_count(0) == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3, 4, 5, 6}, raising=False)
    assert thread_count() == (expected or 7)


@pytest.mark.parametrize("method", METHODS)
def test_three_stains_are_found_and_put_in_the_order_wanted(method):
    chosen = Stain(method=method)
    wanted = tuple(map(tuple, THREE[[2, 0, 1]]))
    profile = estimate_profile(three_stains(), chosen, stains=3, background=WHITE, initial=wanted)
    assert profile.flag == ""
    assert profile.stains == 3
    cosines = (np.array(profile.matrix) * np.array(wanted)).sum(axis=1)
    assert cosines.min() > {"macenko": 0.998, "vahadane": 0.97}[method]
    assert np.linalg.norm(profile.matrix, axis=1) == pytest.approx([1, 1, 1])
    alone = estimate_profile(three_stains(), chosen, stains=3, background=WHITE)
    assert [row[0] for row in alone.matrix] == sorted((row[0] for row in alone.matrix), reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_three_stains_are_matched_to_their_target(method):
    chosen = Stain(method=method)
    wanted = tuple(map(tuple, THREE))
    target = estimate_profile(three_stains(strength=0.7), chosen, stains=3, background=WHITE, initial=wanted)
    result, source = normalise_image(three_stains(seed=1), target, chosen)
    assert source.stains == 3
    after = estimate_profile(result, chosen, stains=3, background=WHITE, initial=wanted)
    assert np.abs(np.array(after.concentrations) / target.concentrations - 1).max() < 0.06
    assert np.abs(np.array(source.concentrations) / target.concentrations - 1).min() > 0.25


@pytest.mark.parametrize("method", METHODS)
def test_two_stains_give_no_three(method):
    # Two stains and no noise: the third axis has no variance.
    flag = estimate_profile(two_stains(), Stain(method=method), stains=3).flag
    assert flag == "tissue has two colours only; three stains cannot be told apart"


@pytest.mark.parametrize("seed", [0, 1])
def test_vahadane_finds_the_vectors_that_a_picture_was_made_with(seed):
    vectors = np.array([[0.65, 0.70, 0.29], [0.27, 0.75, 0.60]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    profile = estimate_profile(two_stains(vectors, seed=seed), Stain(method="vahadane"), background=WHITE)
    assert (np.array(profile.matrix) * vectors).sum(axis=1).min() > 0.99
    assert profile.matrix[0][0] > profile.matrix[1][0]
    assert np.min(profile.matrix) >= 0


def test_a_dictionary_is_better_than_its_start_and_the_same_each_time():
    generator = np.random.default_rng(0)
    density = generator.gamma(1.5, 0.4, (5000, 2)) @ np.array([[0.7, 0.65, 0.3], [0.2, 0.9, 0.4]])
    found = [dictionary_vectors(density, 2, None) for _ in range(2)]
    assert np.array_equal(found[0], found[1])
    start = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    start /= np.linalg.norm(start, axis=1, keepdims=True)

    def cost(vectors):
        gram, wanted = vectors @ vectors.T, density @ vectors.T - 0.1
        amounts = np.zeros((5000, 2))
        for _ in range(200):
            for stain in (0, 1):
                rest = amounts @ gram[stain] - amounts[:, stain]
                amounts[:, stain] = np.maximum(wanted[:, stain] - rest, 0)
        return ((density - amounts @ vectors) ** 2).sum() / 2 + 0.1 * amounts.sum()

    assert cost(found[0]) < 0.99 * cost(start)
    for stain in (0, 1):
        for change in np.eye(3) * 0.01:
            moved = found[0].copy()
            moved[stain] = np.maximum(moved[stain] + change, 0)
            moved[stain] /= np.linalg.norm(moved[stain])
            assert cost(found[0]) <= cost(moved) + 1e-3


def test_collinear_vectors_are_flagged():
    matrix, flag = ordered(np.array([[0.6, 0.7, 0.39], [0.61, 0.7, 0.38]]), None)
    assert matrix[0][0] == 0.61
    assert flag == "stain vectors are collinear (condition number 143)"


@pytest.mark.parametrize(
    ("stains", "initial", "message"),
    [
        (4, None, "2 or 3 stains, not 4; set stains to 2 or 3"),
        (1, None, "2 or 3 stains, not 1; set stains to 2 or 3"),
        (
            3,
            ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
            r"have shape \(2, 3\), \(3, 3\) is expected; give",
        ),
    ],
)
def test_other_numbers_of_stains_are_refused(stains, initial, message):
    with pytest.raises(GlomflowError, match=message):
        estimate_profile(two_stains(), Stain(), stains=stains, initial=initial)


def test_profiles_of_two_and_three_stains_are_not_mixed():
    source = StainProfile(
        "macenko", "S1", matrix=((0.6, 0.7, 0.4), (0.2, 0.8, 0.5)), concentrations=(1.0, 1.0)
    )
    target = StainProfile("macenko", "T", matrix=tuple(map(tuple, THREE)), concentrations=(1.0, 1.0, 1.0))
    expected = "slide 'S1' has 2 stain vectors, the target 3; estimate both with the same number of stains"
    with pytest.raises(GlomflowError, match=expected):
        normalise(two_stains(), source, target)
