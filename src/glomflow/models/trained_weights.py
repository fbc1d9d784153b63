"""Trained weights in a safetensors file that carries the digest of its tensors, so that damage is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from glomflow.errors import GlomflowError
from glomflow.files import atomic_path

_KEY = "sha256"


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors of any shape, atomically.

    Args:
        path: The safetensors file.
        tensors: The tensors by name.
    """
    own = {name: value.contiguous().cpu() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(own, temporary, metadata={_KEY: tensors_digest(own)})


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads what :func:`save_weights` wrote, onto the CPU; a file without a digest is taken as it is.

    Raises:
        GlomflowError: The file cannot be read, or its tensors are not those that were written.
    """
    try:
        with safe_open(path, "pt") as handle:
            expected = (handle.metadata() or {}).get(_KEY)
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise GlomflowError(
            f"{path}: cannot be loaded ({error}); delete the weights and train again"
        ) from error
    if expected is not None and tensors_digest(tensors) != expected:
        raise GlomflowError(
            f"{path}: the weights do not have the digest that they were written with, the file is damaged; "
            "delete the weights and train again"
        )
    return tensors


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of tensors: names, types, shapes and bits, whatever device they are on."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        own = value.detach().cpu().contiguous()
        digest.update(f"{name} {own.dtype} {tuple(own.shape)}\n".encode())
        digest.update(own.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
