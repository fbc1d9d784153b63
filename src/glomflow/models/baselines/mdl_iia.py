"""MDL-IIA: attention within and between modalities, then over channels and places."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.baselines.base import PooledBaseline
from glomflow.models.batch import Pooled, masked_softmax
from glomflow.models.outputs import Outputs


class MdlIia(PooledBaseline):
    """Self-attention in each modality and across all, then channel and spatial attention.

    Taken from Zhang et al., "Predicting breast cancer types on and beyond molecular level in a multi-modal
    fashion", npj Breast Cancer 9, 2023 (MDL-IIA, which CMUS-Net's authors compare with): self-attention on
    each modality's map, self-attention on all maps laid side by side, channel and spatial attention on
    their channels, global average pooling of each, and a perceptron over the concatenation. Adapted: three
    modalities of one image or bag each, where mammography had two views; the scores of the attention are
    scaled; missing modalities are hidden from it and are zeros elsewhere (with ``absent: learned`` a
    stand-in takes their place); as the maps do not show the same
    place, spatial attention is one per modality, and it looks at one token at a time, not at 3 x 3; the
    encoder's stage between the two attentions is left out.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model; the same for all, unless the model has a
            ``width``.
        classes: K.

    Raises:
        GlomflowError: Modalities differ in their channels.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes, model.width)
        width = self.one_width()
        self.intra = nn.ModuleDict({name: ResidualAttention(width) for name in self.modalities})
        self.inter = ResidualAttention(width)
        total = len(self.modalities) * width
        self.channel_attention = nn.Sequential(
            nn.Linear(total, max(1, total // 2)), nn.ReLU(), nn.Linear(max(1, total // 2), total)
        )
        self.spatial_attention = nn.Linear(2, 1, bias=False)
        self.fusion = self.classifier(total)

    @property
    def heads(self) -> tuple[str, ...]:
        """The fusion head alone."""
        return ("fusion",)

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs the attentions and the head.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits of the fusion head.
        """
        present = self.presence(pooled)
        used = self.used(present)
        maps, masks = [], []
        for name, tokens in self.tokens(pooled, present).items():
            mask = used[name][:, None].expand(-1, tokens.shape[1])
            maps.append(self.intra[name](tokens, mask))
            masks.append(mask)
        together = self.inter(torch.cat(maps, dim=1), torch.cat(masks, dim=1))
        maps = list(together.split([mask.shape[1] for mask in masks], dim=1))
        logits = self.fusion(torch.cat(self._refined(maps, masks), dim=1))
        return Outputs({"fusion": logits}, present, pooled.weights, pooled.kept)

    def _refined(self, maps: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """Returns the mean token of each map after channel and spatial attention, (B, D)."""
        average = torch.cat([tokens.mean(1) for tokens in maps], dim=1)
        largest = torch.cat([tokens.amax(1) for tokens in maps], dim=1)
        gates = torch.sigmoid(self.channel_attention(average) + self.channel_attention(largest))
        summaries = []
        for tokens, gate, mask in zip(maps, gates.chunk(len(maps), dim=1), masks, strict=True):
            refined = tokens * gate[:, None]
            places = torch.stack([refined.amax(2), refined.mean(2)], dim=2)
            refined = refined * torch.sigmoid(self.spatial_attention(places)) + tokens
            summaries.append(refined.mean(1).masked_fill(~mask[:, :1], 0))
        return summaries


class ResidualAttention(nn.Module):
    """Self-attention whose answer is added with a learned strength that starts at zero (SAGAN).

    Taken from Zhang et al., "Self-attention generative adversarial networks", ICML 2019; queries and keys
    have an eighth of the channels.

    Args:
        width: D, channels of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(1, width // 8)
        self.scale = float(narrow**-0.5)
        self.query = nn.Linear(width, narrow)
        self.key = nn.Linear(width, narrow)
        self.value = nn.Linear(width, width)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Adds to each token what it reads from the others.

        Args:
            tokens: (B, N, D).
            mask: (B, N) bool, True where there is a token; the others stay as they are.

        Returns:
            (B, N, D).
        """
        scores = self.query(tokens) * self.scale @ self.key(tokens).mT
        answers = masked_softmax(scores, mask[:, None, :]) @ self.value(tokens)
        added: Tensor = self.strength * answers.masked_fill(~mask[:, :, None], 0)
        return tokens + added
