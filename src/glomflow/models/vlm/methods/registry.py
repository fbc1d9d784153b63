"""The methods on features by name, with their presets."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods import (
    clap,
    classifier,
    clip_adapter,
    coop,
    linear_probe,
    tip_adapter,
    tip_adapter_f,
    zero_shot,
)
from glomflow.models.vlm.methods.base import Method

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


def feature_method(name: str, preset: str = "default", **changes: Any) -> Method:
    """Returns a method with its settings.

    Args:
        name: One of :data:`FEATURE_METHODS`.
        preset: Name of its settings.
        changes: Settings that differ from the preset; ``recipe`` takes a whole
            :class:`~glomflow.models.vlm.methods.base.Recipe`.

    Raises:
        GlomflowError: The method, the preset or a setting is not known.
    """
    if name not in _METHODS:
        raise GlomflowError(f"few-shot: method '{name}' is not known; choose among {', '.join(_METHODS)}")
    kind, module = _METHODS[name]
    presets: dict[str, Any] = module.PRESETS
    if preset not in presets:
        raise GlomflowError(f"{name}: preset '{preset}' is not known; choose among {', '.join(presets)}")
    build: Any = kind
    result: Method = build(presets[preset].but(**changes))
    return result
