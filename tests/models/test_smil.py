"""SMIL: hand-computed bags, the cases that the paper leaves undefined, and invariances."""

from __future__ import annotations

import pytest
import torch

from glomflow.models.smil import bag_max, bag_mean, smil_distance, smil_sum


def bag(*points: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A bag of instances on a line, as 1x1 maps of one channel."""
    return torch.tensor(points).reshape(1, len(points), 1, 1, 1), torch.ones(1, len(points), dtype=torch.bool)


@pytest.mark.parametrize(
    ("points", "weights", "kept"),
    [
        # Centre 2, mean distance 2.5; inverse distances 1/2, 1, 1, 1/3 are scaled to 0..1.
        ((0.0, 1.0, 2.0, 3.0, 5.0), (0.25, 1.0, 1.0, 1.0, 0.0), (1, 1, 1, 1, 1)),
        # Centre 2, mean distance 6; 14 is farther than 1.5 * 6 from it.
        ((0.0, 1.0, 2.0, 3.0, 14.0), (0.0, 1.0, 1.0, 1.0, 0.0), (1, 1, 1, 1, 0)),
        ((14.0, 0.0, 1.0, 2.0, 3.0), (0.0, 0.0, 1.0, 1.0, 1.0), (0, 1, 1, 1, 1)),
        ((4.0,), (1.0,), (1,)),
        ((1.0, 9.0), (1.0, 1.0), (1, 1)),
        ((3.0, 3.0, 3.0), (1.0, 1.0, 1.0), (1, 1, 1)),
        ((0.0, 1.0, 2.0), (1.0, 1.0, 1.0), (1, 1, 1)),
        ((0.0, 1.0, 3.0), (1.0, 1.0, 0.0), (1, 1, 1)),
    ],
    ids=["spread", "outlier last", "outlier first", "one", "two", "equal", "equally far", "three"],
)
def test_distance_weights(
    points: tuple[float, ...], weights: tuple[float, ...], kept: tuple[int, ...]
) -> None:
    pooled, ours, passed = smil_distance(*bag(*points), 1.5)
    torch.testing.assert_close(ours[0], torch.tensor(weights), rtol=1e-5, atol=1e-5)
    assert passed[0].tolist() == [bool(value) for value in kept]
    assert float(pooled) == pytest.approx(sum(w * p for w, p in zip(weights, points, strict=True)), abs=1e-4)


def test_parity_takes_the_centres_place_in_the_kept_list() -> None:
    # 14 is dropped, so that the centre's place in the bag, 3, is instance 3.0 in the kept list.
    features, mask = bag(14.0, 0.0, 1.0, 2.0, 3.0)
    _, weights, kept = smil_distance(features, mask, 1.5, parity=True)
    assert kept[0].tolist() == [False, True, True, True, True]
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]), rtol=1e-5, atol=1e-5)


def test_one_kept_instance_beside_the_centre_weighs_one() -> None:
    _, weights, kept = smil_distance(*bag(0.0, 1.0, 100.0, 220.0), 0.55)
    assert kept[0].tolist() == [True, True, False, False]
    assert weights[0].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_empty_bag_gives_zeros() -> None:
    features, mask = bag(1.0, 2.0, 3.0)
    for pooled, weights, kept in (
        smil_distance(features, mask & False, 1.5),
        smil_sum(features, mask & False),
    ):
        assert (float(pooled), weights.sum().item(), kept.any().item()) == (0.0, 0.0, False)


def test_distances_of_nan_and_infinity_count_as_zero() -> None:
    _, weights, _ = smil_distance(*bag(0.0, 1.0, float("nan"), float("inf"), 2.0), 1.5)
    assert torch.isfinite(weights).all()


def test_mean_and_maximum() -> None:
    features, mask = bag(1.0, 5.0, 3.0, 9.0)
    mask[0, 3] = False
    pooled, weights, kept = bag_mean(features, mask)
    assert float(pooled) == 3.0
    assert weights[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
    assert kept.tolist() == mask.tolist()
    pooled, weights, kept = bag_max(features, mask)
    assert float(pooled) == 5.0
    assert weights[0].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert kept.tolist() == mask.tolist()
    for function in (bag_mean, bag_max):
        pooled, weights, kept = function(features, mask & False)
        assert (float(pooled), float(weights.sum()), bool(kept.any())) == (0.0, 0.0, False)


def test_maximum_shares_ties() -> None:
    features = torch.tensor([[[[[2.0, 0.0]]], [[[2.0, 1.0]]]]])
    pooled, weights, _ = bag_max(features, torch.ones(1, 2, dtype=torch.bool))
    assert pooled.flatten().tolist() == [2.0, 1.0]
    assert weights[0].tolist() == [0.25, 0.75]


def test_the_first_alone_is_the_first_that_is_there() -> None:
    features, mask = bag(7.0, 5.0, 3.0)
    mask[0, 0] = False
    pooled, weights, _ = smil_sum(features, mask, 1)
    assert float(pooled) == 5.0
    assert weights[0].tolist() == [0.0, 1.0, 0.0]


def test_sum_takes_the_first_six() -> None:
    pooled, weights, kept = smil_sum(*bag(*range(1, 9)))
    assert float(pooled) == 21.0
    assert weights[0].tolist() == [1.0] * 6 + [0.0] * 2
    assert kept[0].tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10])
def test_padding_and_order_change_nothing(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(3, count, 2, 2, 5, generator=generator)
    mask = torch.ones(3, count, dtype=torch.bool)
    pooled, weights, kept = smil_distance(features, mask, 1.2)
    order = torch.randperm(count, generator=generator)
    padded = torch.cat([features[:, order], torch.full((3, 4, 2, 2, 5), 7.0)], dim=1)
    longer = torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1)
    again, other_weights, other_kept = smil_distance(padded, longer, 1.2)
    torch.testing.assert_close(again, pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_weights[:, :count], weights[:, order], rtol=1e-5, atol=1e-6)
    assert torch.equal(other_kept[:, :count], kept[:, order])
    assert not other_kept[:, count:].any()
    assert other_weights[:, count:].abs().sum() == 0


def test_gradient_reaches_kept_instances_only_through_the_sum() -> None:
    features, mask = bag(0.0, 1.0, 2.0, 3.0, 14.0)
    features.requires_grad_()
    pooled, weights, _ = smil_distance(features, mask, 1.5)
    pooled.sum().backward()
    assert not weights.requires_grad
    assert features.grad is not None
    torch.testing.assert_close(features.grad.flatten(), weights[0])
