"""Transformer blocks and gated attention pooling over tokens of which some are not there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glomflow.errors import GlomflowError


class MaskedAttention(nn.Module):
    """Multi-head attention (Vaswani 2017) that reads only the tokens that are there.

    Args:
        width: D, channels of the tokens.
        heads: Attention heads.

    Raises:
        GlomflowError: ``heads`` does not divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise GlomflowError(
                f"cmsa.heads: {heads} heads do not divide the model's {width} channels; change cmsa.heads, "
                "or the model's width (hidden where there is no width)"
            )
        self.heads = heads
        self.scale = float((width / heads) ** -0.5)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attends from some tokens to others.

        Args:
            queries: (B, Q, D).
            tokens: (B, N, D).
            mask: (B, N) bool, True where there is a token.

        Returns:
            The answers (B, Q, D), zeros for a patient without a token, and the attention (B, Q, N), the
            mean over the heads.
        """
        scores = (self._split(self.query(queries)) * self.scale) @ self._split(self.key(tokens)).mT
        shares = masked_softmax(scores, mask[:, None, None, :])
        answers = self.out((shares @ self._split(self.value(tokens))).transpose(1, 2).flatten(2))
        return answers.masked_fill(~mask.any(1)[:, None, None], 0), shares.mean(1)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


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
        self.attention = MaskedAttention(width, heads)
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
        tokens = tokens + self.dropout(self.attention(normalised, normalised, mask)[0])
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


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Returns the softmax over the last axis among what ``mask`` allows; zeros where it allows nothing."""
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~mask, lowest), dim=-1).masked_fill(~mask, 0)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of the (B, N, D) tokens where (B, N) ``mask`` is True; zeros where it nowhere is."""
    total = tokens.masked_fill(~mask[:, :, None], 0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1).to(tokens.dtype)
