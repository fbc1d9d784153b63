"""Full and read-only disks, damaged files: nothing half written counts, the message says what to do."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import FAULTS
from glomflow.files import sha256_file
from workflow.conftest import Project

pytestmark = pytest.mark.workflow

FEATURES = "results/features/om/0000.npy"


@pytest.fixture(scope="module")
def project(demo, tmp_path_factory) -> Project:
    """A finished run that these tests may damage; each leaves it whole."""
    folder = tmp_path_factory.mktemp("faults") / "glomflow"
    shutil.copytree(demo.folder, folder)
    return Project(folder, list(demo.configfiles))


@pytest.fixture
def features_on_a_disk(project) -> Iterator[Path]:
    """Makes the features' folder a small disk of its own, empty."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    folder = (project.folder / FEATURES).parent
    shutil.rmtree(folder)
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
    if done.returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def _mend(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def test_a_full_disk(demo, project, features_on_a_disk) -> None:
    done = project.snakemake("--", FEATURES, check=False)
    assert done.returncode != 0
    assert FAULTS["full"].says in done.stdout
    assert "run the same command again" in done.stdout
    assert "Traceback" not in done.stdout
    assert list(features_on_a_disk.iterdir()) == []
    _mend(features_on_a_disk, "size=500m")
    project.snakemake("--", FEATURES)
    assert sha256_file(project.folder / FEATURES) == sha256_file(demo.folder / FEATURES)


def test_read_only_results(demo, project, features_on_a_disk) -> None:
    _mend(features_on_a_disk, "ro,size=500m")
    done = project.snakemake("--", FEATURES, check=False)
    assert done.returncode != 0
    assert FAULTS["read_only"].says in done.stdout
    assert FEATURES in done.stdout
    _mend(features_on_a_disk, "rw")
    project.snakemake("--", FEATURES)
    assert sha256_file(project.folder / FEATURES) == sha256_file(demo.folder / FEATURES)


def _cut(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("fault", "damage", "damaged", "reader"),
    [
        ("array", _cut, "results/crops/om/0000.npy", FEATURES),
        ("table", _flip, "results/inventory/0000.parquet", "results/inventory.parquet"),
        (
            "weights",
            _flip,
            "results/models/tem_only/fold0_seed0.safetensors",
            "results/predictions/tem_only/fold0_seed0.parquet",
        ),
    ],
)
def test_a_damaged_file(demo, project, fault, damage, damaged, reader) -> None:
    path = project.folder / damaged
    times = path.stat()
    damage(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (project.folder / reader).unlink()
    done = project.snakemake("--", reader, check=False)
    assert done.returncode != 0
    assert FAULTS[fault].says in done.stdout
    assert damaged in done.stdout
    assert not (project.folder / reader).exists()
    path.unlink()
    project.snakemake("--", reader)
    for name in (damaged, reader):
        assert sha256_file(project.folder / name) == sha256_file(demo.folder / name)
