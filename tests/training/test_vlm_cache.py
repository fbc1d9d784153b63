"""Cached tower outputs and activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glomflow.errors import GlomflowError
from glomflow.training.vlm_cache import ActivationCache, module_digest
from vlm_fake import FakeBackbone, crops_of

CROPS = crops_of(torch.arange(10) % 3).numpy()
ROWS = np.array([7, 2, 5])


@pytest.fixture
def backbone() -> FakeBackbone:
    return FakeBackbone()


def test_cached_equals_uncached(backbone: FakeBackbone, tmp_path: Path) -> None:
    pixels = backbone.preprocess(torch.from_numpy(CROPS[ROWS]))
    for folder in (tmp_path, None):
        cache = ActivationCache(folder, batch_size=2)
        features = cache.features(backbone, CROPS, ROWS)
        assert float((features - backbone.image_features(pixels)).abs().max()) < 1e-6
        for block in range(4):
            expected = backbone.vision.run(backbone.vision.stem(pixels), 0, block)
            found = torch.from_numpy(np.array(cache.hidden(backbone, CROPS, block, ROWS)))
            assert float((found - expected).abs().max()) < 1e-6


def test_nothing_is_computed_twice(backbone: FakeBackbone, tmp_path: Path) -> None:
    ActivationCache(tmp_path).hidden(backbone, CROPS, 2)
    cache = ActivationCache(tmp_path)
    found = cache.hidden(backbone, CROPS, 2)
    assert cache.computed == 0
    assert isinstance(found, np.memmap)
    assert found.shape == (10, 4, 16)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize("change", ["weights", "preprocessing", "image", "rows", "block", "output"])
def test_what_matters_makes_another_file(backbone: FakeBackbone, tmp_path: Path, change: str) -> None:
    ActivationCache(tmp_path).hidden(backbone, CROPS, 2, ROWS)
    crops, rows, block = CROPS.copy(), ROWS, 2
    if change == "weights":
        with torch.no_grad():
            next(iter(backbone.vision.blocks[0].parameters()))[0] += 1e-6
    elif change == "preprocessing":
        backbone.preprocessing = "another"
    elif change == "image":
        crops[5, 3, 3, 0] ^= 1
    elif change == "rows":
        rows = ROWS[[1, 0, 2]]
    elif change == "block":
        block = 1
    cache = ActivationCache(tmp_path)
    if change == "output":
        cache.features(backbone, crops, rows)
    else:
        cache.hidden(backbone, crops, block, rows)
    assert cache.computed == 3


def test_an_image_that_is_not_asked_for_changes_nothing(backbone: FakeBackbone, tmp_path: Path) -> None:
    ActivationCache(tmp_path).features(backbone, CROPS, ROWS)
    other = CROPS.copy()
    other[0] = 0
    cache = ActivationCache(tmp_path)
    cache.features(backbone, other, ROWS)
    assert cache.computed == 0


def test_damaged_file_is_named(backbone: FakeBackbone, tmp_path: Path) -> None:
    ActivationCache(tmp_path).features(backbone, CROPS)
    path = next(tmp_path.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(GlomflowError, match=rf"{path.name}.*delete it and run again"):
        ActivationCache(tmp_path).features(backbone, CROPS)


def test_failed_computation_leaves_no_file(backbone: FakeBackbone, tmp_path: Path, monkeypatch) -> None:
    def broken(pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError

    monkeypatch.setattr(backbone.vision, "stem", broken)
    with pytest.raises(RuntimeError):
        ActivationCache(tmp_path).features(backbone, CROPS)
    assert not list(tmp_path.iterdir())


def test_unusable_requests(backbone: FakeBackbone, tmp_path: Path) -> None:
    with pytest.raises(GlomflowError, match="3 blocks, so none numbered 4"):
        ActivationCache(tmp_path).hidden(backbone, CROPS, 4)
    for folder in (tmp_path, None):
        with pytest.raises(GlomflowError, match="no images"):
            ActivationCache(folder).features(backbone, CROPS, np.array([], dtype=np.int64))


def test_digest_of_weights_sees_every_bit(backbone: FakeBackbone) -> None:
    before = module_digest(backbone)
    weight = backbone.text.projection.weight
    kept = weight[0, 0].clone()
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(kept, torch.tensor(9.0))
        assert module_digest(backbone) != before
        weight[0, 0] = kept
    assert module_digest(backbone) == before
