"""What fine-tuning methods share: they change a backbone for one run and put it back to the bit."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from glomflow.errors import GlomflowError
from glomflow.models.vlm.losses import ContrastiveLoss
from glomflow.models.vlm.methods.base import Recipe, Settings

Loss = ContrastiveLoss | Literal["cross_entropy"]


@dataclass(frozen=True)
class Cut:
    """The first block of each tower that a method changes; None: the tower stays as it is."""

    vision: int | None
    text: int | None


@dataclass(frozen=True)
class TunedSettings(Settings):
    """What all fine-tuning methods can be told.

    Attributes:
        recipe: How they are trained.
        loss: ``supervised_contrastive``: image-text contrastive, all texts of an image's class alike.
            ``arange``: as published, the image's own place only. ``cross_entropy``: over the classes.
        texts: ``ensemble``: a class is the mean of its prompts. ``sampled``: each image of a batch gets one
            of its class's prompts; prediction takes the mean.
        steps_per_shot: If set, training takes so many steps per shot of the largest class, whatever
            ``recipe.epochs`` says.
    """

    recipe: Recipe
    loss: Loss = "supervised_contrastive"
    texts: Literal["ensemble", "sampled"] = "ensemble"
    steps_per_shot: int | None = None


class TunedMethod(ABC):
    """A way to change a backbone's own layers, or to add some."""

    name: ClassVar[str]
    needs: ClassVar[Literal["activations"]] = "activations"
    settings: Any

    @abstractmethod
    def cut(self, backbone: Any) -> Cut:
        """Returns where activations can be cached.

        Raises:
            GlomflowError: The backbone has not the blocks that the settings name.
        """

    @abstractmethod
    def attached(
        self, backbone: Any, seed: int
    ) -> contextlib.AbstractContextManager[dict[str, nn.Parameter]]:
        """Makes the backbone trainable within the block, and puts it back at its end.

        Args:
            backbone: The frozen model; shared by all runs.
            seed: Seed of what is drawn at the start.

        Yields:
            The parameters to train, by name.
        """

    @contextlib.contextmanager
    def training(self, backbone: Any) -> Iterator[None]:
        """Switches what the method has added to training mode within the block (dropout)."""
        yield


@contextlib.contextmanager
def borrowed(parameters: dict[str, nn.Parameter]) -> Iterator[dict[str, nn.Parameter]]:
    """Lets a backbone's own parameters be trained, and puts their bits back.

    Raises:
        GlomflowError: They cannot be put back.
    """
    before = {name: value.detach().clone() for name, value in parameters.items()}
    for value in parameters.values():
        value.requires_grad_(True)
    try:
        yield parameters
    finally:
        with torch.no_grad():
            for name, value in parameters.items():
                value.requires_grad_(False).copy_(before[name])
                value.grad = None
    changed = [name for name, value in parameters.items() if not same_bits(value, before[name])]
    if changed:
        raise GlomflowError(f"fine-tuning: '{changed[0]}' was not put back; load the backbone again")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Tells whether two tensors are the same to the bit (a NaN is itself)."""
    views = [value.detach().contiguous().view(-1).view(torch.uint8) for value in (one, other)]
    return torch.equal(*views)


def last_blocks(tower: Any, count: int, name: str, where: str) -> int:
    """Returns the number of the first of the last ``count`` blocks.

    Raises:
        GlomflowError: The tower has fewer.
    """
    depth = len(tower.blocks)
    if not 0 <= count <= depth:
        raise GlomflowError(f"{name}: {where} is {count}, and the tower has {depth} blocks; lower it")
    return depth - count


def chosen_blocks(tower: Any, blocks: Sequence[int] | None, name: str, where: str) -> list[int]:
    """Returns the blocks that a setting names, all if it is None; negative ones count from the end.

    Raises:
        GlomflowError: The tower has no such block.
    """
    depth = len(tower.blocks)
    if blocks is None:
        return list(range(depth))
    wrong = [number for number in blocks if not -depth <= number < depth]
    if wrong:
        raise GlomflowError(
            f"{name}: {where} names block {wrong[0]}, and the tower has blocks 0 to {depth - 1}; correct it"
        )
    return sorted({number % depth for number in blocks})
