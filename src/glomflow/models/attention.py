"""Attention between modalities: the published cross-modal scale attention and its ablations.

All variants work on one map per patient and modality and on which modalities are there. A modality that
is not there neither asks nor is asked. Maps of modalities that are not there may hold any finite values,
and come back as any.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.batch import masked_softmax

Maps = Mapping[str, Tensor]
"""Per modality, (B, N, C) tokens of its map, or (B,) whether it is there."""


class ModalityAttention(nn.Module):
    """Changes the maps of modalities in the light of each other.

    Args:
        modalities: Modalities of the network.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)

    @abstractmethod
    def forward(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the changed maps.

        Args:
            tokens: Per modality, (B, N, C).
            present: Per modality, (B,) bool, True where it is there.

        Returns:
            Per modality, (B, N, C).
        """

    def pooled(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the mean over the tokens of what :meth:`forward` returns, (B, C), for less work."""
        return {name: changed.mean(1) for name, changed in self(tokens, present).items()}

    def attention(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns where the maps of modalities are looked at; empty for variants without such weights.

        Args:
            tokens: Per modality, (B, N, C).
            present: Per modality, (B,) bool.

        Returns:
            Per modality that is asked, (B, heads, N, N): the weight of each of its tokens (last axis) for
            each token that asks.
        """
        return {}


class NoAttention(ModalityAttention):
    """Leaves all maps as they are."""

    def forward(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the maps as they are."""
        return dict(tokens)


class ModalityWeights(ModalityAttention):
    """Weighs whole maps: x'_m = M a_m x_m, a = softmax over the M modalities that are there.

    The score behind a_m is v tanh(U mean(x_m)), with U and v the same for all modalities; equal weights
    leave the maps as they are.

    Args:
        modalities: Modalities of the network.
        channels: C.
        width: Channels of the score.
    """

    def __init__(self, modalities: Sequence[str], channels: int, width: int = 128) -> None:
        super().__init__(modalities)
        self.score = nn.Sequential(nn.Linear(channels, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the weighted maps."""
        weights = self._weights({name: tokens[name].mean(1) for name in self.modalities}, present)
        return {name: weights[:, place, None, None] * tokens[name] for place, name in self._places}

    def pooled(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the weighted maps' means."""
        means = {name: tokens[name].mean(1) for name in self.modalities}
        weights = self._weights(means, present)
        return {name: weights[:, place, None] * means[name] for place, name in self._places}

    @property
    def _places(self) -> list[tuple[int, str]]:
        return list(enumerate(self.modalities))

    def _weights(self, means: Maps, present: Maps) -> Tensor:
        """Returns M a, (B, modalities)."""
        there = torch.stack([present[name] for name in self.modalities], dim=1)
        stacked = torch.stack([means[name] for name in self.modalities], dim=1)
        shares = masked_softmax(self.score(stacked).squeeze(2).float(), there)
        return (shares * there.sum(1, keepdim=True)).to(stacked.dtype)


class TokenAttention(ModalityAttention):
    """Multi-head attention between tokens: the answer softmax(Q K^T * scale) V W_o is added to a map.

    Queries, keys and values have no bias; scale = (C / heads)^-0.5. One set of projections serves all
    modalities.

    Args:
        modalities: Modalities of the network.
        channels: C.
        heads: Attention heads.

    Raises:
        GlomflowError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, modalities: Sequence[str], channels: int, heads: int) -> None:
        super().__init__(modalities)
        if channels % heads:
            divisors = [n for n in range(1, 33) if channels % n == 0]
            raise GlomflowError(
                f"cmsa.heads: {heads} heads do not divide the model's {channels} channels; "
                f"use one of {', '.join(map(str, divisors))}"
            )
        self.heads = heads
        self.scale = float((channels / heads) ** -0.5)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def answer(self, asking: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns what the tokens of one map read in another.

        Args:
            asking: (B, N, C).
            asked: (B, M, C).
            mask: (B, M) bool, True where a token may be read; None for all.

        Returns:
            (B, N, C).
        """
        attended = self.shares(asking, asked, mask) @ self._split(self.value(asked))
        answer: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return answer

    def mean_answer(self, asking: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns ``answer(...).mean(1)``, (B, C).

        All that follows the softmax is linear, so the mean over the queries can be taken there: the
        value and output projections then see one token instead of N.
        """
        return self._mean_answer(self._split(self.query(asking)), asked, mask)

    def shares(self, asking: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the attention of each asking token over the asked ones, (B, heads, N, M)."""
        return self._shares(self._split(self.query(asking)), asked, mask)

    def _mean_answer(self, query: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        read = self._shares(query, asked, mask).mean(2) @ asked
        value = self.value.weight.reshape(self.heads, -1, self.value.in_features)
        answer: Tensor = self.out(torch.einsum("bhc,hdc->bhd", read, value).flatten(1))
        return answer

    def _shares(self, query: Tensor, asked: Tensor, mask: Tensor | None) -> Tensor:
        scores = (query * self.scale) @ self._split(self.key(asked)).transpose(2, 3)
        if mask is None:
            return torch.softmax(scores, dim=-1)
        return masked_softmax(scores, mask[:, None, None])

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class CrossModalScaleAttention(TokenAttention):
    """The TEM map asks each other map, and the answer is added to that map (CMUS-Net, arXiv 2512.15171).

    x'_m = x_m + W_o(softmax(Q K^T * scale) V) with Q = W_q x_TEM, K = W_k x_m, V = W_v x_m. Without TEM
    the other maps stay as they are.

    Args:
        modalities: Modalities of the network, TEM among them.
        channels: C.
        heads: Attention heads.
        parity: The published arithmetic: one head with the scale of ``heads`` heads, and the answer
            transposed to (B, C, N) and then reshaped, not transposed back, to (B, N, C).
    """

    def __init__(self, modalities: Sequence[str], channels: int, heads: int, *, parity: bool = False) -> None:
        super().__init__(modalities, channels, heads)
        self.parity = parity
        self.asked = tuple(name for name in self.modalities if name != "TEM")

    def forward(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the maps, those beside TEM with the answer added."""
        tem = tokens["TEM"]
        there = present["TEM"][:, None, None]
        changed = {
            name: tokens[name] + self._answer(tem, tokens[name]).masked_fill(~there, 0) for name in self.asked
        }
        return {name: changed.get(name, tokens[name]) for name in self.modalities}

    def pooled(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the changed maps' means; the queries are made once."""
        if self.parity:
            return super().pooled(tokens, present)
        query = self._split(self.query(tokens["TEM"]))
        there = present["TEM"][:, None]
        means = {name: tokens[name].mean(1) for name in self.modalities}
        for name in self.asked:
            means[name] = means[name] + self._mean_answer(query, tokens[name]).masked_fill(~there, 0)
        return means

    def attention(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the attention of the TEM tokens over each other map; zeros where either lacks."""
        if self.parity:
            shares = {name: self._parity_shares(tokens["TEM"], tokens[name])[:, None] for name in self.asked}
        else:
            shares = {name: self.shares(tokens["TEM"], tokens[name]) for name in self.asked}
        return {name: _where_both(values, present["TEM"], present[name]) for name, values in shares.items()}

    def _answer(self, tem: Tensor, tokens: Tensor) -> Tensor:
        if not self.parity:
            return self.answer(tem, tokens)
        answer = self._parity_shares(tem, tokens) @ self.value(tokens)
        scrambled: Tensor = self.out(answer.transpose(1, 2).reshape(answer.shape))
        return scrambled

    def _parity_shares(self, tem: Tensor, tokens: Tensor) -> Tensor:
        return torch.softmax(self.query(tem) @ self.key(tokens).transpose(1, 2) * self.scale, dim=-1)


class SelfAttention(TokenAttention):
    """Each map asks itself: x'_m = x_m + W_o(softmax(Q K^T * scale) V), all three made of x_m."""

    def forward(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the maps with the answers added."""
        return {name: tokens[name] + self.answer(tokens[name], tokens[name]) for name in self.modalities}

    def pooled(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the changed maps' means."""
        return {
            name: tokens[name].mean(1) + self.mean_answer(tokens[name], tokens[name])
            for name in self.modalities
        }

    def attention(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns each map's attention over itself; zeros where it lacks."""
        return {
            name: _where_both(self.shares(tokens[name], tokens[name]), present[name], present[name])
            for name in self.modalities
        }


class CrossAttention(TokenAttention):
    """Each map asks all others at once: keys and values are the tokens of the others that are there.

    A map stays as it is where no other is there.
    """

    def forward(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the maps with the answers added."""
        changed = {}
        for name in self.modalities:
            asked, mask, any_other = self._others(name, tokens, present)
            answer = self.answer(tokens[name], asked, mask)
            changed[name] = tokens[name] + answer.masked_fill(~any_other[:, None, None], 0)
        return changed

    def pooled(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns the changed maps' means."""
        means = {}
        for name in self.modalities:
            asked, mask, any_other = self._others(name, tokens, present)
            answer = self.mean_answer(tokens[name], asked, mask)
            means[name] = tokens[name].mean(1) + answer.masked_fill(~any_other[:, None], 0)
        return means

    def attention(self, tokens: Maps, present: Maps) -> dict[str, Tensor]:
        """Returns what each map receives: the mean over the others that are there.

        A row sums to the share of attention that goes to the map, not to 1.
        """
        received: dict[str, list[Tensor]] = {name: [] for name in self.modalities}
        for name in self.modalities:
            asked, mask, _ = self._others(name, tokens, present)
            shares = self.shares(tokens[name], asked, mask)
            others = [other for other in self.modalities if other != name]
            for other, part in zip(others, shares.chunk(len(others), dim=-1), strict=True):
                received[other].append(_where_both(part, present[name], present[other]))
        there = torch.stack([present[name] for name in self.modalities]).sum(0)
        askers = (there - 1).clamp(min=1)[:, None, None, None]
        return {name: torch.stack(parts).sum(0) / askers for name, parts in received.items()}

    def _others(self, name: str, tokens: Maps, present: Maps) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the other maps' tokens (B, M, C), which may be read (B, M), and whether any may (B,)."""
        others = [other for other in self.modalities if other != name]
        asked = torch.cat([tokens[other] for other in others], dim=1)
        mask = torch.cat([present[other][:, None].expand(tokens[other].shape[:2]) for other in others], dim=1)
        return asked, mask, mask.any(1)


def build_attention(
    settings: config.Cmsa, modalities: Sequence[str], channels: int, *, parity: bool = False
) -> ModalityAttention:
    """Builds the attention that ``cmsa.variant`` names; none where there is nobody to ask.

    Args:
        settings: The model's section ``cmsa``.
        modalities: Modalities of the network.
        channels: C of all maps.
        parity: The published arithmetic (``cmsa`` only).

    Raises:
        GlomflowError: The heads do not divide the channels.
    """
    variant = settings.variant
    if variant == "self":
        return SelfAttention(modalities, channels, settings.heads)
    if variant == "none" or len(modalities) < 2 or (variant == "cmsa" and "TEM" not in modalities):
        return NoAttention(modalities)
    if variant == "modality":
        return ModalityWeights(modalities, channels)
    if variant == "cross":
        return CrossAttention(modalities, channels, settings.heads)
    return CrossModalScaleAttention(modalities, channels, settings.heads, parity=parity)


def _where_both(shares: Tensor, asking: Tensor, asked: Tensor) -> Tensor:
    return shares.masked_fill(~(asking & asked)[:, None, None, None], 0)
