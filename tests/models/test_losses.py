"""Losses: terms against their definitions and torch's, learned weights, and steps cut into parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from glomflow import config
from glomflow.models.losses import Criterion, balanced_weights
from glomflow.models.outputs import Outputs

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-3.0, 1.0, 4.0], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 0, 2])
PRESENT = torch.tensor([True, True, False, True])


def outputs(**logits: torch.Tensor) -> Outputs:
    given = logits or {"fusion": LOGITS, "OM": -LOGITS}
    return Outputs(given, {name: PRESENT if name == "OM" else PRESENT | True for name in given})


def criterion(heads: tuple[str, ...] = ("fusion",), **options: object) -> Criterion:
    weights = options.pop("class_weights", None)
    return Criterion(config.Loss.model_validate(options), heads, weights)  # type: ignore[arg-type]


def test_plain_terms_are_torchs_cross_entropy() -> None:
    ours = criterion().per_patient(outputs(), LABELS)
    torch.testing.assert_close(ours[0], functional.cross_entropy(LOGITS, LABELS, reduction="none"))


def test_smoothed_terms_are_torchs() -> None:
    ours = criterion(label_smoothing=0.2).per_patient(outputs(), LABELS)
    theirs = functional.cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(ours[0], theirs)


def test_classes_weigh_as_in_torch() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0])
    ours = criterion(class_weights=weights).per_patient(outputs(), LABELS)
    torch.testing.assert_close(ours[0], functional.cross_entropy(LOGITS, LABELS, weights, reduction="none"))


def test_focal_terms() -> None:
    # p = 1/4 for the right one of two classes: (3/4)^2 log 4.
    logits = torch.tensor([[0.0, math.log(3.0)]])
    one = Outputs({"fusion": logits}, {"fusion": torch.ones(1, dtype=torch.bool)})
    losses = criterion(focal_gamma=2.0).per_patient(one, torch.tensor([0]))
    assert float(losses) == pytest.approx(0.75**2 * math.log(4.0), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_where_the_patient_is_certain(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    head = Outputs({"fusion": logits}, {"fusion": torch.ones(2, dtype=torch.bool)})
    losses = criterion(focal_gamma=gamma).per_patient(head, torch.tensor([0, 0]))
    losses.sum().backward()
    assert losses[0].tolist() == pytest.approx([0.0, 200.0])
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_heads_are_weighted_and_absent_patients_left_out() -> None:
    loss = criterion(("fusion", "OM", "extra"), fusion=2.0, OM=0.5, other=0.25)
    given = outputs(fusion=LOGITS, OM=-LOGITS, extra=LOGITS)
    fusion = functional.cross_entropy(LOGITS, LABELS)
    branch = functional.cross_entropy(-LOGITS[PRESENT], LABELS[PRESENT])
    torch.testing.assert_close(loss(given, LABELS), 2.25 * fusion + 0.5 * branch)
    assert loss.per_patient(given, LABELS)[1, 2] == 0.0
    assert loss.counts(given).tolist() == [4, 3, 4]


def test_summed_loss_adds_patients_up() -> None:
    loss = Criterion(config.Loss(), ("fusion",), summed=True)
    torch.testing.assert_close(
        loss(outputs(), LABELS), functional.cross_entropy(LOGITS, LABELS, reduction="sum")
    )


def test_learned_weights_start_from_the_configured_ones() -> None:
    heads = ("fusion", "OM")
    learned = criterion(heads, weighting="uncertainty", fusion=1.0, OM=0.3)
    fixed = criterion(heads, fusion=1.0, OM=0.3)
    torch.testing.assert_close(torch.exp(-learned.log_variances), torch.tensor([1.0, 0.3]))
    expected = fixed(outputs(), LABELS) - 0.5 * math.log(0.3)
    torch.testing.assert_close(learned(outputs(), LABELS), expected)
    torch.testing.assert_close(learned.eval()(outputs(), LABELS), fixed(outputs(), LABELS))


def test_learned_weights_settle_at_twice_the_loss() -> None:
    """The minimum of exp(-s) L + s / 2 is at exp(s) = 2 L."""
    loss = criterion(("fusion", "OM"), weighting="uncertainty")
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        loss(outputs(), LABELS).backward()
        optimiser.step()
    terms = torch.stack(
        [
            functional.cross_entropy(LOGITS, LABELS),
            functional.cross_entropy(-LOGITS[PRESENT], LABELS[PRESENT]),
        ]
    )
    torch.testing.assert_close(loss.log_variances.exp(), 2.0 * terms, rtol=1e-3, atol=1e-3)


def test_heads_without_weight_or_patients_learn_none() -> None:
    loss = criterion(("fusion", "OM", "IM"), weighting="uncertainty", IM=0.0)
    given = outputs(fusion=LOGITS, OM=LOGITS, IM=LOGITS)
    given.present["OM"] = torch.zeros(4, dtype=torch.bool)
    loss(given, LABELS).backward()
    assert loss.log_variances.grad is not None
    assert loss.log_variances.grad[1:].tolist() == [0.0, 0.0]
    assert loss.log_variances.grad[0] != 0.0


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_parts_of_a_step_add_up_to_it(weighting: str) -> None:
    loss = criterion(("fusion", "OM"), weighting=weighting, focal_gamma=1.0)
    whole = outputs()
    parts = [
        Outputs(
            {name: values[rows] for name, values in whole.logits.items()},
            {name: values[rows] for name, values in whole.present.items()},
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    counts = loss.counts(whole)
    losses = [
        loss.combine(loss.per_patient(part, labels), counts, share=len(labels) / 4)
        for part, labels in zip(parts, (LABELS[:1], LABELS[1:]), strict=True)
    ]
    torch.testing.assert_close(losses[0] + losses[1], loss(whole, LABELS))


def test_balanced_weights_average_to_one_over_the_patients() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 3])
    weights = balanced_weights(labels, 4)
    assert weights.tolist() == pytest.approx([6 / 9, 1.0, 0.0, 2.0])
    assert float(weights[labels].mean()) == pytest.approx(1.0)
