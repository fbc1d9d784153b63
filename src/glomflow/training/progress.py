"""What a training tells about itself while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glomflow.errors import GlomflowError

_SECONDS = 10.0


class Reporter:
    """Prints a line per epoch, the first and the last and otherwise one every ten seconds at most.

    Args:
        name: Name of the model.
        epochs: Most epochs.
        first: Epochs done before, so that the time left is reckoned from those done now.
        scalars: Folder for TensorBoard, or None.
        clock: Seconds from some moment on.

    Raises:
        GlomflowError: Scalars are asked for and TensorBoard is not installed.
    """

    def __init__(
        self,
        name: str,
        epochs: int,
        first: int = 0,
        scalars: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._epochs = epochs
        self._first = first
        self._clock = clock
        self._started = clock()
        self._printed = -math.inf
        self._writer = None if scalars is None else _writer(scalars, first)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Tells about an epoch.

        Args:
            row: Its row of the history.
        """
        done = int(row["epoch"])
        if self._writer is not None:
            for key, value in row.items():
                if key != "epoch" and not math.isnan(value):
                    self._writer.add_scalar(key, value, done)
            self._writer.flush()
        now = self._clock()
        if done not in {1, self._epochs} and now - self._printed < _SECONDS:
            return
        self._printed = now
        line = f"{self._name}: epoch {done}/{self._epochs}, train loss {row['train_loss']:.4f}"
        if not math.isnan(row["validation_loss"]):
            line += f", validation loss {row['validation_loss']:.4f}"
            line += f", accuracy {row['validation_accuracy']:.3f}"
        if done < self._epochs:
            pace = (now - self._started) / max(done - self._first, 1)
            line += f", {duration(pace * (self._epochs - done))} left at most"
        print(line, flush=True)

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None:
            self._writer.close()


def duration(seconds: float) -> str:
    """Writes a time as people say it: ``48 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _writer(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise GlomflowError(
            "diagnosis.training.tensorboard: the package tensorboard is not installed; install the extra "
            "(pip install 'glomflow[tensorboard]') or set tensorboard: false"
        ) from error
    return SummaryWriter(str(folder), purge_step=first + 1)
