"""Imports torchvision beside a torch build that it does not quite fit.

A torchvision wheel built for CUDA fails to import beside a CPU-only torch: its compiled operators
do not load, and its Python half then describes operators that do not exist. Nothing here needs
those operators (they are for detection), but timm needs the import.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_DECLARED: list[Any] = []  # torch drops a library's declarations when the object dies
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Imports torchvision; where only its compiled operators are missing, declares them and retries.

    The declared operators have a schema but no kernel: calling one fails, importing works. Where
    the plain import succeeds, nothing is declared.

    Returns:
        The torchvision module.

    Raises:
        RuntimeError: The import failed for another reason.
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(operator + _SIGNATURE)
        _DECLARED.append(library)
        import torchvision
    module: ModuleType = torchvision
    return module


def import_timm() -> ModuleType:
    """Imports timm, with torchvision made importable first (several seconds the first time).

    Returns:
        The timm module.
    """
    if "timm" not in sys.modules:
        import_torchvision()
    import timm

    module: ModuleType = timm
    return module
