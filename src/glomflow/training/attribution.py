"""Maps of how much each place of an image speaks for a class.

Feature maps are looked at as the network sees them, standardised by the training patients: zero is the
average tissue, and a map says what differs from it for the class. Where a network does not standardise,
zero is a feature that is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Instances
from glomflow.models.patient_model import PatientModel

Maps = dict[str, Tensor]

_AT_ONCE = 8
"""Patients, or copies of one, that a network is run on at once."""


def standardised_maps(net: PatientNet, batch: Batch) -> Maps:
    """Returns a batch's feature maps as the network sees them, (B, n, h, w, C) per modality."""
    return {name: net.standardised(name, batch.maps[name]) for name in net.modalities}


def fusion_logits(net: PatientNet, maps: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    """Runs a network on standardised feature maps.

    Args:
        net: The network.
        maps: Per modality, (B, n, h, w, C).
        masks: Per modality, (B, n) bool.

    Returns:
        Logits of the fusion head, (B, K).
    """
    raw = dict(maps)
    if net.standardise:
        for name, values in maps.items():
            raw[name] = values / net.get_buffer(f"scale_{name}") + net.get_buffer(f"mean_{name}")
    logits: Tensor = net(Batch(raw, dict(masks))).logits["fusion"]
    return logits


def grad_cam(
    net: PatientNet, maps: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: Tensor
) -> Maps:
    """Weights each channel by its mean gradient (Grad-CAM, Selvaraju 2017).

    ReLU(sum over c of a_c F_c), a_c the gradient of the class's fusion logit with respect to channel c,
    averaged over the map. The gradient of an instance holds the weight that its bag's pooling gives it, so
    that maps of different instances compare as they stand.

    Args:
        net: The network, in evaluation mode.
        maps: Standardised feature maps per modality, (B, n, h, w, C).
        masks: Per modality, (B, n) bool.
        target: (B,) int64, the class of each patient.

    Returns:
        Per modality, (B, n, h, w), not negative.
    """
    leaves = {name: values.detach().requires_grad_(True) for name, values in maps.items()}
    with torch.enable_grad():
        logits = fusion_logits(net, leaves, masks)
        chosen = logits.gather(1, target[:, None]).sum()
        gradients = torch.autograd.grad(chosen, list(leaves.values()), materialize_grads=True)
    return {
        name: torch.relu((gradient.mean((2, 3), keepdim=True) * maps[name]).sum(-1))
        for name, gradient in zip(leaves, gradients, strict=True)
    }


def integrated_gradients(
    net: PatientNet, maps: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: int, steps: int
) -> Maps:
    """Integrates the gradient along the line from zero maps (integrated gradients, Sundararajan 2017).

    The values of all maps sum to the class's fusion logit less that of the average tissue, but for the
    error of the integration and for weights of instances that the network takes no gradient of.

    Args:
        net: The network, in evaluation mode.
        maps: Standardised feature maps per modality, (1, n, h, w, C).
        masks: Per modality, (1, n) bool.
        target: The class.
        steps: Points of the integration.

    Returns:
        Per modality, (1, n, h, w), summed over channels; positive speaks for the class.
    """
    names = list(maps)

    def logits(*values: Tensor) -> Tensor:
        copies = {name: masks[name].expand(len(values[0]), -1) for name in names}
        return fusion_logits(net, dict(zip(names, values, strict=True)), copies)

    inputs = tuple(maps[name] for name in names)
    found = _along_the_line(logits, inputs, tuple(map(torch.zeros_like, inputs)), target, steps)
    return {name: values.sum(-1) for name, values in zip(names, found, strict=True)}


def pixel_gradients(
    module: PatientModel, instances: Instances, grids: Mapping[str, tuple[int, int]], target: int, steps: int
) -> Maps:
    """Integrates the gradient over pixels, from an image of the encoder's mean colour.

    Args:
        module: The model with its encoders, in evaluation mode.
        instances: Crops of one patient: uint8 (n, H, W, C) per modality.
        grids: Rows and columns of the feature map of each modality, to which the values of pixels are
            summed.
        target: The class.
        steps: Points of the integration.

    Returns:
        Per modality, (1, n, h, w); positive speaks for the class.

    Raises:
        GlomflowError: The model has no encoder: features are cached.
    """
    if module.bank is None:
        raise GlomflowError("the model reads cached features: there are no pixels to integrate over")
    names = [name for name in module.net.modalities if len(instances.rows[name])]
    inputs = tuple(instances.rows[name].float()[None] for name in names)

    def logits(*values: Tensor) -> Tensor:
        rows, slots = dict(instances.rows), {}
        copies = len(values[0])
        for name, crops in zip(names, values, strict=True):
            rows[name] = crops.flatten(0, 1)
            slots[name] = torch.arange(len(rows[name]), device=crops.device).reshape(copies, -1)
        for name in set(module.net.modalities) - set(names):
            slots[name] = instances.slots[name].expand(copies, -1)
        fusion: Tensor = module(Instances(rows, slots)).logits["fusion"]
        return fusion

    baselines = tuple(
        torch.zeros_like(crops) + _mean_colour(module.bank.settings[name].mean, crops)
        for name, crops in zip(names, inputs, strict=True)
    )
    found = _along_the_line(logits, inputs, baselines, target, steps)
    pooled = {}
    for name, values in zip(names, found, strict=True):
        total = values.sum(-1)
        share = total.shape[2] * total.shape[3] / (grids[name][0] * grids[name][1])
        pooled[name] = functional.adaptive_avg_pool2d(total, grids[name]) * share
    return pooled


def _mean_colour(mean: tuple[float, float, float], crops: Tensor) -> Tensor:
    colour = 255.0 * torch.tensor(mean, dtype=crops.dtype, device=crops.device)
    return colour if crops.shape[-1] == 3 else colour.mean(0, keepdim=True)


def _along_the_line(
    logits: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor, ...],
    target: int,
    steps: int,
) -> tuple[Tensor, ...]:
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise GlomflowError(
            "diagnosis.explanations.attribution: integrated_gradients needs the library captum, which is not "
            "installed; run pip install captum==0.9.0, or set attribution: grad_cam"
        ) from error
    method: Any = IntegratedGradients(logits)
    found = method.attribute(inputs, baselines, target=target, n_steps=steps, internal_batch_size=_AT_ONCE)
    return cast("tuple[Tensor, ...]", tuple(values.detach() for values in found))
