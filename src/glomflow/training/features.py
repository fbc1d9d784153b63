"""Encoder features, computed once and cached beside the crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import atomic_path
from glomflow.imaging.crop_store import new_array, read_store
from glomflow.models.encoders import Encoder, build_encoder, preprocess
from glomflow.training.seeds import deterministic


def encode_store(
    npy: Path,
    parquet: Path,
    settings: config.Encoder,
    out: Path,
    *,
    device: str = "auto",
    threads: int = 1,
    offline: bool = True,
) -> None:
    """Encodes every crop of a store with the frozen encoder.

    Args:
        npy: Crops, uint8 (N, H, W, C).
        parquet: Their index (CROPS).
        settings: The encoder's section of the configuration.
        out: Feature maps, float16 (N, h, w, C) ``.npy``, rows as in the store; N may be 0.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        offline: Never reach for the internet.

    Raises:
        GlomflowError: The encoder cannot be built or takes another image size, the store's files do
            not fit each other, or a feature is not finite in float16 (the message names the crop).
    """
    crops, index = read_store(npy, parquet)
    names = index["crop"].tolist()
    target = resolve_device(device)
    with deterministic(threads):
        encoder = build_encoder(settings, offline=offline).to(target).eval()
        encoder.check_size(*crops.shape[1:3])
        shape = (len(crops), *encoder.grid(crops.shape[1]), encoder.channels)
        with atomic_path(out) as temporary:
            features = new_array(temporary, np.float16, shape)
            for start in range(0, len(crops), settings.batch_size):
                rows = slice(start, start + settings.batch_size)
                maps = _encode(encoder, np.array(crops[rows]), settings, target)
                _check_finite(maps, names[rows], settings.name)
                features[rows] = maps
            features.flush()
    print(f"{len(crops)} crops of {npy} encoded by {settings.name}: {shape[1]}x{shape[2]}x{shape[3]} each")


@torch.inference_mode()
def _encode(
    encoder: Encoder, crops: np.ndarray, settings: config.Encoder, device: torch.device
) -> np.ndarray:
    images = torch.from_numpy(crops).to(device)
    maps: Tensor = encoder(preprocess(images, settings.mean, settings.std))
    values: np.ndarray = maps.half().cpu().numpy()
    return values


def _check_finite(maps: np.ndarray, names: list[str], encoder: str) -> None:
    bad = ~np.isfinite(maps).all(axis=(1, 2, 3))
    if bad.any():
        first = names[int(np.argmax(bad))]
        raise GlomflowError(
            f"encoder.name: {encoder} gives features beyond float16's range for crop {first}; "
            "look at the crop, or choose other encoder.weights"
        )


def resolve_device(device: str) -> torch.device:
    """Turns ``auto`` into ``cuda`` where there is a GPU and ``cpu`` elsewhere.

    Raises:
        GlomflowError: ``cuda`` is asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise GlomflowError(f"device '{device}': torch sees no GPU here; use 'cpu' or 'auto'")
    return torch.device(device)
