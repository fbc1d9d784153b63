"""The lock file, pyproject, the conda environment and the container name the same versions."""

import importlib.util
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _lock(repo: Path) -> dict[str, str]:
    lines = (repo / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, version in pins}


def test_every_requirement_is_locked_to_an_allowed_version(repo: Path) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = _lock(repo)
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            assert requirement.extras <= set(project["optional-dependencies"])
            continue
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text} is locked to {version}"


def test_torch_is_pinned_without_a_build(repo: Path) -> None:
    assert _lock(repo)["torch"] == "2.13.0"
    assert _lock(repo)["torchvision"] == "0.28.0"


def test_conda_environment_is_up_to_date(repo: Path) -> None:
    spec = importlib.util.spec_from_file_location("build_conda", repo / "envs" / "build_conda.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = module.conda_environment((repo / "requirements.lock").read_text(encoding="utf-8"))
    written = (repo / "envs" / "glomflow.yaml").read_text(encoding="utf-8")
    assert written == expected, "run: python envs/build_conda.py"


def test_container_installs_the_lock_file(repo: Path) -> None:
    recipe = (repo / "envs" / "Containerfile").read_text(encoding="utf-8")
    assert re.search(r"^RUN pip install .*-r requirements\.lock$", recipe, flags=re.M)


def test_installed_versions_are_the_locked_ones(repo: Path) -> None:
    from importlib.metadata import version

    for name in ("torch", "timm", "snakemake", "numpy", "pandas", "tifffile"):
        assert version(name).split("+")[0] == _lock(repo)[name]
