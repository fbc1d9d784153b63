"""CMUS-Net: cross-modal, ultrastructure-led classification (arXiv 2512.15171), and its ablations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.aggregators import BagPooling
from glomflow.models.attention import build_attention
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Pooled
from glomflow.models.heads import fusion_head, linear_head
from glomflow.models.outputs import Outputs


class CmusNet(PatientNet):
    """Multi-instance pooling, attention between modalities, branch heads and fusion over feature maps.

    A modality that a patient lacks neither asks nor is asked, enters the fusion as zeros, the mean of
    standardised features, and its branch head is not scored. With ``absent: learned`` a learned token,
    the same at all places of the map, stands in for it instead, also as the one that asks; its branch is
    not scored either. The same holds for modalities hidden by ``modality_dropout``.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.

    Raises:
        GlomflowError: Modalities differ in channels and there is no ``width``, or the attention heads do
            not divide the channels.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes)
        width = model.width or _common(self.channels)
        self.parity = model.parity
        self.pooling = BagPooling(model, self.channels)
        self.projections = nn.ModuleDict(
            {name: nn.Linear(count, width) for name, count in self.channels.items() if model.width}
        )
        if model.absent == "learned":
            self.stand_ins = nn.ParameterDict(
                {name: nn.Parameter(0.02 * torch.randn(width)) for name in self.modalities}
            )
        self.cmsa = build_attention(model.cmsa, self.modalities, width, parity=model.parity)
        self.branches = nn.ModuleDict(
            {name: linear_head(width, classes, ordinal=model.ordinal) for name in self.modalities}
        )
        self.fusion = fusion_head(
            len(self.modalities) * width,
            model.hidden,
            classes,
            dropout=model.dropout,
            ordinal=model.ordinal,
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """The branch of each modality, and the fusion head."""
        return (*self.modalities, "fusion")

    @property
    def static_pooling(self) -> bool:
        """Whether pooling has nothing to learn."""
        return self.pooling.static

    def pool(self, batch: Batch) -> Pooled:
        """Turns each bag into one map, as ``smil``, ``om_bag`` and ``im_bag`` say.

        Args:
            batch: Bags of feature maps.

        Returns:
            Tokens (B, N, C) per modality, zeros where it is missing.
        """
        maps = {name: self.standardised(name, batch.maps[name]) for name in self.modalities}
        pooled: Pooled = self.pooling(maps, batch.masks)
        return pooled

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs attention and heads on pooled maps.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits per head, log-probabilities where classes are ordered.
        """
        present = {name: pooled.present[name] for name in self.modalities}
        if self.training and self.settings.modality_dropout:
            present = hide_modalities(present, self.settings.modality_dropout)
        tokens, there = self._filled(pooled.tokens, present)
        changed = self.cmsa.pooled(tokens, there)
        summaries = {
            name: values if _surely_all(there[name]) else values.masked_fill(~there[name][:, None], 0)
            for name, values in ((name, changed[name]) for name in self.modalities)
        }
        logits = {name: self.branches[name](summary) for name, summary in summaries.items()}
        if self.parity:
            logits = {name: torch.relu(values) for name, values in logits.items()}
        logits["fusion"] = self.fusion(torch.cat(list(summaries.values()), dim=1))
        present["fusion"] = torch.stack(list(present.values())).any(0)
        return Outputs(logits, present, pooled.weights, pooled.kept)

    @torch.no_grad()
    def attention_maps(self, pooled: Pooled) -> dict[str, Tensor]:
        """Returns where each modality's map is looked at, see :meth:`PatientNet.attention_maps`."""
        tokens, there = self._filled(pooled.tokens, pooled.present)
        return self.cmsa.attention(tokens, there)

    def _filled(
        self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Projects maps and fills in for those not there.

        Returns:
            Tokens (B, N, width) per modality, and which are to be used, (B,).
        """
        filled, there = {}, {}
        for name in self.modalities:
            own = self.projections[name](tokens[name]) if self.projections else tokens[name]
            lacking = ~present[name][:, None, None]
            if self.settings.absent == "learned":
                filled[name] = torch.where(lacking, self.stand_ins[name].to(own.dtype), own)
                there[name] = torch.ones_like(present[name])
            else:
                filled[name] = own if _surely_all(present[name]) else own.masked_fill(lacking, 0)
                there[name] = present[name]
        return filled, there


def hide_modalities(present: Mapping[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Hides modalities of patients at random, drawn from torch's generator; one is always left.

    Args:
        present: Per modality, (B,) bool.
        probability: Of each modality to be hidden.

    Returns:
        Per modality, (B,) bool. Where all that a patient has would be hidden, one of them, each with
        equal probability, is left.
    """
    there = torch.stack(list(present.values()))
    draws = torch.rand(there.shape, device=there.device)
    last = draws.masked_fill(~there, -1.0).argmax(0)
    places = torch.arange(len(there), device=there.device)[:, None]
    left = there & ((draws >= probability) | (places == last))
    return dict(zip(present, left, strict=True))


def _surely_all(mask: Tensor) -> bool:
    """Tells whether all are True, where it can be told without waiting for a GPU or fixing it in a graph."""
    return not torch.compiler.is_compiling() and mask.device.type == "cpu" and bool(mask.all())


def _common(channels: Mapping[str, int]) -> int:
    counts = set(channels.values())
    if len(counts) > 1:
        described = ", ".join(f"{name} {count}" for name, count in channels.items())
        raise GlomflowError(
            f"width: the encoders' channels differ between modalities ({described}); set the model's width, "
            "such as width: 256, or use encoders of equally many channels"
        )
    return counts.pop()
