"""A network with the encoders in front of it."""

from __future__ import annotations

from torch import nn

from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Instances, gather_bags
from glomflow.models.encoders import EncoderBank
from glomflow.models.outputs import Outputs


class PatientModel(nn.Module):
    """A network with the encoders in front of it, or without where features are cached.

    Args:
        net: The model over feature maps.
        bank: Trainable encoders; None if instances are feature maps already.
    """

    def __init__(self, net: PatientNet, bank: EncoderBank | None = None) -> None:
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
