"""What the methods of the glomerulus track are called, and what its figures rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from glomflow.config import DEFAULT_ENCODER, Config
from glomflow.config_vlm import VlmBackbone
from glomflow.report.numbers import count, listing

METHODS = {
    "linear_probe": "linear probe",
    "colour_texture": "colour and texture",
}
"""Methods on the image encoder's features, as a reader calls them."""

ADAPTATIONS = {
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "classifier": "classifier",
    "clip_adapter": "CLIP-Adapter",
    "tip_adapter": "Tip-Adapter",
    "tip_adapter_f": "Tip-Adapter-F",
    "clap": "CLAP",
    "coop": "CoOp",
    "vanilla": "last layers",
    "lora": "LoRA",
    "clip_lora": "CLIP-LoRA",
    "adapter": "adapters",
}
"""Ways to adapt a vision-language model, as a reader calls them."""


def method_labels(config: Config) -> dict[str, str]:
    """Returns what to call each method and adapted model, in their order.

    Adapted models are called by their method and backbone; if that does not tell two apart, by their names.
    """
    few_shot = config.few_shot
    called = {
        name: f"{ADAPTATIONS[model.method]} ({model.backbone})" for name, model in few_shot.adapted.items()
    }
    times = Counter(called.values())
    labels: dict[str, str] = {name: METHODS[name] for name in few_shot.methods}
    labels |= {name: words if times[words] == 1 else name for name, words in called.items()}
    return labels | {name: f"ensemble {name}" for name in few_shot.ensembles}


def image_backbones(config: Config) -> dict[str, VlmBackbone]:
    """Returns the image encoders that models are adapted from, by name."""
    names = dict.fromkeys(model.backbone for model in config.few_shot.adapted.values())
    sections = {name: config.vlm.backbones[name] for name in names}
    return {name: section for name, section in sections.items() if not section.has_text}


def image_words(name: str, section: VlmBackbone) -> str:
    """Says what features an image encoder gives."""
    encoder = "the encoder" if section.encoder == DEFAULT_ENCODER else f"the encoder {section.encoder}"
    where = "the last map" if section.stride is None else f"the map of stride {section.stride} px"
    disc = "" if section.disc is None else f" within {section.disc:g} of half the edge from the middle"
    views = ", over eight turned and mirrored views" if section.symmetries else ""
    return f"{name} is {encoder} without a text tower: {where}, averaged{disc}{views}"


def method_means(config: Config, name: str) -> str:
    """Returns a method with what it rests on, as the subject of a sentence."""
    if name == "colour_texture":
        return "logistic regression on colour and texture"
    if name in config.few_shot.methods:
        return f"a linear probe on features of {config.encoder.name}"
    if name in config.few_shot.ensembles:
        parts = [method_means(config, member) for member in config.few_shot.ensembles[name]]
        return f"the ensemble {name} of {listing(parts)}"
    model = config.few_shot.adapted.get(name)
    if model is None:
        return name
    backbone = config.vlm.backbones[model.backbone]
    kind = "vision-language model" if backbone.has_text else "image encoder"
    return f"{ADAPTATIONS[model.method]} on the {kind} {model.backbone}"


CALIBRATION_NOTE = (
    "probabilities are those that a method states. Where a model selects on validation slides, a temperature "
    "is fitted on their glomeruli, per run, and the calibration error with it is given beside the other"
)
"""How calibration is judged."""

SIMILARITY_NOTE = (
    "each patch of the last block goes through the image tower's own pooling and projection as if all tokens "
    "were that patch's; with attention pooling only its value path is left. The cosine with a class is that "
    "with the mean of its prompts. A map shows what patches carry, not what caused a prediction"
)
"""What the maps of patches and texts are."""


def similarity_sentences(config: Config, said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Says of which backbones patches are compared with texts, and of which not.

    Args:
        config: The configuration.
        said: What each backbone's job told: ``remark``, ``glomeruli`` and ``grid``.
    """
    sentences = []
    for name, one in said.items():
        if one["remark"]:
            sentences.append(f"There are no maps of {name}: {one['remark']}.")
            continue
        rows, columns = one["grid"]
        sentences.append(
            f"Below, {name} is frozen, as for zero-shot classification; it cuts an image into {rows} × "
            f"{columns} patches. {count(int(one['glomeruli']), 'test glomerulus', 'test glomeruli')} of the "
            "first run are shown."
        )
    used = dict.fromkeys(model.backbone for model in config.few_shot.adapted.values())
    silent = [name for name in used if not config.vlm.backbones[name].has_text]
    if silent:
        verb = "has" if len(silent) == 1 else "have"
        sentences.append(
            f"{listing(silent)} {verb} no text tower, so patches have no text to be compared with."
        )
    return sentences
