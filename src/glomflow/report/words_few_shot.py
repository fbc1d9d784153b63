"""What the methods of the glomerulus track are called."""

from __future__ import annotations

from collections import Counter

from glomflow.config import DEFAULT_ENCODER, Config
from glomflow.config_vlm import VlmBackbone

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
    labels = {name: METHODS[name] for name in few_shot.methods}
    return labels | {name: words if times[words] == 1 else name for name, words in called.items()}


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
    model = config.few_shot.adapted.get(name)
    if model is None:
        return name
    backbone = config.vlm.backbones[model.backbone]
    kind = "vision-language model" if backbone.has_text else "image encoder"
    return f"{ADAPTATIONS[model.method]} on the {kind} {model.backbone}"
