"""Builds the network that a model's section describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from glomflow import config
from glomflow.models.base import PatientNet
from glomflow.models.baselines.coattention import CoAttention
from glomflow.models.baselines.concatenation import Concatenation
from glomflow.models.baselines.gated_unit import GatedUnit
from glomflow.models.baselines.late_fusion import LateFusion
from glomflow.models.baselines.mdl_iia import MdlIia
from glomflow.models.baselines.mmformer import MmFormer
from glomflow.models.baselines.tabular import TABULAR_NETS
from glomflow.models.cmus_net import CmusNet

NETWORKS: Mapping[str, Callable[[config.Model, Mapping[str, int], int], PatientNet]] = {
    "cmus_net": CmusNet,
    "late_fusion": LateFusion,
    "concatenation": Concatenation,
    "gated_unit": GatedUnit,
    "coattention": CoAttention,
    "mmformer": MmFormer,
    "mdl_iia": MdlIia,
    **TABULAR_NETS,
}
"""The network of each ``kind``."""


def build_net(model: config.Model, channels: Mapping[str, int], classes: int) -> PatientNet:
    """Builds a network with fresh weights, drawn from torch's generator; tabular models have none to draw.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality.
        classes: K.

    Raises:
        GlomflowError: The keys do not fit the channels.
    """
    return NETWORKS[model.kind](model, channels, classes)
