"""Writes linux.lock, cpu.lock and cuda.lock: the pins of requirements.lock with the digest of each file.

It asks pip which file it would install (CPython 3.11, Linux x86_64) and installs nothing. Wheels are
downloaded, the CUDA libraries too: about 4 GB.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HEADS = {
    "linux": """\
# The pins of requirements.lock, but for torch, with the digests of their files, for CPython 3.11 on Linux
# x86_64. To be installed with cpu.lock or cuda.lock. Written by build_hashes.py.
""",
    "cpu": """\
# The CPU build of torch:
#   pip install --require-hashes -r envs/linux.lock -r envs/cpu.lock
# with the index of the CPU builds: --extra-index-url https://download.pytorch.org/whl/cpu
# Written by build_hashes.py.
""",
    "cuda": """\
# The CUDA build of torch, and the libraries that it needs:
#   pip install --require-hashes -r envs/linux.lock -r envs/cuda.lock
# Written by build_hashes.py.
""",
}

Digests = dict[str, tuple[str, str]]
"""Version and SHA-256 by package."""


def pip_report(*arguments: str) -> dict[str, Any]:
    """Returns what pip would install, as ``pip install --report`` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        words = ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(path), *arguments]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def digests(report: dict[str, Any]) -> Digests:
    """Returns version and SHA-256 of each package of a report; builds of a version count as the version."""
    found = {}
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"].split("+")[0]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        found[re.sub(r"[-_.]+", "-", name).lower()] = (version, digest)
    return found


def lock_texts(cpu: Digests, cuda: Digests) -> dict[str, str]:
    """Returns the lock files by name.

    Args:
        cpu: Every package, with the CPU build of torch.
        cuda: The CUDA build of torch and what it needs; what ``cpu`` has too is left out.
    """
    parts = {
        "linux": {name: value for name, value in cpu.items() if name != "torch"},
        "cpu": {"torch": cpu["torch"]},
        "cuda": {name: value for name, value in cuda.items() if name == "torch" or name not in cpu},
    }
    return {
        lock: HEADS[lock]
        + "".join(
            f"{name}=={version} \\\n    --hash=sha256:{digest}\n"
            for name, (version, digest) in sorted(part.items())
        )
        for lock, part in parts.items()
    }


def main() -> None:
    """Asks pip and writes the files."""
    lock = HERE.parent / "requirements.lock"
    pins = dict(line.split("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line)
    cpu = digests(pip_report("--no-deps", "--extra-index-url", CPU_INDEX, "-r", str(lock)))
    pypi = ("--isolated", "--index-url", "https://pypi.org/simple")
    cuda = digests(pip_report(*pypi, "-c", str(lock), f"torch=={pins['torch']}"))
    # Of torchvision the file of PyPI, which works with either build of torch.
    cpu |= digests(pip_report(*pypi, "--no-deps", f"torchvision=={pins['torchvision']}"))
    for name, text in lock_texts(cpu, cuda).items():
        (HERE / f"{name}.lock").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
