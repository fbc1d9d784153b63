"""What the baselines share: pooled bags as CMUS-Net has them, one width, stand-ins and masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.aggregators import BagPooling
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Pooled
from glomflow.models.cmus_net import hide_modalities
from glomflow.models.heads import fusion_head


class Baseline(PatientNet):
    """Projects tokens to one width, and knows which of them are there.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
        width: Channels that tokens are projected to; None to leave each modality's as they are.

    Attributes:
        widths: Channels of each modality's tokens after projection.
    """

    def __init__(
        self, model: config.Model, channels: Mapping[str, int], classes: int, width: int | None
    ) -> None:
        super().__init__(model, channels, classes)
        self.widths = {name: width or count for name, count in self.channels.items()}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(count, width) for name, count in self.channels.items()} if width else {}
        )
        self.stand_ins = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(count)) for name, count in self.widths.items()}
            if model.absent == "learned"
            else {}
        )

    def one_width(self) -> int:
        """Returns the channels that all modalities have in common.

        Raises:
            GlomflowError: They differ.
        """
        if len(set(self.widths.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in self.widths.items())
            raise GlomflowError(
                f"width: {self.settings.kind} needs as many channels for every modality, and the encoders "
                f"have {counts}; set the model's width, such as width: 256, to project them"
            )
        return next(iter(self.widths.values()))

    def classifier(self, width: int) -> nn.Sequential:
        """Builds the head that CMUS-Net has after its fusion, on (B, width)."""
        model = self.settings
        return fusion_head(width, model.hidden, self.classes, dropout=model.dropout, ordinal=model.ordinal)

    def presence(self, pooled: Pooled) -> dict[str, Tensor]:
        """Returns which patients have each modality, and under 'fusion' which have any, (B,) bool.

        In training, ``modality_dropout`` hides some that are there.

        Args:
            pooled: Pooled bags.
        """
        present = {name: pooled.present[name] for name in self.modalities}
        if self.training and self.settings.modality_dropout:
            present = hide_modalities(present, self.settings.modality_dropout)
        return {**present, "fusion": torch.stack(list(present.values())).any(0)}

    def tokens(self, pooled: Pooled, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Projects tokens to the network's width.

        Args:
            pooled: Pooled bags.
            present: As of :meth:`presence`.

        Returns:
            Per modality, (B, N, D); where it is missing zeros, or with ``absent: learned`` its stand-in.
        """
        projected = {}
        for name in self.modalities:
            own = pooled.tokens[name]
            if name in self.projections:
                own = self.projections[name](own)
            lacking = ~present[name][:, None, None]
            if name in self.stand_ins:
                projected[name] = torch.where(lacking, self.stand_ins[name].to(own.dtype), own)
            else:
                projected[name] = own.masked_fill(lacking, 0)
        return projected

    def summaries(self, pooled: Pooled, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the mean of each modality's :meth:`tokens`, (B, D)."""
        return {name: tokens.mean(1) for name, tokens in self.tokens(pooled, present).items()}

    def used(self, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns which patients' tokens of each modality are to be used, (B,) bool; stand-ins are."""
        return {
            name: torch.ones_like(present[name]) if name in self.stand_ins else present[name]
            for name in self.modalities
        }


class PooledBaseline(Baseline):
    """Pools bags by the model's own settings first; what follows is a subclass's.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
        width: As of :class:`Baseline`.
    """

    def __init__(
        self, model: config.Model, channels: Mapping[str, int], classes: int, width: int | None
    ) -> None:
        super().__init__(model, channels, classes, width)
        self.pooling = BagPooling(model, self.channels)

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
