"""A tiny vision-language model with the interface of a backbone, and shots on clusters of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glomflow.models.vlm.methods.base import Rows, Shots
from glomflow.models.vlm.prompts import Prompts

CLASSES = ("viable", "global_sclerosis", "ischaemic")
NAMES = ("Viable", "Globally sclerotic", "Ischaemic")
PROMPTS = Prompts(
    CLASSES,
    NAMES,
    (
        ("a viable glomerulus", "glomerulus that is viable"),
        ("a globally sclerotic glomerulus",),
        ("an ischaemic glomerulus", "ischaemic glomerulus here"),
    ),
)


class Block(nn.Module):
    """A residual block with attention, as transformers have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        seen = self.ln_1(hidden)
        hidden = hidden + self.attn(seen, seen, seen, need_weights=False)[0]
        return hidden + self.mlp(self.ln_2(hidden))


class FakeTower(nn.Module):
    def __init__(self, width: int, dim: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.projection = nn.Linear(width, dim, bias=False)
        self.calls = 0

    def run(
        self, hidden: Tensor, first: int, last: int | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        self.calls += len(self.blocks[first:last])
        for block in self.blocks[first:last]:
            hidden = block(hidden)
        return hidden

    def head(self, hidden: Tensor, inputs: Tensor | None = None) -> Tensor:
        if inputs is not None and inputs.ndim == 2:
            keep = (inputs > 0).to(hidden.dtype)[..., None]
            return self.projection((hidden * keep).sum(1) / keep.sum(1))
        return self.projection(hidden.mean(1))

    def tail(self, hidden: Tensor, first: int, inputs: Tensor | None = None) -> Tensor:
        return self.head(self.run(hidden, first, inputs=inputs), inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.run(self.stem(inputs), 0, inputs=inputs), inputs)


class FakeVision(FakeTower):
    def __init__(self, width: int, dim: int, layers: int, patch: int) -> None:
        super().__init__(width, dim, layers)
        self.patches = nn.Conv2d(3, width, patch, patch)

    def stem(self, inputs: Tensor) -> Tensor:
        return self.patches(inputs).flatten(2).transpose(1, 2)


class FakeText(FakeTower):
    def __init__(self, width: int, dim: int, layers: int) -> None:
        super().__init__(width, dim, layers)
        self.embedding = nn.Embedding(200, width)

    def token_embeddings(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def stem(self, inputs: Tensor) -> Tensor:
        return self.token_embeddings(inputs)

    def from_embeddings(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        return self.head(self.run(embeddings, 0, inputs=tokens), tokens)


class FakeBackbone(nn.Module):
    """Words are tokens; an image of 16 x 16 px is cut into patches of 8 px."""

    def __init__(self, dim: int = 12, layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.vision = FakeVision(16, dim, layers, 8)
            self.text = FakeText(16, dim, layers)
        self.name, self.dim, self.image_size, self.context_length = "fake", dim, 16, 24
        self.preprocessing = "fake: float / 255"
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.words: dict[str, int] = {}
        self.requires_grad_(False)
        self.eval()

    def preprocess(self, crops: Tensor) -> Tensor:
        return crops.permute(0, 3, 1, 2).float() / 255

    def tokenise(self, texts: Sequence[str]) -> Tensor:
        result = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens = [1, *(self.words.setdefault(w, len(self.words) + 3) for w in text.split()), 2]
            result[row, : len(tokens)] = torch.tensor(tokens)
        return result

    def image_features(self, pixels: Tensor) -> Tensor:
        return functional.normalize(self.vision(pixels), dim=-1)

    def text_features(self, tokens: Tensor) -> Tensor:
        return functional.normalize(self.text(tokens), dim=-1)


def crops_of(labels: Tensor, seed: int = 0) -> Tensor:
    """Crops (n, 16, 16, 3) uint8 of three classes that differ in a stripe, whatever their colour."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 120, (len(labels), 16, 16, 3), generator=generator)
    for place, label in enumerate(labels.tolist()):
        noise[place, 4 * label : 4 * label + 4, :, label] += 120
    return noise.to(torch.uint8)


def clusters(count: int, dim: int = 12, spread: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit features (n, D) of the three classes around axes, and their classes by turns."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.eye(dim, dtype=torch.float64)[labels]
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64) / dim**0.5
    return functional.normalize(centres + spread * noise, dim=1), labels


def make_shots(labels: Tensor, runs: Sequence[int], *, validation: bool = True, seed: int = 0) -> Shots:
    """Shots of each run (so many per class) and other rows for validation, from a table's classes."""
    rows, held = [], []
    for run, shots in enumerate(runs):
        generator = torch.Generator().manual_seed(100 * seed + run)
        order = torch.randperm(len(labels), generator=generator)
        members = [order[labels[order] == k].tolist() for k in range(len(CLASSES))]
        rows.append([row for own in members for row in own[:shots]])
        held.append([row for own in members for row in own[-4 - run % 2 :]])
    chosen = Rows.of(rows, [labels[own].tolist() for own in rows])
    others = Rows.of(held, [labels[own].tolist() for own in held])
    names = tuple(f"run {run}, {shots} shots" for run, shots in enumerate(runs))
    seeds = tuple(1000 + run for run in range(len(runs)))
    return Shots(CLASSES, chosen, others if validation else None, names, seeds)
