"""The environment of scripts."""

import os
from pathlib import Path

from glomflow.environment import expose_library


def test_the_library_comes_first_and_once(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/other", "/project/src"]))
    expose_library(Path("/project/src"))
    expose_library(Path("/project/src"))
    assert os.environ["PYTHONPATH"].split(os.pathsep) == ["/project/src", "/other"]


def test_an_empty_path_is_fine(monkeypatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    expose_library(Path("/project/src"))
    assert os.environ["PYTHONPATH"] == "/project/src"
