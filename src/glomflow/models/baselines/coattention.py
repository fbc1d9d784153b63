"""Co-attention between the bag of electron micrographs and the other modalities (MCAT)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.attention import CrossAttention
from glomflow.models.baselines.base import Baseline
from glomflow.models.baselines.transformer import GatedPooling, TransformerBlocks
from glomflow.models.batch import Batch, Pooled
from glomflow.models.outputs import Outputs

_LAYERS = 2
_DROPOUT = 0.25


class CoAttention(Baseline):
    """Lets OM and IM tokens say which tokens of which electron micrographs matter.

    Taken from Chen et al., "Multimodal co-attention transformer for survival prediction in gigapixel whole
    slide images" (MCAT), ICCV 2021: projection to one width, co-attention from the guiding modality to the
    bag, a set transformer of two layers and gated attention pooling on either side, and a perceptron over
    their concatenation. Adapted: gene signatures guide there, tokens of OM and IM here, with a transformer
    and a pooling each; a learned query guides along, so that a patient without OM and IM has one too; blocks
    normalise first; classes take the place of survival. It is multi-instance learning itself: all instances
    of all modalities enter with all their tokens, and ``smil``, ``om_bag`` and ``im_bag`` are not used. An
    instance's weight is the share of its tokens in what is pooled.

    Args:
        model: The model's section of the configuration; tokens have ``width`` channels, or ``hidden`` where
            there is none, and ``cmsa.heads`` heads.
        channels: C of the feature maps, per modality of the model.
        classes: K.

    Raises:
        GlomflowError: The attention heads do not divide the channels.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        width = model.width or model.hidden
        super().__init__(model, channels, classes, width)
        self.guides = tuple(name for name in self.modalities if name != "TEM")
        if "TEM" in self.modalities:
            self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
            self.coattention = CrossAttention(self.modalities, width, model.cmsa.heads)
        self.encoders = nn.ModuleDict(
            {
                name: TransformerBlocks(_LAYERS, width, model.cmsa.heads, 2 * width, _DROPOUT)
                for name in self.modalities
            }
        )
        self.poolings = nn.ModuleDict({name: GatedPooling(width) for name in self.modalities})
        self.fusion = self.classifier(len(self.modalities) * width)

    @property
    def heads(self) -> tuple[str, ...]:
        """The fusion head alone."""
        return ("fusion",)

    @property
    def static_pooling(self) -> bool:
        """False: bags are passed on whole, and keeping them would take more memory, not less."""
        return False

    def pool(self, batch: Batch) -> Pooled:
        """Lays out the tokens of all instances, one instance after the other.

        Args:
            batch: Bags of feature maps.

        Returns:
            Tokens (B, n * h * w, C) per modality with their masks; all instances kept.
        """
        tokens, present, weights, kept, token_mask = {}, {}, {}, {}, {}
        for name in self.modalities:
            maps, mask = self.standardised(name, batch.maps[name]), batch.masks[name]
            maps = maps.masked_fill(~mask[:, :, None, None, None], 0)
            tokens[name] = maps.flatten(1, 3)
            token_mask[name] = mask.repeat_interleave(maps.shape[2] * maps.shape[3], dim=1)
            present[name], kept[name] = mask.any(1), mask
            weights[name] = mask / mask.sum(1, keepdim=True).clamp(min=1)
        return Pooled(tokens, present, weights, kept, token_mask)

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs co-attention, transformers, pooling and the head.

        Args:
            pooled: All tokens of all instances.

        Returns:
            Logits of the fusion head, and the weight of every instance.
        """
        present = self.presence(pooled)
        tokens = {name: torch.relu(values) for name, values in self.tokens(pooled, present).items()}
        masks = {name: pooled.token_mask[name] & present[name][:, None] for name in self.modalities}
        summaries, weights = [], {}
        for name in self.modalities:
            entered, mask, attention = tokens[name], masks[name], None
            if name == "TEM":
                entered, mask, attention = self._guided(tokens, masks)
            summary, shares = self.poolings[name](self.encoders[name](entered, mask), mask)
            summaries.append(summary)
            if attention is not None:
                shares = (shares[:, None] @ attention).squeeze(1)
            weights[name] = shares.reshape(*pooled.kept[name].shape, -1).sum(2)
        logits = self.fusion(torch.cat(summaries, dim=1))
        return Outputs({"fusion": logits}, present, weights, pooled.kept)

    def _guided(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what the guides read from TEM (B, Q, D), their mask (B, Q) and attention (B, Q, N)."""
        there = masks["TEM"].any(1, keepdim=True)
        queries = [self.query.expand(len(there), -1, -1), *(tokens[name] for name in self.guides)]
        guiding = [there, *(masks[name] & there for name in self.guides)]
        asking = torch.cat(queries, dim=1)
        attention = self.coattention.shares(asking, tokens["TEM"], masks["TEM"]).mean(1)
        answers = self.coattention.answer(asking, tokens["TEM"], masks["TEM"])
        return answers, torch.cat(guiding, dim=1), attention
