"""The environment that the workflow's scripts run in."""

from __future__ import annotations

import os
from pathlib import Path


def expose_library(src: Path) -> None:
    """Lets child processes import the library from ``src``, installed or not.

    Args:
        src: Folder that holds the package ``glomflow``; it goes before what ``PYTHONPATH`` holds.
    """
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    wanted = [str(src), *(path for path in others if path != str(src))]
    os.environ["PYTHONPATH"] = os.pathsep.join(wanted)
