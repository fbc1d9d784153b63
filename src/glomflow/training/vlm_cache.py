"""What a frozen tower makes of images, computed once: its outputs, or the states before one of its blocks.

A file is named by a digest of everything that it depends on: the tower's weights, the preprocessing, the
images' bytes, the place where the tower is cut. Another weight, resize or image makes another file; nothing
is ever out of date.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.files import atomic_path, sha256_json, write_json
from glomflow.imaging.crop_store import new_array
from glomflow.models.trained_weights import tensors_digest

_HASH_BLOCK = 64


class Crops(Protocol):
    """Images of one size: an array or a memory map (n, H, W, 3) uint8."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, 3)."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Returns some of the images."""


def module_digest(module: nn.Module) -> str:
    """Returns the SHA-256 of a module's parameters and buffers: names, types, shapes and bits."""
    return tensors_digest(module.state_dict())


def crops_digest(crops: Crops, rows: NDArray[np.int64]) -> str:
    """Returns the SHA-256 of some of the images, block by block."""
    digest = hashlib.sha256(f"{tuple(crops.shape[1:])}|{len(rows)}|".encode())
    for start in range(0, len(rows), _HASH_BLOCK):
        digest.update(np.ascontiguousarray(crops[rows[start : start + _HASH_BLOCK]]).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Wanted:
    """What is to be computed; its digest names the file."""

    weights: str
    preprocessing: str
    data: str
    images: int
    block: int | None

    @property
    def key(self) -> str:
        return sha256_json(self.__dict__)[:32]


class ActivationCache:
    """Computes and keeps what frozen image towers give.

    Args:
        folder: Where files go; None: nothing is kept on disk.
        batch_size: Images per forward pass.
    """

    def __init__(self, folder: Path | None, *, batch_size: int = 16) -> None:
        self.folder = folder
        self.batch_size = batch_size
        self._digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self.computed = 0

    def features(self, backbone: Any, crops: Crops, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Returns the unit features of images.

        Args:
            backbone: The frozen model.
            crops: (n, H, W, 3) uint8.
            rows: Which of them; all if None.

        Returns:
            (len(rows), D) float32 on the CPU.

        Raises:
            GlomflowError: A file of the cache is damaged; the message names it.
        """
        outputs = self._get(backbone, crops, rows, None)
        return functional.normalize(torch.from_numpy(np.array(outputs)), dim=-1)

    def hidden(
        self, backbone: Any, crops: Crops, block: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Returns the state of the image tower before a block.

        Args:
            backbone: The frozen model.
            crops: (n, H, W, 3) uint8.
            block: Block before which the tower is cut; 0: after the patch embedding.
            rows: Which images; all if None.

        Returns:
            (len(rows), tokens, width) float32, a memory map if there is a folder.

        Raises:
            GlomflowError: There is no such block, or a file is damaged.
        """
        depth = len(backbone.vision.blocks)
        if not 0 <= block <= depth:
            raise GlomflowError(
                f"{backbone.name}: the image tower has {depth} blocks, so none numbered {block}"
            )
        return self._get(backbone, crops, rows, block)

    def _get(
        self, backbone: Any, crops: Crops, rows: NDArray[np.int64] | None, block: int | None
    ) -> NDArray[np.float32]:
        places = np.arange(crops.shape[0]) if rows is None else np.asarray(rows, dtype=np.int64)
        if self.folder is None:
            return np.concatenate(list(self._batches(backbone, crops, places, block)))
        if backbone.vision not in self._digests:
            self._digests[backbone.vision] = module_digest(backbone.vision)
        wanted = _Wanted(
            self._digests[backbone.vision],
            f"{backbone.preprocessing!r} {backbone.image_size}",
            crops_digest(crops, places),
            len(places),
            block,
        )
        path = self.folder / f"{wanted.key}.npy"
        if not path.is_file():
            self._write(path, backbone, crops, places, block)
            write_json(path.with_suffix(".json"), {"backbone": backbone.name, **wanted.__dict__})
        return _opened(path, len(places))

    def _write(
        self, path: Path, backbone: Any, crops: Crops, places: NDArray[np.int64], block: int | None
    ) -> None:
        with atomic_path(path) as temporary:
            store: Any = None
            start = 0
            for batch in self._batches(backbone, crops, places, block):
                if store is None:
                    shape = (len(places), *batch.shape[1:])
                    store = new_array(temporary, np.float32, shape)
                store[start : start + len(batch)] = batch
                start += len(batch)
            if store is None:
                raise GlomflowError("vlm cache: there are no images")
            store.flush()

    @torch.no_grad()
    def _batches(self, backbone: Any, crops: Crops, places: NDArray[np.int64], block: int | None) -> Any:
        """Yields float32 arrays, batch by batch."""
        if not len(places):
            raise GlomflowError("vlm cache: there are no images")
        device = backbone.logit_scale.device
        for start in range(0, len(places), self.batch_size):
            own = places[start : start + self.batch_size]
            pixels = backbone.preprocess(torch.from_numpy(np.array(crops[own])).to(device))
            hidden = backbone.vision.stem(pixels)
            result = (
                backbone.vision.tail(hidden, 0) if block is None else backbone.vision.run(hidden, 0, block)
            )
            self.computed += len(own)
            yield result.float().cpu().numpy()


def _opened(path: Path, count: int) -> NDArray[np.float32]:
    try:
        found: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GlomflowError(f"{path}: cannot be read ({error}); delete it and run again") from error
    if found.dtype != np.float32 or len(found) != count:
        raise GlomflowError(
            f"{path}: holds {found.dtype} {found.shape} for {count} images; delete it and run again"
        )
    return found
