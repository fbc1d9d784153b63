"""Bags of random feature maps that tests of networks share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from glomflow.models.batch import Batch

ALL = ("OM", "IM", "TEM")


def random_batch(
    patients: int,
    channels: Mapping[str, int],
    *,
    grids: Mapping[str, int] | None = None,
    counts: Mapping[str, list[int]] | None = None,
    seed: int = 0,
) -> Batch:
    """Draws bags of 3x3 maps; TEM bags of 2 to 5 instances, OM and IM bags of one, unless told."""
    generator = torch.Generator().manual_seed(seed)
    maps, masks = {}, {}
    for name in ALL:
        usual = [2 + place % 4 if name == "TEM" else 1 for place in range(patients)]
        count = torch.tensor((counts or {}).get(name, usual))
        longest = max(int(count.max()), 1)
        grid = (grids or {}).get(name, 3)
        masks[name] = torch.arange(longest) < count[:, None]
        values = torch.randn(patients, longest, grid, grid, channels[name], generator=generator)
        maps[name] = values * masks[name][:, :, None, None, None]
    return Batch(maps, masks)


def rearranged(batch: Batch, *, keep_first: bool) -> Batch:
    """Reverses the instances of each bag (after the first, if that one is kept) and pads with garbage."""
    maps, masks = {}, {}
    for name, bags in batch.maps.items():
        mask = batch.masks[name]
        places = torch.arange(mask.shape[1]).expand(mask.shape)
        last = mask.sum(1, keepdim=True) - 1
        turned = last + int(keep_first) - places
        order = torch.where(mask & ((places > 0) | (not keep_first)), turned, places)
        moved = torch.stack([bag[rows] for bag, rows in zip(bags, order, strict=True)])
        moved = torch.where(mask[:, :, None, None, None], moved, -50.0)
        maps[name] = torch.cat([moved, torch.full_like(bags[:, :1], 9.0)], 1)
        masks[name] = torch.nn.functional.pad(mask, (0, 1))
    return Batch(maps, masks)


def without(batch: Batch, lacking: Mapping[str, list[int]], garbage: float = 0.0) -> Batch:
    """Takes modalities from patients; what is masked holds ``garbage``."""
    maps = {name: values.clone() for name, values in batch.maps.items()}
    masks = {name: values.clone() for name, values in batch.masks.items()}
    for name, patients in lacking.items():
        maps[name][patients] = garbage
        masks[name][patients] = False
    return Batch(maps, masks)


def on_device(batch: Batch, device: str) -> Batch:
    """Moves a batch."""
    moved: list[dict[str, Tensor]] = [
        {name: values.to(device) for name, values in part.items()} for part in (batch.maps, batch.masks)
    ]
    return Batch(*moved)
