"""A copy of the project that the workflow runs in, so that tests can edit it."""

import glob
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from glomflow.files import atomic_path

REPO = Path(__file__).resolve().parents[2]
PARSED = Path(".snakemake/glomflow-code.json")
PARTS = ("Snakefile", "config.yaml", "config", "rules", "workflow_scripts", "profiles", "envs", "src")


@dataclass
class Project:
    """A copy of the project.

    Attributes:
        folder: Where it is.
        configfiles: Configurations laid over ``config.yaml``.
    """

    folder: Path
    configfiles: list[str]

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs snakemake in the copy and returns what it printed (both streams in ``stdout``)."""
        laid_over = ["--configfile", *self.configfiles] if self.configfiles else []
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *laid_over, *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=1200,
            check=False,
        )
        keep_compiled(self.folder / "src", REPO / "src")
        keep_parsed(self.folder)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} failed:\n{done.stdout[-8000:]}")
        return done

    def planned(self, *arguments: str) -> dict[str, int]:
        """Returns the rules that a run would execute, with their number of jobs."""
        text = self.snakemake("--dry-run", *arguments).stdout
        table = re.search(r"Job stats:\njob\s+count\n[- ]+\n(.*?)\n\n", text, flags=re.S)
        if table is None:
            assert "Nothing to be done" in text, text
            return {}
        rows = [line.split() for line in table.group(1).splitlines()]
        return {name: int(count) for name, count in rows if name != "total"}


def copy_project(folder: Path) -> Path:
    """Copies the parts of the project that the workflow runs on."""
    folder.mkdir(parents=True)
    # Caches: compiled kernels alone; what another process is still writing may be gone at once.
    unwanted = shutil.ignore_patterns("*.pyc*", "*.tmp.*", ".*", "*.egg-info")
    for part in PARTS:
        source = REPO / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=unwanted)
        else:
            shutil.copy2(source, folder / part)
    shutil.copy2(Path(__file__).with_name("small.yaml"), folder / "small.yaml")
    if (REPO / PARSED).is_file():
        (folder / PARSED).parent.mkdir()
        shutil.copy2(REPO / PARSED, folder / PARSED)
    return folder


def keep_compiled(source: Path, target: Path) -> None:
    """Brings kernels that a copy compiled back to where the next copy finds them; each takes seconds.

    Numba takes them for files of the same size and time only, which copies have.
    """
    for index in source.rglob("*.nbi"):
        kept = target / index.relative_to(source)
        if kept.exists():
            continue
        machine_code = sorted(index.parent.glob(f"{glob.escape(index.stem)}.*.nbc"))
        for path in [*machine_code, index]:
            with atomic_path(kept.with_name(path.name)) as temporary:
                shutil.copy2(path, temporary)


def keep_parsed(folder: Path) -> None:
    """Brings what a copy parsed of the library back to where the next copy finds it; it takes a second."""
    if (folder / PARSED).is_file() and not (REPO / PARSED).is_file():
        with atomic_path(REPO / PARSED) as temporary:
            shutil.copy2(folder / PARSED, temporary)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """The default run at a small size, finished: made once, however many processes test."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    project = Project(shared / "demo" / "glomflow", ["small.yaml"])
    finished = shared / "demo" / "finished"
    with FileLock(shared / "demo.lock"):
        if not finished.exists():
            if not project.folder.exists():
                copy_project(project.folder)
            project.snakemake()
            finished.touch()
    return project
