"""Patches of an image in the shared space: what each says by itself, in the tower's own terms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.backbone import Tower


def patch_features(tower: Tower, hidden: Tensor) -> Tensor:
    """Sends each patch through the tower's pooling and projection as if all tokens were that patch's.

    With a class token this is the norm and the projection of the class token, applied to the patch (dense
    CLIP). With average pooling it is what the patch adds to the mean. With attention pooling the weights no
    longer matter, since all keys are one: the value and output projections of the pooling remain, the value
    path of MaskCLIP (Zhou et al., ECCV 2022).

    Args:
        tower: An image tower.
        hidden: (N, tokens, width), the state after its last block.

    Returns:
        (N, rows, columns, D), not normalised.

    Raises:
        GlomflowError: The patches are not a square, or the tower does not say which tokens they are.
    """
    images, count, width = hidden.shape
    patches = hidden[:, tower.prefix :]
    side = math.isqrt(patches.shape[1])
    if not side or side * side != patches.shape[1]:
        raise GlomflowError(
            f"{type(tower).__name__}: {count} tokens of which {tower.prefix} stand before the patches leave "
            f"{patches.shape[1]}, which is no square; patches of this image tower cannot be placed"
        )
    alone = patches.reshape(-1, 1, width).expand(-1, tower.prefix + 1, -1)
    features = tower.head(alone, None)
    if features.ndim != 2:
        raise GlomflowError(
            f"{type(tower).__name__}: its pooling gives {features.ndim - 1} dimensions per image, not one "
            "feature; patches cannot be compared with texts"
        )
    return features.reshape(images, side, side, features.shape[-1])


@torch.no_grad()
def text_maps(backbone: Any, pixels: Tensor, text: Tensor) -> Tensor:
    """Returns the cosine of each patch with each class's text.

    Args:
        backbone: The model.
        pixels: Input, (N, 3, S, S).
        text: (K, D) of unit length.

    Returns:
        (N, K, rows, columns) float32 on the CPU; the first row of patches is the upper edge.

    Raises:
        GlomflowError: The patches cannot be sent through the head, see :func:`patch_features`.
    """
    tower = backbone.vision
    features = functional.normalize(patch_features(tower, tower.run(tower.stem(pixels), 0)), dim=-1)
    return torch.einsum("nrcd,kd->nkrc", features, text.to(features)).float().cpu()
