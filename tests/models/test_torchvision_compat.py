"""torchvision's import beside a torch without its operators; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEALTHY = "fine = True\n"
NEEDS_OPERATORS = """
import torch
if not hasattr(torch.ops.torchvision, "nms") or not hasattr(torch.ops.torchvision, "qnms"):
    raise RuntimeError("operator torchvision::nms does not exist")
fine = True
"""
BROKEN = 'raise RuntimeError("something else")\n'
SCRIPT = """
from glomflow.models import torchvision_compat as compat
module = compat.import_torchvision()
print(module.fine, len(compat._DECLARED))
"""


@pytest.mark.parametrize(
    ("source", "output", "error"),
    [
        (HEALTHY, "True 0", ""),
        (NEEDS_OPERATORS, "True 1", ""),
        (BROKEN, "", "RuntimeError: something else"),
    ],
    ids=["healthy", "operators missing", "other error"],
)
def test_declares_operators_only_where_they_are_missing(
    tmp_path: Path, repo: Path, source: str, output: str, error: str
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{tmp_path}:{repo / 'src'}", "PATH": ""},
    )
    assert done.stdout.strip() == output
    assert error in done.stderr


def test_the_installed_torchvision_and_timm_can_be_imported(repo: Path) -> None:
    script = (
        "from glomflow.models.torchvision_compat import import_timm, import_torchvision\n"
        "print(import_timm().__name__, import_torchvision().__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(repo / "src"), "PATH": ""},
    )
    assert done.stdout.split() == ["timm", "torchvision"]
