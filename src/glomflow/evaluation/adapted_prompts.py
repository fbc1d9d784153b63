"""The prompts of a backbone, checked against the classes that were drawn."""

from __future__ import annotations

from pathlib import Path

from glomflow.config import Config
from glomflow.evaluation.draws import DRAWS
from glomflow.models.vlm.prompt_check import check_prompts
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
    classes = settings.few_shot.classes or drawn
    checked = check_prompts(settings.vlm, backbone, classes, offline=settings.run.offline)
    prompts, lengths = checked.prompts, dict(zip(checked.prompts.texts, checked.lengths, strict=True))
    return {
        "backbone": backbone,
        "most_tokens": checked.context,
        "classes": {
            name: {"name": words, "tokens": {text: lengths[text] for text in texts}}
            for name, words, texts in zip(prompts.classes, prompts.names, prompts.prompts, strict=True)
        },
    }
