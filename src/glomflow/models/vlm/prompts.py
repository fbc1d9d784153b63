"""The class texts of a backbone: the prompts of a label set as tokens and embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.backbone import Backbone, Tokeniser, tokens_of_prompt
from glomflow.models.vlm.label_sets import PRESETS, Prompts, raise_problems, read_prompts, write_prompts

__all__ = [
    "PRESETS",
    "ClassPrompts",
    "Prompts",
    "encode_prompts",
    "ensemble",
    "prompt_lengths",
    "read_prompts",
    "write_prompts",
]


@dataclass(frozen=True)
class ClassPrompts:
    """The class texts of a backbone.

    Attributes:
        prompts: The sentences.
        tokens: (T, L) int64, class by class.
        owners: (T,) int64, place of each sentence's class.
        embeddings: (T, D) of unit length.
        text: (K, D) of unit length: per class the mean of its sentences' embeddings, made unit length
            again (Radford 2021, prompt ensembling).
    """

    prompts: Prompts
    tokens: Tensor
    owners: Tensor
    embeddings: Tensor
    text: Tensor

    @property
    def classes(self) -> tuple[str, ...]:
        """K class names."""
        return self.prompts.classes


def encode_prompts(prompts: Prompts, backbone: Backbone) -> ClassPrompts:
    """Embeds the class texts.

    Args:
        prompts: The sentences.
        backbone: Whose text tower is used, as it is.

    Raises:
        GlomflowError: Sentences have more tokens than the backbone takes; all of them are named.
    """
    tokens = _tokens(prompts, backbone)
    owners = prompts.owners.to(tokens.device)
    with torch.no_grad():
        embeddings = backbone.text_features(tokens)
    return ClassPrompts(
        prompts, tokens, owners, embeddings, ensemble(embeddings, owners, len(prompts.classes))
    )


def ensemble(embeddings: Tensor, owners: Tensor, classes: int) -> Tensor:
    """Averages unit embeddings per class and makes the averages unit length; gradients pass.

    Args:
        embeddings: (..., T, D) of unit length.
        owners: (T,) int64, the class of each.
        classes: K.

    Returns:
        (..., K, D).
    """
    weights = functional.one_hot(owners, classes).to(embeddings.dtype)
    weights = weights / weights.sum(dim=0)
    return functional.normalize(weights.transpose(0, 1) @ embeddings, dim=-1)


def prompt_lengths(prompts: Prompts, name: str, tokeniser: Tokeniser, context: int) -> list[int]:
    """Counts the tokens of every sentence.

    Args:
        prompts: The sentences.
        name: Key of the backbone, for messages.
        tokeniser: Its tokeniser.
        context: Most tokens that it takes.

    Returns:
        A number per sentence, class by class.

    Raises:
        GlomflowError: Sentences have more; all of them are named.
    """
    problems, lengths = [], []
    for text in prompts.texts:
        try:
            lengths.append(len(tokens_of_prompt(text, name, tokeniser, context)))
        except GlomflowError as error:
            problems.append(str(error))
    raise_problems(problems)
    return lengths


def _tokens(prompts: Prompts, backbone: Backbone) -> Tensor:
    problems, rows = [], []
    for text in prompts.texts:
        try:
            rows.append(backbone.tokenise([text]))
        except GlomflowError as error:
            problems.append(str(error))
    raise_problems(problems)
    return torch.cat(rows)
