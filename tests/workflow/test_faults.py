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
def disk_of_features(project) -> Iterator[Path]:
    """Makes the folder of all features a small disk of its own, almost empty."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    folder = (project.folder / FEATURES).parents[1]
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
    if done.returncode != 0:
        pytest.skip("no disk can be mounted here")
    (folder / "other").touch()
    yield folder
    subprocess.run(["umount", folder], check=True)


def _mend(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def test_a_full_disk(demo, project, disk_of_features) -> None:
    done = project.snakemake("--", FEATURES, check=False)
    assert done.returncode != 0
    assert FAULTS["full"].says in done.stdout
    assert "run the same command again" in done.stdout
    assert "Traceback" not in done.stdout
    assert list(disk_of_features.rglob("*.npy")) == []
    _mend(disk_of_features, "size=500m")
    project.snakemake("--", FEATURES)
    assert sha256_file(project.folder / FEATURES) == sha256_file(demo.folder / FEATURES)


def test_read_only_results(demo, project, disk_of_features) -> None:
    _mend(disk_of_features, "ro,size=500m")
    done = project.snakemake("--", FEATURES, check=False)
    assert done.returncode != 0
    assert FAULTS["read_only"].says in done.stdout
    assert FEATURES in done.stdout
    _mend(disk_of_features, "rw")
    project.snakemake("--", FEATURES)
    assert sha256_file(project.folder / FEATURES) == sha256_file(demo.folder / FEATURES)


def _cut(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size // 2)


def _flip(path: Path, share: float = 0.25) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)


def _flip_late(path: Path) -> None:
    _flip(path, 0.95)


# From the end of the workflow to its start: what a test makes anew makes all that follows out of date.
@pytest.mark.parametrize(
    ("fault", "damage", "damaged", "reader"),
    [
        (
            "weights",
            _flip_late,
            "results/models/cmus_net/fold0_seed0.safetensors",
            "results/predictions/cmus_net/fold0_seed0.parquet",
        ),
        ("array", _cut, "results/crops/om/0000.npy", FEATURES),
        ("table", _flip, "results/inventory/0000.parquet", "results/inventory.parquet"),
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
