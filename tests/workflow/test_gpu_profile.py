"""The profile of a workstation with GPUs; the devices are fakes that a fake nvidia-smi lists."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow

RULES = """
rule all:
    input: expand("out/{n}", n=range(5)), "features"
rule one:
    output: "out/{n}"
    log: "logs/{n}"
    resources: gpu=1
    script: "one.py"
rule features:
    output: "features"
    resources: gpu=0
    shell: "echo {resources.gpu} > {output}"
"""
SCRIPT = """
import os, time
from pathlib import Path
from glomflow.jobs import job
with job(snakemake.log[0], 1, snakemake.resources.gpu):
    device = os.environ["CUDA_VISIBLE_DEVICES"]
    mark = Path("busy_" + device)
    mark.touch(exist_ok=False)
    time.sleep(0.3)
    mark.unlink()
    Path(snakemake.output[0]).write_text(device)
"""
NVIDIA_SMI = """#!/bin/sh
echo "GPU 0: NVIDIA Fake (UUID: GPU-a)"
echo "GPU 1: NVIDIA Fake (UUID: GPU-b)"
"""


def test_jobs_of_a_workstation_have_devices_of_their_own(repo, tmp_path) -> None:
    for name, text in (("Snakefile", RULES), ("one.py", SCRIPT), ("nvidia-smi", NVIDIA_SMI)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(repo / "src"),
        "GLOMFLOW_GPU_LOCKS": str(tmp_path / "locks"),
    }
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-m", "snakemake", "--cores", "4", "--resources", "gpu=2"]
    command += ["--workflow-profile", str(repo / "profiles" / "gpu")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    devices = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "out").iterdir())]
    assert len(devices) == 5
    assert set(devices) <= {"GPU-a", "GPU-b"}
    assert (tmp_path / "features").read_text(encoding="utf-8").strip() == "1"
    assert not list(tmp_path.glob("busy_*"))
