"""Trains a small vision-language model from scratch on captioned phantom glomeruli.

It stands in for CLIP where nothing can be downloaded: few-shot methods and reports can be tried with it, on a
cohort that shares no patient and no wording of prompts with what it learnt from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

import glomflow
from glomflow.cohort.phantom.captioned import CaptionedCrops, draw_captioned
from glomflow.cohort.phantom.captions import LESIONS
from glomflow.config_vlm import LabelSet, VlmBackbone, VlmPretraining
from glomflow.errors import DivergedError
from glomflow.files import atomic_path, write_json
from glomflow.imaging.stain.augment import augment_batch
from glomflow.models.vlm.backbone import Backbone
from glomflow.models.vlm.open_clip_backbone import backbone_of, build_model
from glomflow.models.vlm.prompts import encode_prompts, read_prompts
from glomflow.models.vlm.weights import Source
from glomflow.training.seeds import derive_seed, deterministic, seeded_torch, shuffled

_HEAD_WIDTH = 32
_VOCABULARY = 49408
_JITTER = 0.1
_MEAN, _STD = [0.7, 0.55, 0.7], [0.25, 0.25, 0.25]
_WARM_UP = 0.1
_LAST_RATE = 0.01
_LARGEST_SCALE = math.log(100.0)
_CLIP = 1.0
_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class PretrainFiles:
    """What a pretraining writes; weights and description are named as open_clip names a model's files.

    Attributes:
        weights: ``open_clip_model.safetensors``.
        description: ``open_clip_config.json``: architecture and preprocessing.
        report: Zero-shot accuracy on held-out patients, JSON.
    """

    weights: Path
    description: Path
    report: Path


def pretrain(settings: VlmPretraining, files: PretrainFiles, *, threads: int = 1) -> dict[str, Any]:
    """Draws the captioned glomeruli, trains a model on them and measures it on held-out patients.

    Args:
        settings: The section ``vlm.pretraining``.
        files: Where to write.
        threads: CPU threads; the same number gives the same bits.

    Returns:
        What the report holds.

    Raises:
        DivergedError: The loss is not finite.
    """
    with deterministic(threads):
        crops = _drawn(settings, "training", threads)
        held_out = _drawn(settings, "held_out", threads)
        print(f"pretraining: {len(crops.images)} captioned glomeruli, {len(held_out.images)} held out")
        described = describe(settings)
        model = build_model(described["model_cfg"])
        backbone = backbone_of(model, described, Source("phantom", VlmBackbone(), offline=True))
        losses = _fit(model, backbone, crops, settings)
        backbone.logit_scale.data.copy_(model.logit_scale.data)
        report = {
            "glomflow": glomflow.__version__,
            "settings": settings.model_dump(mode="json"),
            "loss": losses,
            "zero_shot": zero_shot(backbone.eval(), held_out, seed=settings.seed),
        }
    write_json(files.description, described)
    with atomic_path(files.weights) as temporary:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
    write_json(files.report, report)
    return report


def describe(settings: VlmPretraining) -> dict[str, Any]:
    """Returns the model's architecture and preprocessing as open_clip describes them."""
    vision = {
        "image_size": settings.image_size,
        "patch_size": settings.patch_size,
        "width": settings.width,
        "layers": settings.layers,
        "head_width": _HEAD_WIDTH,
    }
    text = {
        "context_length": settings.context_length,
        "vocab_size": _VOCABULARY,
        "width": settings.text_width,
        "heads": settings.text_width // _HEAD_WIDTH,
        "layers": settings.text_layers,
    }
    return {
        "model_cfg": {"embed_dim": settings.embedding, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": _MEAN, "std": _STD, "resize_mode": "shortest"},
    }


def supervised_contrastive(images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Computes the contrastive loss in which all pairs of one class are positives of each other.

    With one class per pair this is CLIP's loss; otherwise captions of one lesion would be pushed away from
    other glomeruli that they are true of (supervised contrastive learning, Khosla 2020, between two towers).

    Args:
        images: (B, D) of unit length.
        texts: (B, D) of unit length.
        labels: (B,) int64.
        scale: Factor of the cosines.

    Returns:
        Mean of both directions.
    """
    logits = scale * images @ texts.T
    same = (labels[:, None] == labels[None, :]).to(logits.dtype)
    targets = same / same.sum(dim=1, keepdim=True)
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2.0


def augment(images: Tensor, generator: torch.Generator, stain: float) -> Tensor:
    """Turns, mirrors and restains each image at random.

    Args:
        images: (B, S, S, 3) uint8.
        generator: CPU generator.
        stain: Strength of the change of stain.

    Returns:
        (B, S, S, 3) uint8.
    """
    changed = augment_batch(images, generator, stain)
    chosen = torch.rand(3, len(changed), 1, 1, 1, generator=generator) < 0.5
    changed = torch.where(chosen[0], changed.flip(1), changed)
    changed = torch.where(chosen[1], changed.flip(2), changed)
    changed = torch.where(chosen[2], changed.transpose(1, 2), changed)
    return changed


def drop_words(caption: str, rng: np.random.Generator, share: float) -> str:
    """Leaves out about that share of a caption's words, never all of them."""
    words = caption.split()
    kept = rng.random(len(words)) >= share
    kept[rng.integers(len(words))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


def zero_shot(backbone: Backbone, crops: CaptionedCrops, *, seed: int) -> dict[str, Any]:
    """Measures zero-shot classification with the prompts of the preset ``phantom``.

    Args:
        backbone: The model.
        crops: Glomeruli that it has not seen.
        seed: Seed of the resamples of patients.

    Returns:
        Balanced accuracy with its 95 % interval over patients (percentile bootstrap), recall per lesion,
        accuracy per site, and the prompts.
    """
    prompts = read_prompts(LabelSet(preset="phantom")).subset(LESIONS)
    text = encode_prompts(prompts, backbone).text
    images = torch.from_numpy(crops.images)
    with torch.no_grad():
        features = torch.cat(
            [backbone.image_features(backbone.preprocess(part)) for part in torch.split(images, 64)]
        )
    predicted = (features @ text.T).argmax(dim=1).numpy()
    right = predicted == crops.lesions
    low, high = _patient_interval(right, crops, seed)
    return {
        "balanced_accuracy": _balanced(right, crops.lesions, np.ones(len(right))),
        "interval": [low, high],
        "confidence": _CONFIDENCE,
        "chance": 1.0 / len(LESIONS),
        "glomeruli": len(right),
        "patients": len(np.unique(crops.patients)),
        "recall": {name: float(right[crops.lesions == k].mean()) for k, name in enumerate(LESIONS)},
        "accuracy_by_site": {
            str(site): float(right[crops.sites == site].mean()) for site in np.unique(crops.sites)
        },
        "prompts": {name: list(own) for name, own in zip(prompts.classes, prompts.prompts, strict=True)},
    }


def _drawn(settings: VlmPretraining, part: Any, threads: int) -> CaptionedCrops:
    training = part == "training"
    return draw_captioned(
        settings.seed,
        part,
        patients=settings.patients if training else settings.held_out_patients,
        glomeruli=settings.glomeruli,
        size=settings.image_size,
        jitter=_JITTER if training else 0.0,
        threads=threads,
    )


def _fit(model: Any, backbone: Backbone, crops: CaptionedCrops, settings: VlmPretraining) -> list[float]:
    """Trains the model in place; returns the mean loss of each epoch."""
    images, labels = torch.from_numpy(crops.images), torch.from_numpy(crops.lesions)
    size = settings.batch_size
    steps = len(images) // size
    optimiser = _optimiser(model, settings)
    history = []
    model.requires_grad_(True).train()
    with seeded_torch(settings.seed, "vlm pretraining"):
        for epoch in range(settings.epochs):
            order = torch.from_numpy(shuffled(len(images), settings.seed, "vlm pretraining", epoch))
            total = torch.zeros(())
            for step, rows in enumerate(torch.split(order[: steps * size], size)):
                done = (epoch * steps + step) / (settings.epochs * steps)
                _set_rate(optimiser, settings.learning_rate, done)
                seed = derive_seed(settings.seed, "vlm pretraining", epoch, step)
                captions = [crops.captions[row] for row in rows.tolist()]
                loss = _loss(model, backbone, images[rows], labels[rows], captions, settings, seed)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
                optimiser.step()
                with torch.no_grad():
                    model.logit_scale.clamp_(0.0, _LARGEST_SCALE)
                total += loss.detach()
            history.append(_finite(float(total / steps), epoch))
            print(f"pretraining: epoch {epoch + 1}/{settings.epochs}, loss {history[-1]:.3f}", flush=True)
    model.eval().requires_grad_(False)
    return history


def _loss(
    model: Any,
    backbone: Backbone,
    images: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    settings: VlmPretraining,
    seed: int,
) -> Tensor:
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    texts = [drop_words(caption, rng, settings.word_dropout) for caption in captions]
    pixels = backbone.preprocess(augment(images, generator, settings.stain))
    tokens = backbone.tokenise(texts)
    used = int(tokens.argmax(dim=1).max()) + 1  # nothing follows the end token, which is the largest
    return supervised_contrastive(
        backbone.image_features(pixels),
        backbone.text_features(tokens[:, :used]),
        labels,
        model.logit_scale.exp(),
    )


def _optimiser(model: Any, settings: VlmPretraining) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def _set_rate(optimiser: torch.optim.Optimizer, highest: float, done: float) -> None:
    """Sets the learning rate: a climb over the first tenth, times a cosine."""
    cosine = _LAST_RATE + (1.0 - _LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * done))
    for group in optimiser.param_groups:
        group["lr"] = highest * min(1.0, done / _WARM_UP + 1e-3) * cosine


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise DivergedError(
            f"vlm pretraining: the loss is not finite in epoch {epoch + 1}; lower "
            "vlm.pretraining.learning_rate"
        )
    return loss


def _patient_interval(right: npt.NDArray[np.bool_], crops: CaptionedCrops, seed: int) -> tuple[float, float]:
    """Resamples patients, whose glomeruli are not independent of each other."""
    rng = np.random.default_rng(derive_seed(seed, "vlm pretraining", "interval"))
    patients = np.unique(crops.patients, return_inverse=True)[1]
    count = int(patients.max()) + 1
    draws = rng.multinomial(count, np.full(count, 1.0 / count), size=_RESAMPLES)
    values = [_balanced(right, crops.lesions, draw[patients].astype(float)) for draw in draws]
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _balanced(
    right: npt.NDArray[np.bool_], lesions: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> float:
    """Returns the mean recall of the lesions that are there."""
    found = np.bincount(lesions, weights * right, minlength=len(LESIONS))
    there = np.bincount(lesions, weights, minlength=len(LESIONS))
    return float((found[there > 0] / there[there > 0]).mean())
