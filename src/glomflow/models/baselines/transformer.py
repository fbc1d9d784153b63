"""Transformer blocks and gated attention pooling over tokens of which some are not there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glomflow.models.attention import SelfAttention
from glomflow.models.batch import masked_softmax


class TransformerBlock(nn.Module):
    """Self-attention and a multi-layer perceptron, each after layer normalisation and added.

    Args:
        width: D, channels of the tokens.
        heads: Attention heads.
        hidden: Width of the perceptron.
        dropout: Dropout of what is added.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = SelfAttention((), width, heads)
        self.before_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Runs the block.

        Args:
            tokens: (B, N, D).
            mask: (B, N) bool, True where there is a token; the others are read by none.

        Returns:
            (B, N, D).
        """
        normalised = self.before_attention(tokens)
        tokens = tokens + self.dropout(self.attention.answer(normalised, normalised, mask))
        added: Tensor = self.dropout(self.perceptron(self.before_perceptron(tokens)))
        return tokens + added


class TransformerBlocks(nn.ModuleList):
    """Several blocks, one after the other.

    Args:
        count: How many.
        width: As of :class:`TransformerBlock`, like the rest.
        heads: Attention heads.
        hidden: Width of the perceptrons.
        dropout: Dropout of what is added.
    """

    def __init__(self, count: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(TransformerBlock(width, heads, hidden, dropout) for _ in range(count))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Runs the blocks on (B, N, D) tokens of which (B, N) ``mask`` are there."""
        for block in self:
            tokens = block(tokens, mask)
        return tokens


class GatedPooling(nn.Module):
    """Gated attention pooling of tokens (Ilse et al., ICML 2018).

    Args:
        width: D, channels of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.content = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pools tokens.

        Args:
            tokens: (B, N, D).
            mask: (B, N) bool, True where there is a token.

        Returns:
            The weighted mean (B, D), zeros for a patient without a token, and the weights (B, N).
        """
        scores = self.score(torch.tanh(self.content(tokens)) * torch.sigmoid(self.gate(tokens)))
        weights = masked_softmax(scores.squeeze(2), mask)
        return (weights[:, None] @ tokens).squeeze(1), weights


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of the (B, N, D) tokens where (B, N) ``mask`` is True; zeros where it nowhere is."""
    total = tokens.masked_fill(~mask[:, :, None], 0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1).to(tokens.dtype)
