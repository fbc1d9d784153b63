"""Checkpoints that let a killed training go on to the same bits."""

from __future__ import annotations

import functools
import pickle
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from glomflow.files import atomic_path, sha256_file, sha256_json

_CODE_FOLDERS = ("models", "training")
P = TypeVar("P")

_LARGEST_SHARE = 0.05
"""Share of a training's time that may go into writing checkpoints."""

_DAMAGE = (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile)

Observer = Callable[[int], None]
"""Called with the number of steps done, after the checkpoint that was due."""


class Stateful(Protocol):
    """What has a state: modules, optimisers, gradient scalers, averages."""

    def state_dict(self) -> Any:
        """Returns the state: tensors, numbers, strings, and lists and dictionaries of them."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Takes a state over."""


class Checkpoint:
    """The state of one training between steps, in a file that is replaced as a whole.

    Args:
        path: The file.
        digest: What the training depends on, see :func:`training_digest`; a checkpoint of another
            digest is ignored.
        interval: Seconds that must have passed since the last save; more if saving takes long, so that
            it takes a twentieth of the time at most. 0: always due.
    """

    def __init__(self, path: Path, digest: str, *, interval: float = 2.0) -> None:
        self.path = path
        self.digest = digest
        self.interval = interval
        self._saved = time.monotonic()
        self._cost = 0.0

    def due(self) -> bool:
        """Tells whether enough time has passed since the start or the last save."""
        if self.interval == 0.0:
            return True
        return time.monotonic() - self._saved >= max(self.interval, self._cost / _LARGEST_SHARE)

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state.

        Args:
            state: Tensors, numbers, strings, and lists and dictionaries of them.
        """
        started = time.monotonic()
        with atomic_path(self.path) as temporary:
            torch.save({"digest": self.digest, "state": state}, temporary)
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Reads the state.

        Args:
            device: Where tensors go.

        Returns:
            The state, or None if there is none that belongs to this training; a damaged file is reported.
        """
        if not self.path.is_file():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums that it wrote
            if damaged is not None:
                raise ValueError(f"checksum of {damaged} is wrong")
            saved = torch.load(self.path, map_location=device, weights_only=True)
        except _DAMAGE as error:
            print(f"checkpoint {self.path} cannot be read ({error}); starting afresh")
            return None
        if not isinstance(saved, dict) or saved.get("digest") != self.digest:
            print(f"checkpoint {self.path} belongs to other data, settings or code; starting afresh")
            return None
        state: dict[str, Any] = saved["state"]
        return state

    def remove_unfinished(self) -> None:
        """Deletes what a process that was killed while it wrote the file has left beside it."""
        name = re.compile(rf"\.{re.escape(self.path.stem)}-[a-z0-9_]{{8}}{re.escape(self.path.suffix)}")
        for found in self.path.parent.glob(".*"):
            if name.fullmatch(found.name):
                found.unlink(missing_ok=True)

    def remove(self) -> None:
        """Deletes the file, if there is one."""
        self.path.unlink(missing_ok=True)


def training_state(progress: object, parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Returns what a checkpoint holds of a training.

    Args:
        progress: Dataclass of tensors, numbers, and lists and dictionaries of them.
        parts: What changes while training, by name.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    return {"progress": dict(vars(progress)), **state}


def restore(
    checkpoint: Checkpoint, start: P, parts: Mapping[str, Stateful], device: torch.device
) -> tuple[P, bool]:
    """Takes a training up where its checkpoint left it; half-written checkpoints are removed.

    Args:
        checkpoint: The checkpoint; there need be no file.
        start: Progress of a training that has not begun.
        parts: As of :func:`training_state`; their states are overwritten.
        device: Where tensors go.

    Returns:
        The progress, ``start`` if there is no checkpoint of this training; and whether there was one.
    """
    checkpoint.remove_unfinished()
    state = checkpoint.load(device)
    if state is None:
        return start, False
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return type(start)(**state["progress"]), True


@functools.cache
def _code() -> list[list[str]]:
    """Returns names and digests of the library's files for models and training."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted(file for folder in _CODE_FOLDERS for file in (package / folder).rglob("*.py"))
    return [[str(source.relative_to(package)), sha256_file(source)] for source in sources]


def training_digest(settings: Any, files: list[Path]) -> str:
    """Returns a digest of what a training depends on.

    Args:
        settings: JSON-serialisable settings and tables.
        files: Input files; their size and time of change enter.

    Returns:
        64 hexadecimal digits, over the settings, the files, this library's code for models and
        training, and torch's version.
    """
    stats = [file.stat() for file in files]
    return sha256_json(
        {
            "settings": settings,
            "files": [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)],
            "code": _code(),
            "torch": torch.__version__,
        }
    )
