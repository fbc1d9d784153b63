"""Cross-modal scale attention (CMUS-Net, arXiv 2512.15171)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glomflow.errors import GlomflowError


class CrossModalAttention(nn.Module):
    """Lets the TEM map ask the map of another modality, and adds the answer to that map.

    x' = x + W_o(softmax(Q K^T * scale) V) with Q = W_q x_TEM, K = W_k x, V = W_v x and
    scale = (C / heads)^-0.5. One module serves all modalities.

    Args:
        channels: C, channels of the feature maps.
        heads: Attention heads.
        parity: The published arithmetic: one head with the scale of ``heads`` heads, and the answer
            transposed to (B, C, N) and then reshaped, not transposed back, to (B, N, C).

    Raises:
        GlomflowError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, heads: int, *, parity: bool = False) -> None:
        super().__init__()
        if channels % heads:
            divisors = [n for n in range(1, 33) if channels % n == 0]
            raise GlomflowError(
                f"cmsa.heads: {heads} heads do not divide the encoder's {channels} channels; "
                f"use one of {', '.join(map(str, divisors))}"
            )
        self.heads = heads
        self.parity = parity
        self.scale = float((channels / heads) ** -0.5)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, tem: Tensor, tokens: Tensor) -> Tensor:
        """Attends from TEM to another modality.

        Args:
            tem: (B, N, C) tokens of the pooled TEM map.
            tokens: (B, N, C) tokens of the other modality.

        Returns:
            (B, N, C), the other modality's tokens with the answer added.
        """
        if self.parity:
            scores = self.query(tem) @ self.key(tokens).transpose(1, 2) * self.scale
            answer = torch.softmax(scores, dim=-1) @ self.value(tokens)
            scrambled = answer.transpose(1, 2).reshape(answer.shape)
            update: Tensor = self.out(scrambled)
        else:
            attended = self.attention(tem, tokens) @ self._split(self.value(tokens))
            update = self.out(attended.transpose(1, 2).flatten(2))
        return tokens + update

    def pooled(self, tem: Tensor, others: list[Tensor]) -> list[Tensor]:
        """Returns ``forward(tem, tokens).mean(1)`` of several modalities for less work.

        All that follows the softmax is linear, so the mean over the queries can be taken there: the
        value and output projections then see one token instead of N. The queries are made once.

        Args:
            tem: (B, N, C) tokens of the pooled TEM map.
            others: (B, N, C) tokens of each other modality.

        Returns:
            (B, C) for each.
        """
        if self.parity:
            return [self.forward(tem, tokens).mean(1) for tokens in others]
        query = self._split(self.query(tem))
        return [self._pooled(query, tokens) for tokens in others]

    def _pooled(self, query: Tensor, tokens: Tensor) -> Tensor:
        read = self._shares(query, tokens).mean(2) @ tokens
        value = self.value.weight.reshape(self.heads, -1, self.value.in_features)
        attended = torch.einsum("bhc,hdc->bhd", read, value)
        update: Tensor = self.out(attended.flatten(1))
        return tokens.mean(1) + update

    def attention(self, tem: Tensor, tokens: Tensor) -> Tensor:
        """Returns the attention of every TEM token over the other modality's tokens.

        Args:
            tem: (B, N, C).
            tokens: (B, N, C).

        Returns:
            (B, heads, N, N), rows summing to 1.
        """
        return self._shares(self._split(self.query(tem)), tokens)

    def _shares(self, query: Tensor, tokens: Tensor) -> Tensor:
        key = self._split(self.key(tokens))
        return torch.softmax((query * self.scale) @ key.transpose(2, 3), dim=-1)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)
