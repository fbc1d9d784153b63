"""The text transformer of open_clip as a tower that can be cut between blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glomflow.errors import GlomflowError
from glomflow.models.vlm.backbone import TextTower, mask_at, token_at


class OpenClipText(TextTower):
    """open_clip's text transformer, of a CLIP model (which holds its parts) or on its own.

    Args:
        owner: The ``CLIP`` model or the ``TextTransformer``.
        pool: How text is pooled.
        end: Token of the text's end, for ``pool`` eos.
    """

    def __init__(self, owner: Any, pool: str, end: int | None) -> None:
        super().__init__()
        self.transformer = owner.transformer
        self.token_embedding = owner.token_embedding
        self.positional_embedding = owner.positional_embedding
        self.ln_final = owner.ln_final
        self.text_projection = owner.text_projection
        self.cls_emb = getattr(owner, "cls_emb", None)
        self.register_buffer("attn_mask", owner.attn_mask, persistent=False)
        self.heads = int(owner.transformer.resblocks[0].attn.num_heads)
        self.pool = pool
        self.end = -1 if end is None else end
        self.masks_filling = bool(getattr(owner, "use_pad_mask", False)) or self.cls_emb is not None
        self.filling = int(getattr(owner, "pad_id", 0))
        self.corrected = bool(getattr(owner, "correct_cls_mask", False))

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        blocks: nn.ModuleList = self.transformer.resblocks
        return blocks

    def token_embeddings(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings of tokens, without positions."""
        embeddings: Tensor = self.token_embedding(tokens)
        return embeddings

    def embedded(self, embeddings: Tensor) -> Tensor:
        """Adds the class token, if the model has one, and positions."""
        if self.cls_emb is not None:
            last = self.cls_emb.expand(embeddings.shape[0], 1, -1)
            embeddings = torch.cat([embeddings, last], dim=1)
        hidden: Tensor = embeddings + self.positional_embedding[: embeddings.shape[1]]
        return hidden

    def head(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        """Takes the state at the text's end (or of the class token) and projects it."""
        if self.cls_emb is not None:
            return self._head_at(hidden[:, -1:])
        return self._head_at(token_at(hidden, self._end(hidden, inputs)))

    def _head_at(self, token: Tensor) -> Tensor:
        pooled: Tensor = self.ln_final(token[:, 0])
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(pooled)  # type: ignore[no-any-return]
        return pooled @ self.text_projection  # type: ignore[no-any-return]

    def _end(self, hidden: Tensor, tokens: Tensor | None) -> Tensor:
        """Returns the place of the token that stands for the text, (N,)."""
        if self.pool in ("first", "last"):
            place = 0 if self.pool == "first" else hidden.shape[1] - 1
            return torch.full((len(hidden),), place, dtype=torch.int64, device=hidden.device)
        if tokens is None:
            raise GlomflowError("a text tower finds the end of the text in its tokens; pass them to head()")
        marks = tokens if self.pool == "argmax" else torch.eq(tokens, self.end).int()
        return marks.argmax(dim=-1)

    def _mask(self, hidden: Tensor, inputs: Tensor | None) -> Tensor | None:
        """Masks later tokens, and what fills up the text where the model is told to."""
        length = hidden.shape[1]
        buffer: Tensor | None = self.attn_mask  # type: ignore[assignment]
        causal = None if buffer is None else buffer[:length, :length].to(hidden.dtype)
        if not self.masks_filling:
            return causal
        if inputs is None:
            raise GlomflowError("this text tower masks by the tokens; pass them to run() as inputs")
        valid = inputs != self.filling
        if self.cls_emb is not None:
            # Published CoCa models shift the mask by one place; newer ones are corrected.
            one = valid.new_ones(len(valid), 1)
            valid = torch.cat([valid, one] if self.corrected else [one, valid], dim=1)
        added = torch.zeros(len(valid), length, length, dtype=hidden.dtype, device=hidden.device)
        added.masked_fill_(~valid[:, None, :], float("-inf"))
        return (added if causal is None else added + causal).repeat_interleave(self.heads, dim=0)

    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return block(hidden, attn_mask=mask)  # type: ignore[no-any-return]

    def _read(self, hidden: Tensor, inputs: Tensor | None) -> Tensor | None:
        return None if self.cls_emb is not None else self._end(hidden, inputs)

    def _block_at(self, block: nn.Module, hidden: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
        return block_at(block, hidden, place, mask)


def block_at(block: Any, hidden: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
    """Runs a ``ResidualAttentionBlock`` of open_clip for one token of each sequence.

    Args:
        block: The block.
        hidden: (N, L, width).
        place: (N,) the token.
        mask: As for the whole block.

    Returns:
        (N, 1, width).
    """
    seen, own = block.ln_1(hidden), token_at(hidden, place)
    rows = mask_at(mask, place, block.attn.num_heads)
    token = token_at(seen, place)
    attended = block.attn(token, seen, seen, need_weights=False, attn_mask=rows)[0]
    own = own + block.ls_1(attended)
    result: Tensor = own + block.ls_2(block.mlp(block.ln_2(own)))
    return result
