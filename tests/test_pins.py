"""The lock file, pyproject, the conda environment and the container name the same versions."""

import importlib.util
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


def _lock(repo: Path) -> dict[str, str]:
    lines = (repo / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert all(pin.marker is None or pin.marker.evaluate({"python_version": "3.11"}) for pin in pins)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


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


def _script(repo: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, repo / "envs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _hashed(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Returns version and digests of each package of a lock with digests."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin, *words = line.split()
            name, version = pin.split("==")
            digests = [re.fullmatch(r"--hash=sha256:([0-9a-f]{64})", word) for word in words]
            assert name not in found
            assert digests
            assert all(digests), line
            found[name] = (version, [match.group(1) for match in digests if match])
    return found


def test_conda_environment_is_up_to_date(repo: Path) -> None:
    module = _script(repo, "build_conda")
    expected = module.conda_environment((repo / "requirements.lock").read_text(encoding="utf-8"))
    written = (repo / "envs" / "glomflow.yaml").read_text(encoding="utf-8")
    assert written == expected, "run: python envs/build_conda.py"


def test_digests_are_of_the_locked_versions(repo: Path) -> None:
    linux, cpu = _hashed(repo / "envs" / "linux.lock"), _hashed(repo / "envs" / "cpu.lock")
    assert set(cpu) == {"torch"}
    found = {name: version for name, (version, _) in {**linux, **cpu}.items()}
    assert found == _lock(repo), "run: python envs/build_hashes.py"
    assert "torch" not in linux


def test_cuda_libraries_are_pinned_beside_the_lock(repo: Path) -> None:
    cuda, cpu = _hashed(repo / "envs" / "cuda.lock"), _hashed(repo / "envs" / "cpu.lock")
    assert set(cuda) & set(_lock(repo)) == {"torch"}
    assert cuda["torch"][0] == cpu["torch"][0]
    assert cuda["torch"][1] != cpu["torch"][1]
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= set(cuda)


def test_locks_with_digests_are_written_as_pip_reads_them(repo: Path, tmp_path: Path) -> None:
    module = _script(repo, "build_hashes")

    def package(name: str, version: str, digit: str) -> dict[str, Any]:
        hashes = {"sha256": digit * 64}
        return {
            "metadata": {"name": name, "version": version},
            "download_info": {"archive_info": {"hashes": hashes}},
        }

    cpu = module.digests({"install": [package("torch", "2.1+cpu", "a"), package("My_Thing.x", "3", "b")]})
    assert cpu == {"torch": ("2.1", "a" * 64), "my-thing-x": ("3", "b" * 64)}
    cuda = {"torch": ("2.1", "c" * 64), "my-thing-x": ("3", "d" * 64), "nvidia-y": ("4", "e" * 64)}
    found = {}
    for name, text in module.lock_texts(cpu, cuda).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        found[name] = _hashed(tmp_path / name)
    assert found == {
        "linux": {"my-thing-x": ("3", ["b" * 64])},
        "cpu": {"torch": ("2.1", ["a" * 64])},
        "cuda": {"torch": ("2.1", ["c" * 64]), "nvidia-y": ("4", ["e" * 64])},
    }


def test_container_installs_the_lock_with_digests(repo: Path) -> None:
    recipe = (repo / "envs" / "Containerfile").read_text(encoding="utf-8")
    joined = re.sub(r" *\\\n *", " ", recipe)
    installs = re.findall(r"pip install ([^;\n]*)", joined)
    assert installs == [
        "--no-cache-dir --require-hashes -r envs/linux.lock -r envs/cuda.lock",
        '--no-cache-dir --require-hashes --extra-index-url "${TORCH_INDEX}" '
        "-r envs/linux.lock -r envs/cpu.lock",
        "--no-cache-dir --no-deps --no-build-isolation .",
    ]
    assert re.search(r"^FROM docker\.io/library/python:3\.11-", recipe, flags=re.M)
    assert "COPY envs/*.lock envs/" in recipe
    assert "  - python =3.11\n" in (repo / "envs" / "glomflow.yaml").read_text(encoding="utf-8")


def test_installed_versions_are_the_locked_ones(repo: Path) -> None:
    from importlib.metadata import version

    for name in ("torch", "timm", "snakemake", "numpy", "pandas", "tifffile"):
        assert version(name).split("+")[0] == _lock(repo)[name]


def test_locked_versions_run_on_every_python_that_the_project_allows(repo: Path) -> None:
    """Some packages need a later patch release of 3.11 than Debian 12 has."""
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    for name, version in _lock(repo).items():
        try:
            needed = distribution(name).metadata["Requires-Python"]
        except PackageNotFoundError:
            continue
        assert needed is None or SpecifierSet(needed).contains(oldest), f"{name} {version} needs {needed}"
