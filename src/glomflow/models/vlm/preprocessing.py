"""From stored crops to a model's input: the model's own resize, crop and normalisation, on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and SD of R, G, B that CLIP was trained with."""

Resize = Literal["shortest", "longest", "squash", "none"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Preprocessing:
    """What a model wants done to an image.

    Attributes:
        size: Edge of the input, px.
        resize: ``shortest``: the shorter edge becomes ``size`` and the middle is cut out. ``longest``: the
            longer edge does, and the rest is filled. ``squash``: both edges do. ``none``: only cut out.
        interpolation: Of the resizing; reducing averages, as PIL does.
        mean: Mean of R, G, B, 0 to 1.
        std: SD of R, G, B, 0 to 1.
        fill: Grey level beyond the image (``longest``), 0 to 255.
    """

    size: int
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fill: int = 0

    def __call__(self, crops: Tensor) -> Tensor:
        """Prepares a batch.

        Args:
            crops: (N, H, W, 3) uint8.

        Returns:
            (N, 3, size, size) float32 on the crops' device. Before normalisation, values are whole grey
            levels, within one of those that PIL's resize gives.

        Raises:
            GlomflowError: The crops are not 8-bit RGB.
        """
        if crops.dtype != torch.uint8 or crops.ndim != 4 or crops.shape[-1] != 3:
            raise GlomflowError(
                f"a vision-language model takes crops of (N, H, W, 3) uint8, not {tuple(crops.shape)} "
                f"{str(crops.dtype).removeprefix('torch.')}"
            )
        values = self._fitted(crops.permute(0, 3, 1, 2)).float()
        scale = torch.tensor([1.0 / (255.0 * s) for s in self.std], device=values.device)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=values.device)
        return values * scale[:, None, None] + shift[:, None, None]

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Returns which part of an image the input shows.

        Args:
            height: Of the image, px.
            width: Of the image, px.

        Returns:
            Left and upper edge, width and height, px of the image; beyond the image where it is filled up.
        """
        tall, wide = self._target(height, width)
        across, down = width / wide, height / tall
        left, top = (_margin(edge, self.size) for edge in (wide, tall))
        return left * across, top * down, self.size * across, self.size * down

    def _fitted(self, images: Tensor) -> Tensor:
        """Resizes and cuts (N, 3, H, W) uint8; returns whole numbers from 0 to 255."""
        height, width = int(images.shape[-2]), int(images.shape[-1])
        target = self._target(height, width)
        if target != (height, width):
            images = resize(images, target, self.interpolation)
        return self._centred(images)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        size = self.size
        if self.resize == "squash":
            return size, size
        if self.resize == "shortest":
            short, long = min(height, width), max(height, width)
            other = int(size * long / short)
            return (size, other) if height <= width else (other, size)
        if self.resize == "longest":
            ratio = max(height, width) / size
            return round(height / ratio), round(width / ratio)
        return height, width

    def _centred(self, images: Tensor) -> Tensor:
        height, width = int(images.shape[-2]), int(images.shape[-1])
        size = self.size
        if height < size or width < size:
            top, left = max(0, (size - height) // 2), max(0, (size - width) // 2)
            bottom, right = max(0, size - height - top), max(0, size - width - left)
            images = functional.pad(images, (left, right, top, bottom), value=self.fill)
            height, width = int(images.shape[-2]), int(images.shape[-1])
        top, left = round((height - size) / 2.0), round((width - size) / 2.0)
        return images[..., top : top + size, left : left + size]


def _margin(edge: int, size: int) -> float:
    """Returns what is cut off (or, if negative, filled in) before the middle, as ``_centred`` does, px."""
    return -max(0, (size - edge) // 2) if edge < size else round((edge - size) / 2.0)


def resize(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Resizes 8-bit images as PIL does, within one grey level (enlarged noise: two).

    Args:
        images: (N, C, H, W) uint8.
        size: Height and width.
        interpolation: Of the resizing; reducing averages.

    Returns:
        (N, C, *size) of whole numbers, 0 to 255: uint8 where a CPU reduces, else float32.
    """
    smaller = size[0] <= images.shape[-2] and size[1] <= images.shape[-1]
    if images.device.type == "cpu" and smaller:  # enlarged bytes are less exact
        return functional.interpolate(
            images, size=size, mode=interpolation, antialias=True, align_corners=False
        )
    return resize_floats(images, size, interpolation)


def resize_floats(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Does the same without a kernel for bytes: along rows, then along columns, rounded after each."""
    for step in ((int(images.shape[-2]), size[1]), size):
        if step != (int(images.shape[-2]), int(images.shape[-1])):
            changed = functional.interpolate(
                images.float(), size=step, mode=interpolation, antialias=True, align_corners=False
            )
            images = changed.add_(0.5).floor_().clamp_(0.0, 255.0)  # halves go up, as in PIL
    return images.float()


def preprocessing_of(size: int, settings: dict[str, Any], source: str) -> Preprocessing:
    """Reads an open_clip ``preprocess_cfg``.

    Args:
        size: Edge of the input that the model was built for, px.
        settings: Its keys; those missing are CLIP's.
        source: Where it is from, for messages.

    Raises:
        GlomflowError: A value is none that is known here.
    """
    resize = str(settings.get("resize_mode") or "shortest")
    interpolation = str(settings.get("interpolation") or "bicubic")
    if resize not in ("shortest", "longest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise GlomflowError(
            f"{source}: resize_mode '{resize}' and interpolation '{interpolation}' are not known; "
            "resize_mode is shortest, longest or squash, interpolation bicubic or bilinear"
        )
    return Preprocessing(
        size=size,
        resize=resize,  # type: ignore[arg-type]
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=_colours(settings.get("mean"), CLIP_MEAN),
        std=_colours(settings.get("std"), CLIP_STD),
        fill=int(settings.get("fill_color") or 0),
    )


def _colours(given: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if given is None:
        return default
    red, green, blue = (float(value) for value in given)
    return red, green, blue
