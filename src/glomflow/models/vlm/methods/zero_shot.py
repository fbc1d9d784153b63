"""Zero-shot classification by the classes' prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glomflow.models.vlm.methods.base import ClassText, Problem, Settings, SolvedMethod, State


@dataclass(frozen=True)
class ZeroShotSettings(Settings):
    """There is nothing to set."""


class ZeroShot(SolvedMethod):
    """Softmax of the scaled cosines between an image and the classes (Radford et al., ICML 2021).

    A class is the mean of its prompts' unit embeddings (prompt ensemble). The shots are not looked at.
    """

    name = "zero_shot"

    def __init__(self, settings: ZeroShotSettings) -> None:
        self.settings = settings

    def solve(self, problem: Problem) -> State:
        """Returns nothing but the number of runs."""
        return State(fixed={"runs": torch.zeros(problem.shots.runs)})

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        return text.scale * features @ text.embeddings.T


PRESETS = {"default": ZeroShotSettings()}
