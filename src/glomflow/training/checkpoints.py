"""Checkpoints that let a killed training go on to the same bits."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glomflow.files import atomic_path, sha256_file, sha256_json

_CODE_FOLDERS = ("models", "training")


class Checkpoint:
    """The state of one training between epochs, in a file that is replaced as a whole.

    Args:
        path: The file.
        digest: What the training depends on, see :func:`training_digest`; a checkpoint of another
            digest is ignored.
        interval: Seconds that must have passed since the last save.
    """

    def __init__(self, path: Path, digest: str, *, interval: float = 2.0) -> None:
        self.path = path
        self.digest = digest
        self.interval = interval
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Tells whether enough time has passed since the start or the last save."""
        return time.monotonic() - self._saved >= self.interval

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state.

        Args:
            state: Tensors, numbers, strings, and lists and dictionaries of them.
        """
        with atomic_path(self.path) as temporary:
            torch.save({"digest": self.digest, "state": state}, temporary)
        self._saved = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Reads the state.

        Args:
            device: Where tensors go.

        Returns:
            The state, or None if there is none that belongs to this training.
        """
        if not self.path.is_file():
            return None
        try:
            saved = torch.load(self.path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            print(f"checkpoint {self.path} cannot be read ({error}); starting afresh")
            return None
        if not isinstance(saved, dict) or saved.get("digest") != self.digest:
            print(f"checkpoint {self.path} belongs to other data, settings or code; starting afresh")
            return None
        state: dict[str, Any] = saved["state"]
        return state

    def remove(self) -> None:
        """Deletes the file, if there is one."""
        self.path.unlink(missing_ok=True)


def training_digest(settings: Any, files: list[Path]) -> str:
    """Returns a digest of what a training depends on.

    Args:
        settings: JSON-serialisable settings and tables.
        files: Input files; their size and time of change enter.

    Returns:
        64 hexadecimal digits, over the settings, the files, this library's code for models and
        training, and torch's version.
    """
    package = Path(__file__).resolve().parents[1]
    sources = sorted(file for folder in _CODE_FOLDERS for file in (package / folder).rglob("*.py"))
    stats = [file.stat() for file in files]
    return sha256_json(
        {
            "settings": settings,
            "files": [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)],
            "code": [[str(source.relative_to(package)), sha256_file(source)] for source in sources],
            "torch": torch.__version__,
        }
    )


Observer = Callable[[int], None]
"""Called with the number of epochs done, after the checkpoint of an epoch."""
