"""Writes linux.lock and cuda.lock: the pins of requirements.lock with the digest of each file.

It asks pip which file it would install (CPython 3.11, Linux x86_64) and installs nothing. Wheels are
downloaded, the CUDA libraries too: about 4 GB.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TORCH = ("torch", "torchvision")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LINUX_HEAD = """\
# The pins of requirements.lock with the digests of their files, for CPython 3.11 on Linux x86_64:
#   pip install --require-hashes --extra-index-url https://download.pytorch.org/whl/cpu -r envs/linux.lock
# torch lists its CPU build and the CUDA build of PyPI. Written by build_hashes.py.
"""
CUDA_HEAD = """\
# What the CUDA build of torch needs beside linux.lock, with digests, for CPython 3.11 on Linux x86_64:
#   pip install --require-hashes -r envs/linux.lock -r envs/cuda.lock
# Written by build_hashes.py.
"""


def pip_report(*arguments: str) -> dict[str, Any]:
    """Returns what pip would install, as ``pip install --report`` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        words = ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(path), *arguments]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def digests(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns version and SHA-256 of each package of a report; builds of a version count as the version."""
    found = {}
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"].split("+")[0]
        found[re.sub(r"[-_.]+", "-", name).lower()] = (
            version,
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
    return found


def lock_text(head: str, parts: Iterable[dict[str, tuple[str, str]]]) -> str:
    """Returns a lock file; a package that stands in several parts gets several digests.

    Raises:
        ValueError: Two parts hold different versions of a package.
    """
    versions: dict[str, str] = {}
    hashes: dict[str, list[str]] = {}
    for part in parts:
        for name, (version, digest) in part.items():
            if versions.setdefault(name, version) != version:
                raise ValueError(f"{name}: {versions[name]} and {version}")
            if digest not in hashes.setdefault(name, []):
                hashes[name].append(digest)
    lines = []
    for name in sorted(versions):
        lines.append(f"{name}=={versions[name]}")
        lines += [f"    --hash=sha256:{digest}" for digest in hashes[name]]
    joined = "\n".join(lines).replace("\n    --hash", " \\\n    --hash")
    return f"{head}{joined}\n"


def main() -> None:
    """Asks pip and writes both files."""
    lock = HERE.parent / "requirements.lock"
    pins = dict(line.split("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line)
    cpu = digests(pip_report("--no-deps", "--extra-index-url", CPU_INDEX, "-r", str(lock)))
    torch = [f"{name}=={pins[name]}" for name in TORCH]
    cuda = digests(
        pip_report("--isolated", "--index-url", "https://pypi.org/simple", "-c", str(lock), *torch)
    )
    (HERE / "linux.lock").write_text(
        lock_text(LINUX_HEAD, (cpu, {name: cuda[name] for name in TORCH})), encoding="utf-8"
    )
    further = {name: value for name, value in cuda.items() if name not in cpu}
    (HERE / "cuda.lock").write_text(lock_text(CUDA_HEAD, [further]), encoding="utf-8")


if __name__ == "__main__":
    main()
