"""Optimisers, learning rates and averages."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from glomflow.training.optimisation import Average, amp_type, build_optimiser, rate_at
from training.synthetic import settings


def training(**values: object):
    return settings(learning_rate=1.0, final_learning_rate=0.2, **values).diagnosis.training


def test_the_cosine_goes_from_the_first_to_the_last_epoch() -> None:
    rates = [round(rate_at(epoch, 1, 3, training(epochs=5)), 6) for epoch in range(5)]
    assert rates == [1.0, 0.882843, 0.6, 0.317157, 0.2]


def test_the_rate_rises_step_by_step_and_then_falls() -> None:
    warm = training(epochs=4, warmup_epochs=2)
    rates = [rate_at(epoch, step, 2, warm) for epoch in range(4) for step in range(2)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.2, 0.2])


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_warmup_that_outlasts_the_training_is_refused(epochs: int) -> None:
    with pytest.raises(ValidationError, match=rf"warmup_epochs: 3 of {epochs} epochs leave none at the full"):
        training(epochs=epochs, warmup_epochs=3)
    assert training(epochs=4, warmup_epochs=3).warmup_epochs == 3


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_the_weights_of_the_loss_do_not_decay(name: str, kind: type) -> None:
    module, criterion = nn.Linear(2, 2), nn.Linear(1, 1)
    optimiser = build_optimiser(module, criterion, training(optimiser=name, weight_decay=0.3))
    assert type(optimiser) is kind
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.3, 0.0]
    assert all(group["fused"] for group in optimiser.param_groups)
    assert len(build_optimiser(module, nn.Identity(), training()).param_groups) == 1


def test_an_average_follows_and_is_applied_for_a_while() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = Average([parameter], 0.5)
    for value in (2.0, 3.0):
        parameter.data.fill_(value)
        average.update()
    # Kept: min(0.5, 1/10) and min(0.5, 2/11) of the average.
    expected = (2 / 11) * (0.1 * 1.0 + 0.9 * 2.0) + (9 / 11) * 3.0
    with average.applied():
        assert parameter.item() == pytest.approx(expected)
    assert parameter.item() == 3.0
    other = Average([parameter], 0.5)
    other.load_state_dict(average.state_dict())
    with other.applied():
        assert parameter.item() == pytest.approx(expected)


def test_no_average_is_the_weights_themselves() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = Average([parameter], None)
    average.update()
    with average.applied():
        assert parameter.item() == 1.0
    assert average.state_dict() == {"steps": 0, "values": []}


def test_the_cpu_computes_in_float32() -> None:
    assert amp_type(torch.device("cpu"), "bfloat16") is None
    assert amp_type(torch.device("cuda"), "bfloat16") is torch.bfloat16
    assert amp_type(torch.device("cuda"), "float16") is torch.float16
    assert amp_type(torch.device("cuda"), "float32") is None
