"""What a training tells while it runs."""

from __future__ import annotations

import math

import pytest

from glomflow.training.progress import Reporter, duration


def row(epoch: int, validation: float = math.nan) -> dict[str, float]:
    return {
        "epoch": epoch,
        "learning_rate": 1e-3,
        "train_loss": 1.25 / epoch,
        "validation_loss": validation,
        "validation_accuracy": 2 / 3,
    }


def test_a_line_tells_losses_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    reporter = Reporter("net", 40, clock=lambda: now[0])
    for epoch, seconds in ((1, 30.0), (2, 39.0), (3, 90.0)):
        now[0] = 100.0 + seconds
        reporter.epoch(row(epoch, 0.5))
    assert capsys.readouterr().out.splitlines() == [
        "net: epoch 1/40, train loss 1.2500, validation loss 0.5000, accuracy 0.667, 20 min left at most",
        "net: epoch 3/40, train loss 0.4167, validation loss 0.5000, accuracy 0.667, 18 min left at most",
    ]


def test_a_resumed_training_reckons_from_its_own_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    reporter = Reporter("net", 40, first=37, clock=lambda: now[0])
    now[0] = 20.0
    reporter.epoch(row(38))
    now[0] = 21.0
    reporter.epoch(row(40))
    assert capsys.readouterr().out.splitlines() == [
        "net: epoch 38/40, train loss 0.0329, 40 s left at most",
        "net: epoch 40/40, train loss 0.0312",
    ]


def test_durations() -> None:
    assert [duration(s) for s in (48.4, 700, 11100)] == ["48 s", "12 min", "3 h 05 min"]
