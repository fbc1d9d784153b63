"""Attention between modalities: against torch's, against its own mean, and who may ask whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.attention import (
    CrossAttention,
    CrossModalScaleAttention,
    ModalityAttention,
    ModalityWeights,
    NoAttention,
    SelfAttention,
    build_attention,
)

CHANNELS = 8
ALL = ("TEM", "OM", "IM")
VARIANTS = ("cmsa", "none", "self", "modality", "cross")


def tokens_of(patients: int = 4, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(patients, 9, CHANNELS, generator=generator) for name in ALL}


def everyone(patients: int = 4) -> dict[str, Tensor]:
    return {name: torch.ones(patients, dtype=torch.bool) for name in ALL}


def partial() -> dict[str, Tensor]:
    """Patients with all, without TEM, without OM, and with IM alone."""
    return {
        "TEM": torch.tensor([True, False, True, False]),
        "OM": torch.tensor([True, True, False, False]),
        "IM": torch.tensor([True, True, True, True]),
    }


def build(variant: str, **options: Any) -> ModalityAttention:
    torch.manual_seed(2)
    return build_attention(config.Cmsa(variant=variant, heads=2), ALL, CHANNELS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", [*VARIANTS, "parity"])
@pytest.mark.parametrize("present", [everyone(), partial()], ids=["all", "some"])
def test_pooled_is_the_mean_of_the_full_one(variant: str, present: dict[str, Tensor]) -> None:
    attention = build("cmsa", parity=True) if variant == "parity" else build(variant)
    tokens = tokens_of()
    full = {name: values.mean(1) for name, values in attention(tokens, present).items()}
    torch.testing.assert_close(attention.pooled(tokens, present), full)


def torchs(ours: Any) -> torch.nn.MultiheadAttention:
    theirs = torch.nn.MultiheadAttention(CHANNELS, ours.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.zero_()
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


def test_cmsa_is_torchs_multi_head_attention() -> None:
    ours, tokens = build("cmsa"), tokens_of()
    changed, shares = ours(tokens, everyone()), ours.attention(tokens, everyone())
    for name in ("OM", "IM"):
        expected, weights = torchs(ours)(
            tokens["TEM"], tokens[name], tokens[name], average_attn_weights=False
        )
        torch.testing.assert_close(changed[name], tokens[name] + expected)
        torch.testing.assert_close(shares[name], weights)
    assert torch.equal(changed["TEM"], tokens["TEM"])
    assert set(shares) == {"OM", "IM"}


def test_self_attention_is_torchs() -> None:
    ours, tokens = build("self"), tokens_of()
    expected, weights = torchs(ours)(*[tokens["OM"]] * 3, average_attn_weights=False)
    torch.testing.assert_close(ours(tokens, everyone())["OM"], tokens["OM"] + expected)
    torch.testing.assert_close(ours.attention(tokens, everyone())["OM"], weights)


def test_cross_attention_is_torchs_over_the_others_that_are_there() -> None:
    ours, tokens, present = build("cross"), tokens_of(), partial()
    changed = ours(tokens, present)
    others = torch.cat([tokens["OM"], tokens["IM"]], dim=1)
    expected, _ = torchs(ours)(tokens["TEM"], others, others)
    torch.testing.assert_close(changed["TEM"][0], (tokens["TEM"] + expected)[0])
    alone, _ = torchs(ours)(tokens["TEM"], tokens["IM"], tokens["IM"])
    torch.testing.assert_close(changed["TEM"][2], (tokens["TEM"] + alone)[2])
    torch.testing.assert_close(changed["IM"][3], tokens["IM"][3])


def test_shares_received_in_cross_attention_add_up_to_one_per_asker() -> None:
    ours, present = build("cross"), partial()
    received = ours.attention(tokens_of(), present)
    totals = sum(shares.sum(-1) for shares in received.values())
    # With all three, each asks the two others; with two, one asks the other; alone, nobody asks.
    torch.testing.assert_close(totals[:, 0, 0], torch.tensor([1.5, 2.0, 2.0, 0.0]))
    assert received["OM"].shape == (4, 2, 9, 9)
    assert not received["TEM"][1].any()


def test_attention_of_those_who_lack_a_side_is_zero() -> None:
    shares = build("cmsa").attention(tokens_of(), partial())
    assert shares["OM"].flatten(1).any(1).tolist() == [True, False, False, False]
    assert shares["IM"].flatten(1).any(1).tolist() == [True, False, True, False]


def test_modality_weights_are_a_softmax_over_those_there() -> None:
    ours, tokens, present = build("modality"), tokens_of(), partial()
    assert isinstance(ours, ModalityWeights)
    scores = torch.stack([ours.score(tokens[name].mean(1))[:, 0] for name in ALL], 1)
    changed = ours(tokens, present)
    shares = torch.softmax(scores[1, 1:], 0)
    torch.testing.assert_close(changed["OM"][1], 2.0 * shares[0] * tokens["OM"][1])
    torch.testing.assert_close(changed["IM"][3], tokens["IM"][3])
    with torch.no_grad():
        ours.score[2].weight.zero_()
    torch.testing.assert_close(ours(tokens, everyone()), tokens)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_there_does_not_matter(variant: str) -> None:
    attention, tokens, present = build(variant), tokens_of(), partial()
    expected = attention.pooled(tokens, present)
    for name, there in present.items():
        tokens[name] = torch.where(there[:, None, None], tokens[name], 1e3)
    changed = attention.pooled(tokens, present)
    for name, there in present.items():
        torch.testing.assert_close(changed[name][there], expected[name][there])


@pytest.mark.parametrize(
    ("variant", "modalities", "kind"),
    [
        ("cmsa", ALL, CrossModalScaleAttention),
        ("cmsa", ("OM", "IM"), NoAttention),
        ("cmsa", ("TEM",), NoAttention),
        ("none", ALL, NoAttention),
        ("self", ("IM",), SelfAttention),
        ("modality", ALL, ModalityWeights),
        ("modality", ("OM",), NoAttention),
        ("cross", ("OM", "IM"), CrossAttention),
        ("cross", ("TEM",), NoAttention),
    ],
)
def test_there_is_none_where_nobody_can_be_asked(
    variant: str, modalities: tuple[str, ...], kind: type
) -> None:
    settings = config.Cmsa(variant=variant)  # type: ignore[arg-type]
    assert type(build_attention(settings, modalities, CHANNELS)) is kind


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(GlomflowError, match=r"cmsa.heads: 3 heads do not divide the model's 8 channels; use"):
        build_attention(config.Cmsa(heads=3), ALL, CHANNELS)
