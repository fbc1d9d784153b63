"""Drawn pictures of stained tissue, and of what has no stain profile."""

import numpy as np

VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def two_stains(vectors=VECTORS, size=(96, 96), white=240.0, seed=0, strength=1.0):
    """A picture of two stains with known vectors: pure, mixed and stain-free pixels."""
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.3, 1.5, (*size, 2)) * strength
    amounts[:, : size[1] // 4, 0] = 0
    amounts[:, size[1] // 4 : size[1] // 2, 1] = 0
    amounts[: size[0] // 8] = 0
    return np.clip(np.rint(white * np.exp(-amounts @ vectors) - 1), 0, 255).astype(np.uint8)


def noisy_flat():
    noise = np.random.default_rng(0).normal((180, 120, 170), 2, (64, 64, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def nearly_empty(tissue_pixels):
    picture = np.full((64, 64, 3), 245, np.uint8)
    picture.reshape(-1, 3)[:tissue_pixels] = two_stains().reshape(-1, 3)[-tissue_pixels:]
    return picture


def two_colours():
    picture = np.full((64, 64, 3), (120, 60, 110), np.uint8)
    picture[::2] = (180, 120, 170)
    return picture


def grey_ramp():
    ramp = np.random.default_rng(3).integers(20, 200, (64, 64, 1))
    jitter = np.random.default_rng(4).integers(0, 6, (64, 64, 3))
    return (ramp + jitter).astype(np.uint8)


ODD = {
    "blank": np.full((64, 64, 3), 255, np.uint8),
    "glass": np.full((64, 64, 3), 243, np.uint8),
    "black": np.zeros((64, 64, 3), np.uint8),
    "flat": np.full((64, 64, 3), (150, 80, 140), np.uint8),
    "flat with noise": noisy_flat(),
    "two colours": two_colours(),
    "5 tissue pixels": nearly_empty(5),
    "199 tissue pixels": nearly_empty(199),
    "one white pixel": np.full((1, 1, 3), 255, np.uint8),
    "one tissue pixel": np.full((1, 1, 3), (150, 80, 140), np.uint8),
}


THREE = np.array([[0.75, 0.55, 0.36], [0.25, 0.70, 0.67], [0.30, 0.92, 0.25]])
THREE /= np.linalg.norm(THREE, axis=1, keepdims=True)


def three_stains(seed=0, edge=160, strength=1.0):
    """Pure, mixed and stain-free pixels of three known vectors, white level 240."""
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.7, 1.5, (edge, edge, 3)) * strength
    for stain in range(3):
        others = [other for other in range(3) if other != stain]
        amounts[stain * edge // 4 : (stain + 1) * edge // 4, :, others] *= 0.02
    amounts[:, :10] = 0
    return np.clip(np.rint(240.0 * np.exp(-amounts @ THREE) - 1), 0, 255).astype(np.uint8)
