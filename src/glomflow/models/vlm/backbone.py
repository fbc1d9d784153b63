"""Backbones of one shape, whatever library they come from: two towers that can be cut between blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from glomflow.config_vlm import VlmBackbone, VlmPretraining
from glomflow.errors import GlomflowError
from glomflow.models.vlm.preprocessing import Preprocessing

Tokeniser = Callable[[str], list[int]]
"""Turns a text into tokens, those of its beginning and end included, without cutting it."""


def tokens_of_prompt(text: str, name: str, tokeniser: Tokeniser, context: int) -> list[int]:
    """Turns a prompt into tokens.

    Args:
        text: The sentence.
        name: Key of the backbone, for messages.
        tokeniser: Its tokeniser.
        context: Most tokens that it takes.

    Raises:
        GlomflowError: The sentence has more.
    """
    tokens = tokeniser(text)
    if len(tokens) > context:
        raise GlomflowError(
            f"prompt '{text}': {name} takes {context} tokens, it has {len(tokens)}; shorten it"
        )
    return tokens


class Tower(nn.Module, ABC):
    """One tower: ``head(run(stem(inputs), 0, inputs=inputs), inputs)`` is the library's own encoding."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last; one may be wrapped or hooked in place."""

    @property
    def prefix(self) -> int:
        """Tokens of an image before those of its patches, which go row by row: class token and registers."""
        raise GlomflowError(f"{type(self).__name__}: it does not say which of its tokens are patches")

    @abstractmethod
    def stem(self, inputs: Tensor) -> Tensor:
        """Returns the hidden state before the first block, (N, tokens, width).

        Args:
            inputs: Pixels (N, 3, S, S), or tokens (N, L) int64.
        """

    def run(
        self, hidden: Tensor, first: int, last: int | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        """Runs the blocks from ``first`` up to, not including, ``last``.

        Args:
            hidden: (N, tokens, width), the state before block ``first``.
            first: First block.
            last: Where to stop; None: after the last block.
            inputs: The tokens; needed only by text towers that mask by them (CoCa).

        Returns:
            (N, tokens, width).
        """
        mask = self._mask(hidden, inputs)
        for block in self.blocks[first:last]:
            hidden = self._block(block, hidden, mask)
        return hidden

    def tail(self, hidden: Tensor, first: int, inputs: Tensor | None = None) -> Tensor:
        """Runs the blocks from ``first`` on, and the head.

        Where the head reads one token of a text or image, the last block computes keys and values of all
        tokens and everything else of that one: a fifth of the block's work, with the same result to
        rounding. A block with forward hooks is run whole.

        Args:
            hidden: (N, tokens, width), the state before block ``first``.
            first: First block.
            inputs: The tokens of texts.

        Returns:
            (N, D), not normalised.
        """
        last = len(self.blocks) - 1
        place = self._read(hidden, inputs) if first <= last and not self.blocks[last]._forward_hooks else None
        if place is None:
            return self.head(self.run(hidden, first, inputs=inputs), inputs)
        mask = self._mask(hidden, inputs)
        for block in self.blocks[first:last]:
            hidden = self._block(block, hidden, mask)
        return self._head_at(self._block_at(self.blocks[last], hidden, place, mask))

    @abstractmethod
    def head(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        """Pools and projects the state after the last block.

        Args:
            hidden: (N, tokens, width).
            inputs: The tokens, by which text is pooled; unused for images.

        Returns:
            (N, D), not normalised.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """Encodes pixels or tokens; returns (N, D), not normalised."""
        return self.head(self.run(self.stem(inputs), 0, inputs=inputs), inputs)

    def _mask(self, hidden: Tensor, inputs: Tensor | None) -> Tensor | None:
        """Returns what is added to attention before softmax, or None."""
        return None

    @abstractmethod
    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Runs one block."""

    def _read(self, hidden: Tensor, inputs: Tensor | None) -> Tensor | None:
        """Returns the place of the only token that the head reads, (N,); None if it reads more."""
        return None

    def _block_at(self, block: nn.Module, hidden: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
        """Runs one block for one token of each sequence; returns (N, 1, width)."""
        raise NotImplementedError

    def _head_at(self, token: Tensor) -> Tensor:
        """Projects the token that the head reads, (N, 1, width) to (N, D)."""
        return self.head(token, None)


def token_at(hidden: Tensor, place: Tensor) -> Tensor:
    """Returns one token of each sequence, (N, L, width) and (N,) to (N, 1, width)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), place][:, None]


def mask_at(mask: Tensor | None, place: Tensor, heads: int) -> Tensor | None:
    """Returns the rows of an attention mask that some tokens see by.

    Args:
        mask: (L, L), the same for all sequences, or (N * heads, L, L); None: all is seen.
        place: (N,) the token of each sequence.
        heads: Heads of the attention.

    Returns:
        (N * heads, 1, L).
    """
    if mask is None:
        return None
    if mask.ndim == 2:
        return mask[place].repeat_interleave(heads, dim=0)[:, None]
    rows = place.repeat_interleave(heads)
    return mask[torch.arange(len(mask), device=mask.device), rows][:, None]


class TextTower(Tower):
    """A text tower, which can also start from embeddings that are no token's."""

    @abstractmethod
    def token_embeddings(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings of tokens (N, L), without positions: (N, L, width)."""

    @abstractmethod
    def embedded(self, embeddings: Tensor) -> Tensor:
        """Turns embeddings (N, L, width) into the state before the first block."""

    def stem(self, inputs: Tensor) -> Tensor:
        """Returns the hidden state before the first block."""
        return self.embedded(self.token_embeddings(inputs))

    def from_embeddings(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Encodes texts whose embeddings are given.

        Args:
            embeddings: (N, L, width), without positions.
            tokens: (N, L) int64: where the text ends and what is filling.

        Returns:
            (N, D), not normalised.
        """
        return self.head(self.run(self.embedded(embeddings), 0, inputs=tokens), tokens)


class Backbone(nn.Module):
    """An image and a text tower into one space. It is made frozen and in evaluation mode.

    Attributes:
        name: Key in the configuration.
        dim: D, the length of the embeddings.
        image_size: Edge of the input, px.
        context_length: Most tokens of a text, those of its beginning and end included.
        vision: The image tower.
        text: The text tower.
        logit_scale: Logarithm of the factor of the cosines, a scalar.
        preprocessing: What is done to crops.
    """

    def __init__(
        self,
        name: str,
        vision: Tower,
        text: TextTower,
        *,
        dim: int,
        logit_scale: Tensor,
        context_length: int,
        preprocessing: Preprocessing,
        tokeniser: Tokeniser,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.vision = vision
        self.text = text
        self.dim = dim
        self.logit_scale = nn.Parameter(logit_scale.detach().clone().reshape(()).float())
        self.image_size = preprocessing.size
        self.context_length = context_length
        self.preprocessing = preprocessing
        self._tokeniser = tokeniser
        self._padding = padding
        self.requires_grad_(False)
        self.eval()

    def preprocess(self, crops: Tensor) -> Tensor:
        """Turns crops (N, H, W, 3) uint8 into input (N, 3, S, S), on the crops' device.

        Raises:
            GlomflowError: The crops are not 8-bit RGB.
        """
        return self.preprocessing(crops)

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        """Turns texts into tokens.

        Args:
            texts: T sentences.

        Returns:
            (T, context_length) int64, filled up after the end of the text, on the backbone's device.

        Raises:
            GlomflowError: A text has more tokens than the model takes.
        """
        result = torch.full((len(texts), self.context_length), self._padding, dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens = tokens_of_prompt(text, self.name, self._tokeniser, self.context_length)
            result[row, : len(tokens)] = torch.tensor(tokens)
        return result.to(self.logit_scale.device)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Encodes input (N, 3, S, S); returns (N, D) of unit length."""
        return functional.normalize(self.vision(pixels), dim=-1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """Encodes tokens (T, L); returns (T, D) of unit length."""
        return functional.normalize(self.text(tokens), dim=-1)


@dataclass(frozen=True)
class Projection:
    """One of the projections of an attention: rows of a weight (and of a bias) of a module.

    Attributes:
        module: The module that holds the weight.
        weight: Name of the weight, which is (rows, in) or more rows.
        bias: Name of the bias, or None.
        rows: The rows that are this projection's.
    """

    module: nn.Module
    weight: str
    bias: str | None
    rows: slice

    @property
    def matrix(self) -> Tensor:
        """The weight, (out, in), a view."""
        parameter: Tensor = getattr(self.module, self.weight)
        return parameter[self.rows]


@dataclass(frozen=True)
class Attention:
    """The attention of a block: where it is and what it projects with."""

    owner: nn.Module
    attribute: str
    module: nn.Module
    query: Projection
    key: Projection
    value: Projection
    out: Projection


def attention_of(block: nn.Module) -> Attention:
    """Finds a block's attention, of open_clip, timm or transformers.

    Raises:
        GlomflowError: The block is of another kind.
    """
    attribute = "self_attn" if hasattr(block, "self_attn") else "attn"
    module = getattr(block, attribute, None)
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        rows = _thirds(module.in_proj_weight)
        bias = "in_proj_bias" if module.in_proj_bias is not None else None
        query, key, value = (Projection(module, "in_proj_weight", bias, part) for part in rows)
        return Attention(block, attribute, module, query, key, value, _whole(module.out_proj))
    if isinstance(module, nn.Module) and all(
        isinstance(getattr(module, f"{letter}_proj", None), nn.Linear) for letter in "qkv"
    ):
        query, key, value = (_whole(getattr(module, f"{letter}_proj")) for letter in "qkv")
        return Attention(block, attribute, module, query, key, value, _whole(module.out_proj))
    if isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(module, nn.Module):
        fused: nn.Linear = module.qkv  # type: ignore[assignment]
        bias = "bias" if fused.bias is not None else None
        query, key, value = (Projection(fused, "weight", bias, part) for part in _thirds(fused.weight))
        return Attention(block, attribute, module, query, key, value, _whole(module.proj))
    raise GlomflowError(
        f"{type(block).__name__}: its attention ({type(module).__name__}) has no q, k and v projections that "
        "are known here; choose another backbone or method"
    )


def attention_projections(block: nn.Module) -> tuple[Projection, Projection, Projection, Projection]:
    """Returns the query, key, value and output projections of a block.

    Raises:
        GlomflowError: The block is of a kind that is not known.
    """
    found = attention_of(block)
    return found.query, found.key, found.value, found.out


def _thirds(weight: Tensor) -> list[slice]:
    width = weight.shape[0] // 3
    return [slice(part * width, (part + 1) * width) for part in range(3)]


def _whole(linear: Any) -> Projection:
    bias = "bias" if linear.bias is not None else None
    return Projection(linear, "weight", bias, slice(0, linear.weight.shape[0]))


def load_backbone(
    name: str,
    settings: VlmBackbone,
    *,
    offline: bool,
    device: torch.device | str = "cpu",
    phantom: Path | None = None,
) -> Backbone:
    """Builds a backbone with its weights, frozen and in evaluation mode.

    Args:
        name: Key of the backbone in the configuration.
        settings: Its section.
        offline: Never reach for the internet; what is in a cache is used.
        device: Where to put it.
        phantom: Folder that the pretraining wrote; needed for ``weights: phantom``.

    Raises:
        GlomflowError: The architecture, the weights or the tokeniser cannot be used; the message names the
            key.
    """
    from glomflow.models.vlm.weights import Source

    source = Source(name, settings, offline=offline)
    if settings.library == "transformers":
        from glomflow.models.vlm.transformers_backbone import build_transformers

        backbone = build_transformers(source)
    else:
        from glomflow.models.vlm.open_clip_backbone import build_open_clip

        backbone = build_open_clip(source, phantom)
    return backbone.to(device)


def load_tokeniser(
    name: str, settings: VlmBackbone, *, offline: bool, pretraining: VlmPretraining
) -> tuple[Tokeniser, int]:
    """Loads a backbone's tokeniser without its weights.

    Args:
        name: Key of the backbone in the configuration.
        settings: Its section.
        offline: Never reach for the internet; what is in a cache is used.
        pretraining: What the model of ``weights: phantom`` will be.

    Returns:
        The tokeniser, and most tokens that the model takes.

    Raises:
        GlomflowError: The architecture or the tokeniser cannot be used; the message names the key.
    """
    from glomflow.models.vlm.weights import Source

    source = Source(name, settings, offline=offline)
    if settings.library == "transformers":
        from glomflow.models.vlm.transformers_backbone import transformers_texts

        return transformers_texts(source)
    from glomflow.models.vlm.open_clip_backbone import open_clip_texts

    return open_clip_texts(source, pretraining)
