"""Heads: proportional odds against its definition, far out, and the published fusion head's layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from glomflow.models.heads import OrdinalHead, fusion_head, linear_head


def head_of(thresholds: list[float]) -> OrdinalHead:
    head = OrdinalHead(1, len(thresholds) + 1)
    gaps = torch.tensor(thresholds).diff() - 1e-4
    with torch.no_grad():
        head.severity.weight.fill_(1.0)
        head.first.fill_(thresholds[0])
        head.gaps.copy_(torch.log(torch.expm1(gaps)))
    return head


def test_probabilities_are_differences_of_cumulative_ones() -> None:
    head = head_of([-1.0, 0.5, 2.0])
    severity = torch.tensor([[0.0], [1.5]])
    cumulative = torch.sigmoid(torch.tensor([[-1.0, 0.5, 2.0]]) - severity)
    edges = torch.cat([torch.zeros(2, 1), cumulative, torch.ones(2, 1)], 1)
    torch.testing.assert_close(head(severity).exp(), edges.diff(dim=1))
    # sigmoid(-1), sigmoid(0.5) - sigmoid(-1), sigmoid(2) - sigmoid(0.5), 1 - sigmoid(2)
    expected = torch.tensor([0.26894142, 0.35351789, 0.25833773, 0.11920292])
    torch.testing.assert_close(head(torch.zeros(1, 1)).exp()[0], expected)


def test_log_probabilities_are_their_own_log_softmax() -> None:
    head = OrdinalHead(5, 4)
    values = head(3.0 * torch.randn(6, 5))
    torch.testing.assert_close(torch.log_softmax(values, 1), values)


def test_classes_are_equally_probable_to_begin_with() -> None:
    for classes in (2, 3, 5):
        values = OrdinalHead(3, classes)(torch.zeros(1, 3))
        torch.testing.assert_close(values.exp()[0], torch.full((classes,), 1.0 / classes))


def test_far_out_values_and_gradients_are_finite() -> None:
    head = head_of([-1.0, 0.0, 1.0])
    severity = torch.tensor([[-1e4], [1e4]], requires_grad=True)
    values = head(severity)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert values[0].argmax() == 0
    assert values[1].argmax() == 3
    assert float(values[0, 3].detach()) == pytest.approx(-10001.0)
    for tensor in (severity, *head.parameters()):
        assert torch.isfinite(tensor.grad).all()


def test_thresholds_stay_ordered() -> None:
    head = OrdinalHead(2, 4)
    with torch.no_grad():
        head.gaps.fill_(-1e4)
    assert bool((head.thresholds().diff() > 0).all())
    assert torch.isfinite(head(torch.zeros(1, 2))).all()


def test_severity_orders_the_classes() -> None:
    head = head_of([-1.0, 1.0])
    probable = head(torch.tensor([[-5.0], [0.0], [5.0]])).argmax(1)
    assert probable.tolist() == [0, 1, 2]


def test_two_classes_are_logistic_regression() -> None:
    head = head_of([0.3])
    values = head(torch.tensor([[1.0]]))
    assert float(values[0, 1].exp().detach()) == pytest.approx(1 / (1 + math.exp(-0.7)))


@pytest.mark.parametrize("ordinal", [False, True])
def test_published_layers(ordinal: bool) -> None:
    head = fusion_head(12, 6, 3, dropout=0.5, ordinal=ordinal)
    assert [type(layer) for layer in head[:3]] == [nn.Linear, nn.Dropout, nn.ReLU]
    assert type(head[3]) is type(linear_head(6, 3, ordinal=ordinal))
    assert head.eval()(torch.zeros(2, 12)).shape == (2, 3)
