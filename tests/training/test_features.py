"""Cached features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.encoders import build_encoder, preprocess
from glomflow.tables import CROPS, write_table
from glomflow.training import features
from glomflow.training.features import encode_store, resolve_device
from training.synthetic import crop_row

SETTINGS = config.Encoder(name="resnet10t", weights="random", batch_size=2)


def make_crops(folder: Path, count: int, size: int = 64) -> tuple[Path, Path]:
    npy, index = folder / "tem.npy", folder / "tem.parquet"
    np.save(npy, np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8))
    rows = [crop_row("TEM", row, 0, row, True) for row in range(count)]
    write_table(index, pd.DataFrame(rows, columns=list(CROPS)), CROPS)
    return npy, index


def test_rows_are_the_encoders_maps_in_half_precision(tmp_path: Path) -> None:
    npy, index = make_crops(tmp_path, 5)
    encode_store(npy, index, SETTINGS, tmp_path / "f.npy", device="cpu")
    cached = np.load(tmp_path / "f.npy", allow_pickle=False)
    assert (cached.shape, cached.dtype) == ((5, 2, 2, 512), np.float16)
    with torch.no_grad():
        expected = build_encoder(SETTINGS)(preprocess(np.load(npy), SETTINGS.mean, SETTINGS.std))
    np.testing.assert_allclose(cached, expected.numpy(), rtol=2e-3, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "tem.npy", "tem.parquet"]


def test_maps_of_two_encoders_differ_in_shape_only_where_the_encoders_do(tmp_path: Path) -> None:
    npy, index = make_crops(tmp_path, 2)
    vit = config.Encoder(name="vit_tiny_patch16_224", weights="random", options={"img_size": 64})
    encode_store(npy, index, SETTINGS, tmp_path / "f.npy", device="cpu")
    encode_store(npy, index, vit, tmp_path / "vit.npy", device="cpu")
    assert np.load(tmp_path / "f.npy").shape == (2, 2, 2, 512)
    assert np.load(tmp_path / "vit.npy").shape == (2, 4, 4, 192)


def test_an_empty_store_gives_an_empty_array(tmp_path: Path) -> None:
    encode_store(*make_crops(tmp_path, 0), SETTINGS, tmp_path / "f.npy", device="cpu")
    assert np.load(tmp_path / "f.npy").shape == (0, 2, 2, 512)


def test_another_image_size_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    settings = config.Encoder(name="swin_tiny_patch4_window7_224", weights="random")
    with pytest.raises(GlomflowError, match="takes images of 224x224 px, the crops are 64x64"):
        encode_store(*make_crops(tmp_path, 1), settings, tmp_path / "f.npy", device="cpu")
    assert not (tmp_path / "f.npy").exists()


def test_features_that_are_not_finite_name_the_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        features, "_encode", lambda _, crops, *rest: np.full((len(crops), 2, 2, 512), np.inf, np.float16)
    )
    with pytest.raises(
        GlomflowError, match=r"resnet10t gives features beyond float16's range for crop TEM-p00"
    ):
        encode_store(*make_crops(tmp_path, 3), SETTINGS, tmp_path / "f.npy", device="cpu")


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(GlomflowError, match="device 'cuda': torch sees no GPU here; use 'cpu' or 'auto'"):
        resolve_device("cuda")
