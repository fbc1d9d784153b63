"""The methods by name, with their presets."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods import (
    adapter,
    clap,
    classifier,
    clip_adapter,
    clip_lora,
    coop,
    linear_probe,
    lora,
    tip_adapter,
    tip_adapter_f,
    vanilla,
    zero_shot,
)
from glomflow.models.vlm.methods.base import Method
from glomflow.models.vlm.methods.tuned import TunedMethod

_METHODS: dict[str, tuple[type[Method], ModuleType]] = {
    "zero_shot": (zero_shot.ZeroShot, zero_shot),
    "linear_probe": (linear_probe.LinearProbe, linear_probe),
    "classifier": (classifier.Classifier, classifier),
    "clip_adapter": (clip_adapter.ClipAdapter, clip_adapter),
    "tip_adapter": (tip_adapter.TipAdapter, tip_adapter),
    "tip_adapter_f": (tip_adapter_f.TipAdapterF, tip_adapter_f),
    "clap": (clap.Clap, clap),
    "coop": (coop.Coop, coop),
}

FEATURE_METHODS = tuple(_METHODS)
"""Names of the methods that train on cached features."""


_TUNED: dict[str, tuple[type[TunedMethod], ModuleType]] = {
    "vanilla": (vanilla.Vanilla, vanilla),
    "adapter": (adapter.Adapter, adapter),
    "lora": (lora.LoraTuning, lora),
    "clip_lora": (clip_lora.ClipLora, clip_lora),
}

TUNED_METHODS = tuple(_TUNED)
"""Names of the methods that fine-tune the backbone from cached activations."""


def feature_method(name: str, preset: str = "default", **changes: Any) -> Method:
    """Returns a method on features with its settings.

    Args:
        name: One of :data:`FEATURE_METHODS`.
        preset: Name of its settings.
        changes: Settings that differ from the preset; ``recipe`` takes a whole
            :class:`~glomflow.models.vlm.methods.base.Recipe`.

    Raises:
        GlomflowError: The method, the preset or a setting is not known.
    """
    result: Method = _made(_METHODS, name, preset, changes)
    return result


def tuned_method(name: str, preset: str = "default", **changes: Any) -> TunedMethod:
    """Returns a fine-tuning method with its settings; arguments and errors as :func:`feature_method`."""
    result: TunedMethod = _made(_TUNED, name, preset, changes)
    return result


def _made(known: dict[str, Any], name: str, preset: str, changes: dict[str, Any]) -> Any:
    if name not in known:
        raise GlomflowError(f"few-shot: method '{name}' is not known; choose among {', '.join(known)}")
    kind, module = known[name]
    presets: dict[str, Any] = module.PRESETS
    if preset not in presets:
        raise GlomflowError(f"{name}: preset '{preset}' is not known; choose among {', '.join(presets)}")
    return kind(presets[preset].but(**changes))
