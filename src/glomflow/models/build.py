"""Builds the network that a model's section describes."""

from __future__ import annotations

from collections.abc import Mapping

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.base import PatientNet
from glomflow.models.cmus_net import CmusNet


def build_net(model: config.Model, channels: Mapping[str, int], classes: int) -> PatientNet:
    """Builds a network with fresh weights, drawn from torch's generator.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality.
        classes: K.

    Raises:
        GlomflowError: The keys do not fit the channels.
    """
    if model.kind == "cmus_net":
        return CmusNet(model, channels, classes)
    raise GlomflowError(f"kind: {model.kind} is no network")
