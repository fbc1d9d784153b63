"""What the methods of the glomerulus track are called."""

from __future__ import annotations

from collections import Counter

from glomflow.config import Config

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


def method_means(config: Config, name: str) -> str:
    """Returns a method with what it rests on, as the subject of a sentence."""
    if name == "colour_texture":
        return "logistic regression on colour and texture"
    if name in config.few_shot.methods:
        return f"a linear probe on features of {config.encoder.name}"
    model = config.few_shot.adapted.get(name)
    if model is None:
        return name
    return f"{ADAPTATIONS[model.method]} on the vision-language model {model.backbone}"
