"""Low-rank updates (LoRA) of the attention projections of a tower's blocks.

An update adds ``alpha / r * B A dropout(x)`` to what a projection gives for x; A is (r, in), B (out, r) and
zero at the start, so that nothing changes until something is learnt (Hu et al., ICLR 2022, arXiv 2106.09685).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.backbone import Attention, Projection, attention_of

Target = Literal["q", "k", "v", "out"]
TARGETS: tuple[Target, ...] = ("q", "k", "v", "out")


class LowRank(nn.Module):
    """One update.

    Args:
        inputs: Width of x.
        outputs: Width of what is added.
        rank: r.
        alpha: Numerator of the factor ``alpha / r``.
        dropout: Probability that an entry of x is dropped while training.
        generator: Draws A as linear layers are initialised.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)  # Kaiming uniform with a = sqrt(5)
        drawn = torch.rand(rank, inputs, generator=generator) * (2.0 * bound) - bound
        self.a = nn.Parameter(drawn)
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is added to the projection of x, (..., in) to (..., out)."""
        lowered = functional.linear(self.dropout(x), self.a)
        return functional.linear(lowered, self.b) * self.scale

    def matrix(self) -> Tensor:
        """Returns what is added to the projection's weight, (out, in)."""
        return self.b @ self.a * self.scale


class LoraLinear(nn.Module):
    """A linear layer with updates of some of its rows.

    Args:
        base: The layer; it stays what it is.
        parts: Updates by name.
        rows: The rows of each.
    """

    def __init__(self, base: nn.Linear, parts: dict[str, LowRank], rows: dict[str, slice]) -> None:
        super().__init__()
        self.base = base
        self.parts = nn.ModuleDict(parts)
        self.rows = rows
        self.merged = False

    @property
    def weight(self) -> Tensor:
        """The layer's weight, with the updates only if they are merged."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output with the updates."""
        result: Tensor = self.base(x)
        return result if self.merged else _added(result, x, self.parts, self.rows)


class LoraAttention(nn.Module):
    """Self-attention of torch's ``MultiheadAttention`` with updates of its projections.

    The module keeps q, k and v in one weight and calls no layer that could be wrapped; its arithmetic is
    therefore done here.

    Args:
        base: The module; it stays what it is.
        parts: Updates by name, any of q, k, v and out.
        rows: The rows of each within its weight.
    """

    def __init__(
        self, base: nn.MultiheadAttention, parts: dict[str, LowRank], rows: dict[str, slice]
    ) -> None:
        super().__init__()
        if not base.batch_first or base.bias_k is not None or base.add_zero_attn:
            raise GlomflowError(
                "LoRA: this attention is not batch-first, or has keys of its own; choose another backbone"
            )
        self.base = base
        self.parts = nn.ModuleDict(parts)
        self.rows = rows
        self.merged = False
        self.num_heads = base.num_heads

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attends from ``query`` (N, Q, width) to ``key`` (N, L, width), which is the value as well.

        Args:
            query: A sequence.
            key: A sequence, or None for the same.
            value: The same as ``key``.
            need_weights: Must be false.
            attn_mask: Added before softmax, (Q, L) or (N * heads, Q, L).

        Returns:
            (N, Q, width), and None in place of the weights.

        Raises:
            GlomflowError: Something else is asked for.
        """
        if need_weights or value is not key:
            raise GlomflowError("LoRA: only attention with keys as values, without its weights, is updated")
        base, (count, length, _) = self.base, query.shape
        if key is None or key is query:
            q, k, v = self._heads(query, 0, 3)
        else:
            q, k, v = *self._heads(query, 0, 1), *self._heads(key, 1, 3)
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.reshape(count, self.num_heads, length, -1)
        dropped = base.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropped)
        joined = seen.transpose(1, 2).flatten(2)
        result: Tensor = base.out_proj(joined)
        if "out" in self.parts and not self.merged:
            result = result + self.parts["out"](joined)
        return result, None

    def _heads(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """Projects x to some of q, k and v, numbered 0 to 2, each (N, heads, L, width / heads)."""
        base, (count, length, width) = self.base, x.shape
        begin, end = first * width, last * width
        bias = None if base.in_proj_bias is None else base.in_proj_bias[begin:end]
        packed = functional.linear(x, base.in_proj_weight[begin:end], bias)
        moved = {
            name: slice(rows.start - begin, rows.stop - begin)
            for name, rows in self.rows.items()
            if name != "out" and begin <= rows.start < end
        }
        if moved and not self.merged:
            packed = _added(packed, x, {name: self.parts[name] for name in moved}, moved)
        heads = packed.reshape(count, length, last - first, self.num_heads, width // self.num_heads)
        return list(heads.permute(2, 0, 3, 1, 4))


class Lora:
    """The updates that were put into some blocks.

    Args:
        places: For each, the module that it was put into, the attribute, the original and the wrapper.
    """

    def __init__(
        self, places: Sequence[tuple[nn.Module, str, nn.Module, LoraLinear | LoraAttention]]
    ) -> None:
        self._places = list(places)

    @property
    def modules(self) -> list[LowRank]:
        """The updates, in the order of the blocks."""
        return [part for *_, wrapper in self._places for part in wrapper.parts.values()]  # type: ignore[misc]

    def parameters(self) -> list[nn.Parameter]:
        """Returns A and B of every update: what is trained."""
        return [parameter for part in self.modules for parameter in (part.a, part.b)]

    @property
    def merged(self) -> bool:
        """Whether the updates are in the weights."""
        return bool(self._places) and self._places[0][-1].merged

    def merge(self) -> None:
        """Adds the updates to the weights: the same output without their time."""
        self._shift(1.0, merged=True)

    def unmerge(self) -> None:
        """Takes them out of the weights again."""
        self._shift(-1.0, merged=False)

    def remove(self) -> None:
        """Puts the original modules back; merged updates stay in their weights."""
        for owner, attribute, original, _ in self._places:
            setattr(owner, attribute, original)
        self._places = []

    @torch.no_grad()
    def _shift(self, sign: float, *, merged: bool) -> None:
        for *_, wrapper in self._places:
            if wrapper.merged == merged:
                continue
            for name, part in wrapper.parts.items():
                weight = _weight_of(wrapper, name)
                weight[wrapper.rows[name]] += sign * part.matrix()  # type: ignore[operator]
            wrapper.merged = merged


def add_lora(
    blocks: Iterable[nn.Module],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[Target] = ("q", "v"),
    generator: torch.Generator | None = None,
) -> Lora:
    """Puts updates into the attention of blocks, of open_clip, timm or transformers.

    Args:
        blocks: Blocks of a tower; their own weights are left as they are.
        rank: r.
        alpha: Numerator of the factor ``alpha / r``.
        dropout: Dropout of the updates' input.
        targets: Projections that are updated.
        generator: CPU generator of A.

    Returns:
        A handle to train, merge and remove them.

    Raises:
        GlomflowError: A target or a block is of a kind that is not known, or has updates already.
    """
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets:
        raise GlomflowError(
            f"LoRA: targets {', '.join(unknown) or '(none)'}; choose among {', '.join(TARGETS)}"
        )
    places: list[tuple[nn.Module, str, nn.Module, LoraLinear | LoraAttention]] = []
    for block in blocks:
        attention = attention_of(block)
        projections = _chosen(attention, targets)
        parts = {
            name: LowRank(
                each.matrix.shape[1],
                each.matrix.shape[0],
                rank=rank,
                alpha=alpha,
                dropout=dropout,
                generator=generator,
            ).to(each.matrix.device, each.matrix.dtype)
            for name, each in projections.items()
        }
        places += _put(attention, projections, parts)
    return Lora(places)


def _chosen(attention: Attention, targets: Sequence[Target]) -> dict[str, Projection]:
    known = {"q": attention.query, "k": attention.key, "v": attention.value, "out": attention.out}
    return {name: known[name] for name in TARGETS if name in targets}


def _put(
    attention: Attention, projections: dict[str, Projection], parts: dict[str, LowRank]
) -> list[tuple[nn.Module, str, nn.Module, LoraLinear | LoraAttention]]:
    rows = {name: each.rows for name, each in projections.items()}
    if isinstance(attention.module, nn.MultiheadAttention):
        wrapper = LoraAttention(attention.module, parts, rows).train(attention.module.training)
        setattr(attention.owner, attention.attribute, wrapper)
        return [(attention.owner, attention.attribute, attention.module, wrapper)]
    places: list[tuple[nn.Module, str, nn.Module, LoraLinear | LoraAttention]] = []
    for layer in dict.fromkeys(each.module for each in projections.values()):
        if not isinstance(layer, nn.Linear):
            raise GlomflowError(f"LoRA: {type(layer).__name__} is no linear layer; choose another backbone")
        own = [name for name, each in projections.items() if each.module is layer]
        attribute = next(name for name, child in attention.module.named_children() if child is layer)
        linear = LoraLinear(layer, {name: parts[name] for name in own}, {name: rows[name] for name in own})
        setattr(attention.module, attribute, linear.train(layer.training))
        places.append((attention.module, attribute, layer, linear))
    return places


def _weight_of(wrapper: LoraLinear | LoraAttention, name: str) -> Tensor:
    if isinstance(wrapper, LoraLinear):
        return wrapper.base.weight
    return wrapper.base.out_proj.weight if name == "out" else wrapper.base.in_proj_weight


def _added(
    result: Tensor, x: Tensor, parts: nn.ModuleDict | dict[str, nn.Module], rows: dict[str, slice]
) -> Tensor:
    """Adds each update to its columns of the result."""
    pieces, place = [], 0
    for name, part in sorted(parts.items(), key=lambda item: rows[item[0]].start):
        begin, end = rows[name].start, rows[name].stop
        if begin > place:
            pieces.append(result[..., place:begin])
        pieces.append(result[..., begin:end] + part(x))
        place = end
    if place < result.shape[-1]:
        pieces.append(result[..., place:])
    return torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]
