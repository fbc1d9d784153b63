"""What all networks of the diagnosis track share.

A network is used in two steps, which :meth:`PatientNet.forward` joins: :meth:`PatientNet.pool` turns bags
of feature maps into one map per modality, :meth:`PatientNet.classify` turns those into logits. Where
pooling has nothing to learn (:attr:`PatientNet.static_pooling`) and the encoder is frozen, it runs once per
patient and training repeats the second step only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.batch import Batch, Pooled
from glomflow.models.losses import Criterion
from glomflow.models.outputs import Outputs, probabilities

FUSION_ORDER = ("TEM", "OM", "IM")
"""Order in which fusion heads concatenate modalities."""


class PatientNet(nn.Module):
    """A network over bags of feature maps.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.

    Attributes:
        settings: The model's section.
        modalities: Its modalities, in the order TEM, OM, IM.
        channels: C per modality.
        classes: K.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.settings = model
        self.modalities: tuple[str, ...] = tuple(name for name in FUSION_ORDER if name in model.modalities)
        self.channels = {name: int(channels[name]) for name in self.modalities}
        self.classes = classes
        self.standardise = model.standardise and not model.parity
        if self.standardise:
            for name, count in self.channels.items():
                self.register_buffer(f"mean_{name}", torch.zeros(count))
                self.register_buffer(f"scale_{name}", torch.ones(count))

    def set_standardisation(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Fixes the mean and SD that each modality's channels are standardised by.

        Args:
            statistics: Per modality, mean (C,) and SD (C,) over the training patients.
        """
        for name, (mean, deviation) in statistics.items():
            self.get_buffer(f"mean_{name}").copy_(mean)
            flat = deviation < 1e-6
            self.get_buffer(f"scale_{name}").copy_(torch.where(flat, 1.0, 1.0 / deviation.clamp(min=1e-6)))

    def standardised(self, modality: str, maps: Tensor) -> Tensor:
        """Returns (B, n, h, w, C) maps with standardised channels; unchanged where that is set aside."""
        if not self.standardise:
            return maps
        return (maps - self.get_buffer(f"mean_{modality}")) * self.get_buffer(f"scale_{modality}")

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Names of the heads, in the order of the outputs' logits; 'fusion' is one of them."""

    @property
    @abstractmethod
    def static_pooling(self) -> bool:
        """Whether :meth:`pool` has no trained parameter and no random draw."""

    @abstractmethod
    def pool(self, batch: Batch) -> Pooled:
        """Turns each bag into one map."""

    @abstractmethod
    def classify(self, pooled: Pooled) -> Outputs:
        """Runs fusion and heads on pooled maps."""

    def attention_maps(self, pooled: Pooled) -> dict[str, Tensor]:
        """Returns where each modality's map is looked at by the attention between modalities.

        For explanations: training never computes these.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Per modality whose map is looked at, (B, heads, N, N): the weight of each of its tokens (last
            axis) for each token that asks; zeros for patients who lack a side. Empty for networks
            without such attention.
        """
        return {}

    def forward(self, batch: Batch) -> Outputs:
        """Runs the whole network.

        Args:
            batch: Bags of feature maps for the model's modalities (others are ignored).

        Returns:
            Logits per head, and the weights of the instances.
        """
        return self.classify(self.pool(batch))

    def loss(self, outputs: Outputs, labels: Tensor, criterion: Criterion) -> Tensor:
        """Returns the training loss, a scalar.

        Args:
            outputs: What :meth:`forward` returned.
            labels: (B,) int64 class numbers.
            criterion: The loss, for this network's heads.
        """
        return criterion(outputs, labels)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Returns the class probabilities of the fusion head, (B, K) float64, rows summing to 1."""
        return probabilities(self.forward(batch))
