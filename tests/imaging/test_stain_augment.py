import math

import numpy as np
import pytest
import torch

from glomflow.errors import GlomflowError
from glomflow.imaging.stain import optical_density, rgb_to_lab
from glomflow.imaging.stain.augment import DRAWS, STAINS, augment_batch, augment_stains, stain_changes

WHITE = (256.0, 256.0, 256.0)


def picture(seed=0, shape=(32, 40)):
    """Tissue of haematoxylin and eosin beside glass (the left quarter)."""
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.2, 1.5, (*shape, 2))
    amounts[:, : shape[1] // 4] = 0
    return np.rint(256 * np.exp(-amounts @ STAINS[:2]) - 1).astype(np.uint8)


def noise(seed=0, shape=(24, 24)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_strength_0_gives_the_image_itself():
    image = picture()
    assert augment_stains(image, np.random.default_rng(0), 0.0) is image
    batch = torch.from_numpy(image[None])
    assert augment_batch(batch, torch.Generator(), 0.0) is batch


def test_a_vanishing_strength_changes_no_sample():
    for image in (picture(), noise()):
        assert np.array_equal(augment_stains(image, np.random.default_rng(0), 1e-7), image)


def test_the_same_seed_gives_the_same_image_and_another_seed_another():
    image = picture()
    first, again, other = (augment_stains(image, np.random.default_rng(seed), 1.0) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_draws_are_taken_at_any_strength():
    """So that what follows does not depend on the strength."""
    generators = [np.random.default_rng(5) for _ in range(2)]
    augment_stains(picture(), generators[0], 0.0)
    augment_stains(picture(), generators[1], 1.0)
    assert generators[0].random() == generators[1].random()


def test_glass_stays_glass_and_tissue_changes():
    image = picture()
    white = np.full((8, 8, 3), 255, np.uint8)
    for seed in range(20):
        changed = augment_stains(image, np.random.default_rng(seed), 1.0)
        assert (changed[:, :10] == 255).all()
        assert np.abs(changed[:, 10:].astype(int) - image[:, 10:]).mean() > 1
        assert np.array_equal(augment_stains(white, np.random.default_rng(seed), 1.0), white)


def test_one_stains_amount_is_scaled_as_drawn():
    draws = np.zeros((1, DRAWS))
    draws[0, 0] = 1.0
    mixes, shifts = stain_changes(draws, 1.0)
    assert shifts.tolist() == [[0.0, 0.0, 0.0]]
    amounts = np.array([0.4, 0.9, 0.2])
    expected = amounts * [math.exp(0.35), 1, 1]
    assert np.allclose(amounts @ STAINS @ mixes[0] @ np.linalg.inv(STAINS), expected, atol=1e-6)


def test_amounts_are_shifted_as_drawn():
    draws = np.zeros((1, DRAWS))
    draws[0, 4] = -1.0
    mixes, shifts = stain_changes(draws, 0.5)
    assert np.allclose(mixes[0], np.eye(3), atol=1e-6)
    assert np.allclose(shifts[0], -0.03 * STAINS[1], atol=1e-7)


def test_stain_vectors_turn_by_a_few_degrees_and_keep_unit_length():
    draws = np.random.default_rng(0).uniform(-1, 1, (500, DRAWS))
    draws[:, :6] = 0
    mixes, _ = stain_changes(draws, 1.0)
    vectors = STAINS @ mixes
    assert np.allclose(np.linalg.norm(vectors, axis=2), 1, atol=1e-5)
    angles = np.degrees(np.arccos(np.clip((vectors * STAINS).sum(2), -1, 1)))
    assert 2 < angles.mean() < 6
    assert angles.max() < 9


def test_any_image_gives_an_image():
    odd = {
        "white": np.full((6, 6, 3), 255, np.uint8),
        "black": np.zeros((6, 6, 3), np.uint8),
        "one pixel": np.array([[[255, 0, 0]]], np.uint8),
        "empty": np.zeros((0, 5, 3), np.uint8),
        "noise": noise(),
    }
    with np.errstate(all="raise", under="ignore"):
        for image in odd.values():
            for strength in (0.3, 1.0, 3.0, 50.0):
                changed = augment_stains(image, np.random.default_rng(1), strength)
                assert changed.dtype == np.uint8
                assert changed.shape == image.shape
    black = augment_stains(odd["black"], np.random.default_rng(1), 1.0)
    assert black.max() < 30


def test_structure_is_kept():
    image = picture()
    before = rgb_to_lab(image)[..., 0].ravel()
    for seed in range(20):
        after = rgb_to_lab(augment_stains(image, np.random.default_rng(seed), 1.0))[..., 0].ravel()
        assert np.corrcoef(before, after)[0, 1] > 0.97


def test_torch_and_numpy_do_the_same():
    images = np.stack([picture(seed) for seed in range(4)] + [noise(shape=(32, 40))])
    batch = augment_batch(torch.from_numpy(images), torch.Generator().manual_seed(9), 1.0).numpy()
    draws = torch.rand(5, DRAWS, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    class Drawn:
        def __init__(self, numbers):
            self.numbers = numbers

        def uniform(self, low, high, size):
            assert (low, high, size) == (-1.0, 1.0, (1, DRAWS))
            return self.numbers[None]

    for image, changed, numbers in zip(images, batch, 2 * draws.numpy() - 1, strict=True):
        expected = augment_stains(image, Drawn(numbers), 1.0)
        differing = np.abs(expected.astype(int) - changed)
        assert differing.max() <= 1
        assert (differing > 0).mean() < 1e-3


def test_images_of_a_batch_are_drawn_apart():
    images = torch.from_numpy(np.stack([picture()] * 3))
    changed = augment_batch(images, torch.Generator().manual_seed(0), 1.0)
    assert (changed[0] != changed[1]).float().mean() > 0.3
    again = augment_batch(images, torch.Generator().manual_seed(0), 1.0)
    assert torch.equal(changed, again)


def test_the_amount_of_light_taken_is_what_changes():
    """A scale of 1 for all stains and no turn is exactly Beer and Lambert's law."""
    draws = np.zeros((1, DRAWS))
    draws[0, :3] = 1.0
    mixes, _ = stain_changes(draws, 1.0)
    density = optical_density(picture(), WHITE)
    assert np.allclose(density @ mixes[0], density * math.exp(0.35), atol=1e-5)


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf])
def test_impossible_strengths_are_refused(strength):
    expected = "the strength of stain augmentation is .*; give a number of at least 0, such as 0.5"
    with pytest.raises(GlomflowError, match=expected):
        augment_stains(picture(), np.random.default_rng(0), strength)
    with pytest.raises(GlomflowError, match=expected):
        augment_batch(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.Generator(), strength)


def test_other_pictures_are_refused():
    with pytest.raises(GlomflowError, match="expects 8-bit RGB, uint8 of shape"):
        augment_stains(np.zeros((4, 4, 4), np.uint8), np.random.default_rng(0), 1.0)
    with pytest.raises(
        GlomflowError, match=r"a batch of 8-bit RGB, .*not torch.float32 of shape \(1, 2, 2, 3\)"
    ):
        augment_batch(torch.zeros(1, 2, 2, 3), torch.Generator(), 1.0)
