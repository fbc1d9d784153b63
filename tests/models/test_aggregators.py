"""Learned pooling: sparsemax against its definition, weights, what is kept, and grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glomflow import config
from glomflow.models.aggregators import BagPooling, TopPooling, build_pooling
from glomflow.models.sparsemax import sparsemax
from models.bags import random_batch

CHANNELS = 6


def bags(counts: tuple[int, ...] = (3, 1, 5, 0), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return torch.randn(*mask.shape, 2, 3, CHANNELS, generator=generator), mask


def pooling(variant: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return build_pooling(config.Smil.model_validate({"variant": variant, "width": 4, **options}), CHANNELS)


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        ((0.0, 0.0), (0.5, 0.5)),
        ((1.0, 0.0), (1.0, 0.0)),
        ((0.5, 0.0), (0.75, 0.25)),
        ((3.0, 2.8, 1.0), (0.6, 0.4, 0.0)),
        ((10.0, 10.5, 10.25), (0.0833333, 0.5833333, 0.3333333)),
        ((-7.0,), (1.0,)),
    ],
)
def test_sparsemax_by_hand(scores: tuple[float, ...], shares: tuple[float, ...]) -> None:
    ours = sparsemax(torch.tensor([scores]), torch.ones(1, len(scores), dtype=torch.bool))
    torch.testing.assert_close(ours[0], torch.tensor(shares), rtol=1e-4, atol=1e-5)


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    scores = torch.randn(50, 7, dtype=torch.float64)
    mask = torch.rand(50, 7) < 0.7
    mask[:, 0] = True
    ours = sparsemax(scores, mask)
    torch.testing.assert_close(ours.sum(1), torch.ones(50, dtype=torch.float64))
    assert not ours[~mask].any()
    low = torch.full((50, 1), -10.0, dtype=torch.float64)
    high = torch.full((50, 1), 10.0, dtype=torch.float64)
    for _ in range(80):  # the threshold by bisection
        middle = (low + high) / 2
        over = ((scores - middle).clamp(min=0) * mask).sum(1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    torch.testing.assert_close(ours, (scores - low).clamp(min=0) * mask, atol=1e-9, rtol=0.0)


def test_sparsemax_gradient_is_that_of_finite_differences() -> None:
    scores = torch.tensor([[0.3, 0.1, -2.0, 5.0], [1.0, 0.2, 0.9, 0.4]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    assert torch.autograd.gradcheck(lambda values: sparsemax(values, mask), scores.requires_grad_())


def test_sparsemax_of_nothing_is_zero() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    shares = sparsemax(scores, torch.zeros(2, 3, dtype=torch.bool))
    shares.sum().backward()
    assert not shares.any()
    assert scores.grad is not None
    assert not scores.grad.any()


@pytest.mark.parametrize("variant", ["abmil", "gated_abmil", "sparsemax", "top_k", "transmil"])
def test_the_map_is_the_weighted_sum(variant: str) -> None:
    maps, mask = bags()
    merged, weights, kept = pooling(variant, k=2)(maps, mask)
    torch.testing.assert_close(merged, torch.einsum("bn,bnhwc->bhwc", weights, maps))
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert torch.equal(kept, weights > 0)
    assert not merged[3].any()


def test_gated_attention_by_the_formula() -> None:
    maps, mask = bags((3,))
    pool = pooling("gated_abmil")
    tokens = maps.flatten(2, 3)
    norm = torch.nn.functional.layer_norm
    h = torch.cat([norm(tokens.mean(2), (CHANNELS,)), norm(tokens.amax(2), (CHANNELS,))], 2)
    hidden = torch.tanh(pool.score.hidden(h)) * torch.sigmoid(pool.score.gate(h))
    expected = torch.softmax((hidden @ pool.score.score.weight[0])[0], 0)
    torch.testing.assert_close(pool(maps, mask)[1][0], expected)


def test_one_strong_token_moves_the_score() -> None:
    """A deposit covers few tokens; the maximum sees it."""
    maps = bags((2,))[0]
    pool = pooling("abmil")
    before = pool.score(maps)[0, 0]
    maps[0, 0, 1, 1, 2] += 30.0
    maps[0, 0, :, :, 2] -= 5.0  # the mean over the six tokens stays
    assert abs(float((pool.score(maps)[0, 0] - before).detach())) > 1e-3


def test_top_k_keeps_the_highest_scores() -> None:
    maps, mask = bags((5, 2))
    pool = pooling("top_k", k=3)
    _, weights, kept = pool(maps, mask)
    best = pool.score(maps)[0].argsort(descending=True)[:3]
    assert sorted(kept[0].nonzero()[:, 0].tolist()) == sorted(best.tolist())
    assert weights[0][kept[0]].tolist() == pytest.approx([1 / 3] * 3)
    assert weights[1].tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]


def test_top_k_gradient_reaches_the_scores_of_those_left_out() -> None:
    maps, mask = bags((5,))
    pool = TopPooling(CHANNELS, 4, 1)
    captured: list[torch.Tensor] = []

    def keep(_: object, __: object, scores: torch.Tensor) -> None:
        scores.retain_grad()
        captured.append(scores)

    pool.score.register_forward_hook(keep)
    pool(maps, mask)[0].square().sum().backward()
    assert captured[0].grad is not None
    assert bool((captured[0].grad != 0).all())


def test_transformer_weighs_by_the_attention_of_its_class_token() -> None:
    maps, mask = bags((4,))
    pool = pooling("transmil")
    instances = torch.relu(pool.down(pool.summary(maps)))
    tokens = pool.mixing(torch.cat([pool.token, instances], 1), torch.ones(1, 5, dtype=torch.bool))
    theirs = torch.nn.MultiheadAttention(4, 4, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([pool.reading.query.weight, pool.reading.key.weight] * 2)[:12])
    normed = pool.reading.norm(tokens)
    expected = theirs(normed[:, :1], normed[:, 1:], normed[:, 1:])[1]
    torch.testing.assert_close(pool(maps, mask)[1], expected[:, 0])


def test_larger_grids_are_averaged_down_to_the_smallest() -> None:
    channels = {"OM": CHANNELS, "IM": CHANNELS, "TEM": CHANNELS}
    batch = random_batch(2, channels, grids={"OM": 4, "IM": 2, "TEM": 6})
    pool = BagPooling(config.Model(smil=config.Smil(variant="mean")), channels)
    tokens = pool(batch.maps, batch.masks).tokens
    assert {name: values.shape for name, values in tokens.items()} == dict.fromkeys(
        channels, (2, 4, CHANNELS)
    )
    blocks = batch.maps["OM"][0, 0].reshape(2, 2, 2, 2, CHANNELS).mean((1, 3))
    torch.testing.assert_close(tokens["OM"][0], blocks.flatten(0, 1))
    torch.testing.assert_close(tokens["IM"], batch.maps["IM"][:, 0].flatten(1, 2))
