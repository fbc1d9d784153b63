"""What the baselines share: pooled bags as CMUS-Net has them, one width, and masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Pooled, mean_over_instances
from glomflow.models.smil import smil_distance, smil_sum


class Baseline(PatientNet):
    """Pools bags by the model's own settings; what follows is a subclass's.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
        width: Channels that tokens are projected to; None to leave each modality's as they are.
    """

    def __init__(
        self, model: config.Model, channels: Mapping[str, int], classes: int, width: int | None
    ) -> None:
        super().__init__(model, channels, classes)
        self.widths = {name: width or count for name, count in self.channels.items()}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(count, width) for name, count in self.channels.items()} if width else {}
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
                f"have {counts}; set the model's width, such as 256, to project them"
            )
        return next(iter(self.widths.values()))

    @property
    def static_pooling(self) -> bool:
        """Whether pooling has nothing to learn."""
        return True

    def pool(self, batch: Batch) -> Pooled:
        """Turns each bag into one map."""
        tokens, present, weights, kept = {}, {}, {}, {}
        for name in self.modalities:
            maps, mask = self.standardised(name, batch.maps[name]), batch.masks[name]
            variant = self.settings.pooling_of(name)
            if variant.variant == "sum":
                merged, weights[name], kept[name] = smil_sum(maps, mask)
            elif variant.variant == "distance":
                merged, weights[name], kept[name] = smil_distance(maps, mask, variant.threshold)
            else:
                merged, kept[name] = mean_over_instances(maps, mask), mask
                weights[name] = mask / mask.sum(1, keepdim=True).clamp(min=1)
            tokens[name] = merged.flatten(1, 2)
            present[name] = mask.any(1)
        return Pooled(tokens, present, weights, kept)

    def tokens(self, pooled: Pooled) -> dict[str, Tensor]:
        """Returns each modality's tokens at the model's width, (B, N, D); zeros where it is missing."""
        projected = {}
        for name in self.modalities:
            tokens = pooled.tokens[name]
            if name in self.projections:
                tokens = self.projections[name](tokens)
            projected[name] = tokens.masked_fill(~pooled.present[name][:, None, None], 0)
        return projected

    def summaries(self, pooled: Pooled) -> dict[str, Tensor]:
        """Returns each modality's mean token, (B, D); zeros where it is missing."""
        return {name: tokens.mean(1) for name, tokens in self.tokens(pooled).items()}

    def presence(self, pooled: Pooled) -> dict[str, Tensor]:
        """Returns which patients have each modality, and under 'fusion' which have any, (B,) bool."""
        present = {name: pooled.present[name] for name in self.modalities}
        return {**present, "fusion": torch.stack(list(present.values())).any(0)}


def classifier(model: config.Model, width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, model.hidden),
        nn.Dropout(model.dropout),
        nn.ReLU(),
        nn.Linear(model.hidden, classes),
    )
