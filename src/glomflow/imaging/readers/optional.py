"""Libraries that only some formats need, installed as extras of this package."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from glomflow.errors import ImageError


def is_installed(module: str) -> bool:
    """Returns whether a module can be imported; it is not imported, but packages above it are."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def optional_module(path: Path, module: str, title: str, extra: str) -> Any:
    """Imports the library that a format needs.

    Args:
        path: The image, for the message.
        module: Name of the module.
        title: The format.
        extra: Extra of this package that installs the library.

    Returns:
        The module.

    Raises:
        ImageError: ``unsupported_format``, if it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImageError(
            "unsupported_format",
            f"{path.name}: {title} is read with the library {package}, which is not installed; run "
            f'pip install "glomflow[{extra}]", or export the image as OME-TIFF',
        ) from error
