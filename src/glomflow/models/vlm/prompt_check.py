"""The prompts of a backbone, checked without its weights: before it is trained, or encodes anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glomflow.config_vlm import Vlm
from glomflow.models.vlm.backbone import load_tokeniser
from glomflow.models.vlm.prompts import Prompts, prompt_lengths, read_prompts


@dataclass(frozen=True)
class CheckedPrompts:
    """Prompts that a backbone takes.

    Attributes:
        prompts: The sentences.
        lengths: Tokens of each, class by class.
        context: Most tokens that the backbone takes.
    """

    prompts: Prompts
    lengths: list[int]
    context: int


def check_prompts(vlm: Vlm, backbone: str, classes: Sequence[str] | None, *, offline: bool) -> CheckedPrompts:
    """Checks that classes have prompts, and that a backbone takes them.

    Args:
        vlm: The section of the configuration.
        backbone: Key of ``vlm.backbones``, one with a text tower.
        classes: The classes; all of the label set if None.
        offline: Never reach for the internet.

    Raises:
        GlomflowError: A class has no prompts, or prompts have too many tokens; all of these are named.
    """
    prompts = read_prompts(vlm.labels)
    prompts = prompts if classes is None else prompts.subset(classes)
    section = vlm.backbones[backbone]
    tokeniser, context = load_tokeniser(backbone, section, offline=offline, pretraining=vlm.pretraining)
    return CheckedPrompts(prompts, prompt_lengths(prompts, backbone, tokeniser, context), context)
