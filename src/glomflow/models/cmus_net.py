"""CMUS-Net: cross-modal, ultrastructure-led classification (arXiv 2512.15171).

A model is used in two steps, which :meth:`CmusNet.forward` joins: :meth:`CmusNet.pool` turns bags of
feature maps into one map per modality and has no trained parameter, so that with a frozen encoder it
runs once per patient; :meth:`CmusNet.classify` is what training repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.batch import Batch, Instances, Pooled, gather_bags, mean_over_instances
from glomflow.models.cmsa import CrossModalAttention
from glomflow.models.encoders import EncoderBank
from glomflow.models.losses import weighted_loss
from glomflow.models.smil import smil_distance, smil_sum
from glomflow.tables import MODALITIES

FUSION_ORDER = ("TEM", "OM", "IM")
"""Order in which the fusion head concatenates modalities."""


@dataclass
class Outputs:
    """What the model says about B patients and K classes.

    Attributes:
        logits: Per head ('fusion' and each modality), (B, K).
        present: Per head, (B,) bool, True where the head has something to look at.
        instance_weights: (B, n) weight of every TEM instance, or None without TEM.
        instance_kept: (B, n) bool, TEM instances that passed the filter, or None without TEM.
    """

    logits: dict[str, Tensor]
    present: dict[str, Tensor]
    instance_weights: Tensor | None
    instance_kept: Tensor | None


class CmusNet(nn.Module):
    """Branch heads, cross-modal attention and fusion over feature maps.

    A modality that a patient lacks enters the fusion as zeros and its branch head is not scored;
    without TEM the other maps pass the attention unchanged.

    Args:
        model: The model's section of the configuration.
        channels: C, channels of the feature maps.
        classes: K.

    Raises:
        GlomflowError: The attention heads do not divide the channels.
    """

    def __init__(self, model: config.Model, channels: int, classes: int) -> None:
        super().__init__()
        self.settings = model
        self.channels = channels
        self.modalities: tuple[str, ...] = tuple(name for name in FUSION_ORDER if name in model.modalities)
        self.attended = tuple(name for name in self.modalities if name != "TEM" and "TEM" in self.modalities)
        self.parity = model.parity
        if self.attended:
            self.cmsa = CrossModalAttention(channels, model.cmsa.heads, parity=model.parity)
        self.heads = nn.ModuleDict({name: nn.Linear(channels, classes) for name in self.modalities})
        self.fusion = nn.Sequential(
            nn.Linear(len(self.modalities) * channels, model.hidden),
            nn.Dropout(model.dropout),
            nn.ReLU(),
            nn.Linear(model.hidden, classes),
        )
        self.standardise = model.standardise and not model.parity
        if self.standardise:
            for name in self.modalities:
                self.register_buffer(f"mean_{name}", torch.zeros(channels))
                self.register_buffer(f"scale_{name}", torch.ones(channels))

    def set_standardisation(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Fixes the mean and SD that each modality's channels are standardised by.

        Args:
            statistics: Per modality, mean (C,) and SD (C,) over the training patients.
        """
        for name, (mean, deviation) in statistics.items():
            self.get_buffer(f"mean_{name}").copy_(mean)
            flat = deviation < 1e-6
            self.get_buffer(f"scale_{name}").copy_(torch.where(flat, 1.0, 1.0 / deviation.clamp(min=1e-6)))

    def forward(self, batch: Batch) -> Outputs:
        """Runs the whole model.

        Args:
            batch: Bags of feature maps for the model's modalities (others are ignored).

        Returns:
            Logits per head, and the weights of the TEM instances.
        """
        return self.classify(self.pool(batch))

    def pool(self, batch: Batch) -> Pooled:
        """Turns each bag into one map: SMIL over TEM, the mean over several OM or IM instances.

        Args:
            batch: Bags of feature maps.

        Returns:
            Tokens (B, N, C) per modality, zeros where it is missing.
        """
        tokens: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        weights = kept = None
        for name in self.modalities:
            maps, mask = batch.maps[name], batch.masks[name]
            if self.standardise:
                maps = (maps - self.get_buffer(f"mean_{name}")) * self.get_buffer(f"scale_{name}")
            if name == "TEM":
                merged, weights, kept = self._pool_tem(maps, mask)
            else:
                merged = mean_over_instances(maps, mask)
            tokens[name] = merged.flatten(1, 2)
            present[name] = mask.any(1)
        return Pooled(tokens, present, weights, kept)

    def _pool_tem(self, maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        smil = self.settings.smil
        if smil.variant == "sum":
            return smil_sum(maps, mask)
        return smil_distance(maps, mask, smil.threshold, parity=self.parity)

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs attention and heads on pooled maps.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits per head.
        """
        summaries = {name: pooled.tokens[name].mean(1) for name in self.modalities}
        if self.attended:
            others = [pooled.tokens[name] for name in self.attended]
            answers = self.cmsa.pooled(pooled.tokens["TEM"], others)
            for name, answer in zip(self.attended, answers, strict=True):
                summaries[name] = torch.where(pooled.present["TEM"][:, None], answer, summaries[name])
        for name, summary in summaries.items():
            summaries[name] = summary.masked_fill(~pooled.present[name][:, None], 0)
        logits = {name: self.heads[name](summary) for name, summary in summaries.items()}
        if self.parity:
            logits = {name: torch.relu(values) for name, values in logits.items()}
        logits["fusion"] = self.fusion(torch.cat(list(summaries.values()), dim=1))
        present = {name: pooled.present[name] for name in self.modalities}
        present["fusion"] = torch.stack(list(present.values())).any(0)
        return Outputs(logits, present, pooled.weights, pooled.kept)

    def loss(self, outputs: Outputs, labels: Tensor, weights: config.Loss) -> Tensor:
        """Returns the weighted sum of the heads' cross-entropies, see :func:`losses.weighted_loss`.

        Args:
            outputs: What :meth:`forward` returned.
            labels: (B,) int64 class numbers.
            weights: Weight of each head.

        Returns:
            Scalar.
        """
        return weighted_loss(outputs.logits, outputs.present, labels, weights, summed=self.parity)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Returns the class probabilities of the fusion head.

        Args:
            batch: Bags of feature maps.

        Returns:
            (B, K) float64, rows summing to 1.
        """
        return probabilities(self.forward(batch))


class PatientModel(nn.Module):
    """CMUS-Net with the encoders in front of it, or without where features are cached.

    Args:
        net: The model over feature maps.
        bank: Trainable encoders; None if instances are feature maps already.
    """

    def __init__(self, net: CmusNet, bank: EncoderBank | None = None) -> None:
        super().__init__()
        self.net = net
        self.bank = bank

    def batch(self, instances: Instances) -> Batch:
        """Encodes the instances, each once and no padding, and lays them out as bags.

        Args:
            instances: Crops or feature maps of B patients.

        Returns:
            Padded bags of feature maps.
        """
        maps, masks = {}, {}
        for name in self.net.modalities:
            rows = instances.rows[name]
            encoded = rows.float() if self.bank is None else self.bank(name, rows)
            maps[name], masks[name] = gather_bags(encoded, instances.slots[name])
        return Batch(maps, masks)

    def forward(self, instances: Instances) -> Outputs:
        """Runs the whole model on crops or feature maps."""
        outputs: Outputs = self.net(self.batch(instances))
        return outputs


def probabilities(outputs: Outputs) -> Tensor:
    """Returns the fusion head's softmax, (B, K) float64."""
    return torch.softmax(outputs.logits["fusion"].double(), dim=1)


def modality_names(present: Mapping[str, bool]) -> str:
    """Joins the names of the modalities that are present by '+', in the order OM, IM, TEM."""
    return "+".join(name for name in MODALITIES if present.get(name))
