"""The prompts of a backbone, checked before anything is trained or encoded."""

from __future__ import annotations

from pathlib import Path

from glomflow.config import Config
from glomflow.evaluation.draws import DRAWS
from glomflow.models.vlm.backbone import load_tokeniser
from glomflow.models.vlm.prompts import prompt_lengths, read_prompts
from glomflow.tables import read_table


def checked_prompts(settings: Config, backbone: str, draws: Path) -> dict[str, object]:
    """Checks that every class that was drawn has prompts, and that the backbone takes them.

    Args:
        settings: The configuration.
        backbone: Key of ``vlm.backbones``.
        draws: DRAWS.

    Returns:
        The backbone, most tokens that it takes, and by class its name and its prompts with their tokens.

    Raises:
        GlomflowError: A class has no prompts, or prompts have too many tokens; all of these are named.
    """
    drawn = sorted(read_table(draws, DRAWS)["label"].unique())
    prompts = read_prompts(settings.vlm.labels).subset(settings.few_shot.classes or drawn)
    tokeniser, context = load_tokeniser(
        backbone,
        settings.vlm.backbones[backbone],
        offline=settings.run.offline,
        pretraining=settings.vlm.pretraining,
    )
    lengths = dict(zip(prompts.texts, prompt_lengths(prompts, backbone, tokeniser, context), strict=True))
    return {
        "backbone": backbone,
        "most_tokens": context,
        "classes": {
            name: {"name": words, "tokens": {text: lengths[text] for text in texts}}
            for name, words, texts in zip(prompts.classes, prompts.names, prompts.prompts, strict=True)
        },
    }
