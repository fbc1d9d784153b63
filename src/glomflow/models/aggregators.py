"""Learned multi-instance pooling: attention over the instances of a bag, and the factory of all poolings.

Attention is computed on one vector per instance and weighs whole feature maps, so that what follows
still sees a map. The vector holds the mean and the maximum over the instance's tokens: a deposit covers
few tokens, and hardly moves the mean. Padding, as long as it is finite, and the order of the instances
change nothing; an empty bag gives zeros.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from glomflow import config
from glomflow.models.batch import Pooled, masked_softmax
from glomflow.models.smil import bag_max, bag_mean, smil_distance, smil_sum, weighted_sum
from glomflow.models.sparsemax import sparsemax

Merged = tuple[Tensor, Tensor, Tensor]
"""Map (B, h, w, C), zeros for an empty bag; weights (B, n), 0 for padding; kept instances (B, n) bool."""

_TRANSFORMER_HEADS = 8


class Pooling(nn.Module):
    """Turns padded bags of feature maps into one map each.

    Attributes:
        static: Whether there is nothing to learn and nothing drawn at random.
    """

    static = False

    @abstractmethod
    def forward(self, maps: Tensor, mask: Tensor) -> Merged:
        """Pools bags.

        Args:
            maps: (B, n, h, w, C).
            mask: (B, n) bool, True where there is an instance.
        """


class FixedPooling(Pooling):
    """Pooling by a function without parameters.

    Args:
        function: Takes maps and mask.
    """

    static = True

    def __init__(self, function: Callable[[Tensor, Tensor], Merged]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor, mask: Tensor) -> Merged:
        """Pools bags."""
        return self.function(maps, mask)


class InstanceSummary(nn.Module):
    """One vector per instance: mean and maximum over its tokens, each layer-normalised.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.LayerNorm(channels)
        self.highest = nn.LayerNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns (B, n, 2C) for maps (B, n, h, w, C)."""
        tokens = maps.flatten(2, 3)
        return torch.cat([self.mean(tokens.mean(2)), self.highest(tokens.amax(2))], dim=2)


class AttentionScore(nn.Module):
    """The score of attention-based multi-instance learning (Ilse, Tomczak and Welling, ICML 2018).

    w tanh(V h), or gated w (tanh(V h) * sigmoid(U h)), for the vector h of an instance.

    Args:
        channels: C of the maps.
        width: Rows of V and U.
        gated: Whether there is a gate U.
    """

    def __init__(self, channels: int, width: int, *, gated: bool) -> None:
        super().__init__()
        self.summary = InstanceSummary(channels)
        self.hidden = nn.Linear(2 * channels, width)
        self.gate = nn.Linear(2 * channels, width) if gated else None
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns (B, n) float32 scores of maps (B, n, h, w, C)."""
        summary = self.summary(maps)
        hidden = torch.tanh(self.hidden(summary))
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(summary))
        scores: Tensor = self.score(hidden).squeeze(2).float()
        return scores


class AttentionPooling(Pooling):
    """The weighted sum of the maps by the softmax, or sparsemax, of their scores.

    Args:
        channels: C.
        width: Width of the score.
        gated: Whether the score is gated.
        sparse: Sparsemax: instances that score low get a weight of 0 and are left out.
    """

    def __init__(self, channels: int, width: int, *, gated: bool = False, sparse: bool = False) -> None:
        super().__init__()
        self.score = AttentionScore(channels, width, gated=gated)
        self.sparse = sparse

    def forward(self, maps: Tensor, mask: Tensor) -> Merged:
        """Pools bags."""
        scores = self.score(maps)
        weights = sparsemax(scores, mask) if self.sparse else masked_softmax(scores, mask)
        return weighted_sum(maps, weights), weights, weights > 0 if self.sparse else mask


class TopPooling(Pooling):
    """The mean of the k instances of the highest score; of all where there are fewer.

    The gradient is passed straight through to the softmax of the scores: forwards this is the plain mean
    of the chosen, and backwards an instance that was left out still learns whether it had been better
    chosen, which weighting the chosen by their scores would not tell it.

    Args:
        channels: C.
        width: Width of the score.
        k: Instances kept.
    """

    def __init__(self, channels: int, width: int, k: int) -> None:
        super().__init__()
        self.score = AttentionScore(channels, width, gated=False)
        self.k = k

    def forward(self, maps: Tensor, mask: Tensor) -> Merged:
        """Pools bags."""
        scores = self.score(maps)
        lowered = scores.detach().masked_fill(~mask, -torch.inf)
        best = lowered.topk(min(self.k, mask.shape[1]), dim=1).indices
        kept = torch.zeros_like(mask).scatter(1, best, True) & mask
        chosen = kept.to(scores.dtype) / kept.sum(1, keepdim=True).clamp(min=1)
        shares = masked_softmax(scores, mask)
        weights = chosen + (shares - shares.detach())
        return weighted_sum(maps, weights), chosen, kept


class TransformerPooling(Pooling):
    """A transformer over the instances with a class token (TransMIL; Shao et al., NeurIPS 2021).

    The class token and the instances attend to each other, then the class token asks the instances. Its
    attention there, the mean over heads, weighs the maps. What the class token itself has read is not
    passed on: a way to the diagnosis past the weights leaves them without meaning. Bags hold tens of
    instances, not thousands of patches: attention is exact instead of the Nystrom approximation.
    Instances have no places in a bag: the published encoding of positions (PPEG) is left out, so that
    their order does not matter.

    Args:
        channels: C.
        width: Channels of the transformer.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        heads = math.gcd(width, _TRANSFORMER_HEADS)
        self.summary = InstanceSummary(channels)
        self.down = nn.Linear(2 * channels, width)
        self.token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.mixing = AttentionBlock(width, heads)
        self.reading = AttentionShares(width, heads)

    def forward(self, maps: Tensor, mask: Tensor) -> Merged:
        """Pools bags."""
        instances = torch.relu(self.down(self.summary(maps)))
        tokens = torch.cat([self.token.to(instances.dtype).expand(len(maps), -1, -1), instances], dim=1)
        tokens = self.mixing(tokens, functional.pad(mask, (1, 0), value=True))
        weights = self.reading(tokens[:, :1], tokens[:, 1:], mask).mean(1).squeeze(1)
        return weighted_sum(maps, weights), weights, mask


class AttentionShares(nn.Module):
    """Multi-head attention weights after layer normalisation.

    Args:
        width: Channels, a multiple of ``heads``.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, asking: Tensor, asked: Tensor, mask: Tensor) -> Tensor:
        """Returns the attention, (B, heads, q, k) float32.

        Args:
            asking: (B, q, width).
            asked: (B, k, width).
            mask: (B, k) bool, True where a token may be read.
        """
        query = self.split(self.query(self.norm(asking)))
        key = self.split(self.key(self.norm(asked)))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        return masked_softmax(scores.float(), mask[:, None, None])

    def split(self, tokens: Tensor) -> Tensor:
        """Returns (B, heads, n, width / heads) for (B, n, width)."""
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Multi-head self-attention after layer normalisation, with a skip connection.

    Args:
        width: Channels, a multiple of ``heads``.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.shares = AttentionShares(width, heads)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Returns (B, n, width) tokens with what each has read in those of ``mask`` (B, n) added."""
        value = self.shares.split(self.value(self.shares.norm(tokens)))
        read = self.shares(tokens, tokens, mask).to(value.dtype) @ value
        answer: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return tokens + answer


def build_pooling(settings: config.Smil, channels: int, *, parity: bool = False) -> Pooling:
    """Builds the pooling that ``smil.variant`` names.

    Args:
        settings: The model's section ``smil``, ``om_bag`` or ``im_bag``.
        channels: C of the maps.
        parity: The published arithmetic of ``distance``.
    """
    width = settings.width
    builders: dict[str, Callable[[], Pooling]] = {
        "distance": lambda: FixedPooling(partial(smil_distance, threshold=settings.threshold, parity=parity)),
        "sum": lambda: FixedPooling(smil_sum),
        "mean": lambda: FixedPooling(bag_mean),
        "max": lambda: FixedPooling(bag_max),
        "first": lambda: FixedPooling(partial(smil_sum, limit=1)),
        "top_k": lambda: TopPooling(channels, width, settings.k),
        "abmil": lambda: AttentionPooling(channels, width),
        "gated_abmil": lambda: AttentionPooling(channels, width, gated=True),
        "sparsemax": lambda: AttentionPooling(channels, width, sparse=True),
        "transmil": lambda: TransformerPooling(channels, width),
    }
    return builders[settings.variant]()


class BagPooling(nn.Module):
    """Pools the bags of all modalities of a network, each as its section says, to maps of one grid.

    Where the maps of modalities differ in height or width, larger ones are averaged down to the smallest
    (adaptive average pooling).

    Args:
        model: The model's section.
        channels: C per modality.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.poolings = nn.ModuleDict(
            {
                name: build_pooling(model.pooling_of(name), count, parity=model.parity)
                for name, count in channels.items()
            }
        )

    @property
    def static(self) -> bool:
        """Whether no modality's pooling learns or draws."""
        return all(pooling.static for pooling in self.poolings.values())

    def forward(self, maps: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Pooled:
        """Pools.

        Args:
            maps: Per modality, (B, n, h, w, C), standardised.
            masks: Per modality, (B, n) bool.

        Returns:
            Tokens (B, N, C) per modality, N the same for all, zeros where a modality is missing.
        """
        merged: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, pooling in self.poolings.items():
            merged[name], weights[name], kept[name] = pooling(maps[name], masks[name])
        grid = (
            min(each.shape[1] for each in merged.values()),
            min(each.shape[2] for each in merged.values()),
        )
        tokens = {name: _on_grid(each, grid).flatten(1, 2) for name, each in merged.items()}
        present = {name: masks[name].any(1) for name in merged}
        return Pooled(tokens, present, weights, kept)


def _on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Averages (B, h, w, C) maps down to a grid; unchanged where they have it."""
    if maps.shape[1:3] == grid:
        return maps
    return functional.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
