"""Which GPUs a job gets; the devices are fakes that a fake nvidia-smi lists."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glomflow import gpus
from glomflow.errors import GlomflowError
from glomflow.gpus import VISIBLE, claim_gpus, visible_gpus
from glomflow.jobs import job

FOUR = "".join(f"GPU {number}: NVIDIA Fake (UUID: GPU-{name}000)\n" for number, name in enumerate("abcd"))
MIG = """GPU 0: NVIDIA Fake (UUID: GPU-a000)
  MIG 3g.40gb     Device  0: (UUID: MIG-x111)
  MIG 3g.40gb     Device  1: (UUID: MIG-y222)
GPU 1: NVIDIA Fake (UUID: GPU-b000)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch):
    """A machine whose GPUs are set by the function that this is; locks of the test are let go after it."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv(gpus.LOCKS, str(tmp_path / "locks"))
    monkeypatch.setenv(gpus.WAIT, "0")
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "_held", {})

    def install(listing: str) -> None:
        (bin_folder / "listing").write_text(listing, encoding="ascii")
        tool = bin_folder / "nvidia-smi"
        tool.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {bin_folder}/listing\n', encoding="ascii")
        tool.chmod(0o755)

    yield install
    for descriptor in gpus._held.values():
        os.close(descriptor)


@pytest.mark.parametrize(
    ("listing", "visible", "expected"),
    [
        (FOUR, None, ["GPU-a000", "GPU-b000", "GPU-c000", "GPU-d000"]),
        (FOUR, "2,0", ["GPU-c000", "GPU-a000"]),
        (FOUR, " GPU-d000, GPU-b", ["GPU-d000", "GPU-b000"]),
        (FOUR, "1,7,2", ["GPU-b000"]),
        (FOUR, "1,1,GPU-b000", ["GPU-b000"]),
        (FOUR, "GPU-,0", []),
        (FOUR, "-1", []),
        (FOUR, "NoDevFiles", []),
        (FOUR, "", []),
        (MIG, None, ["MIG-x111", "MIG-y222", "GPU-b000"]),
        (MIG, "MIG-y222,1", ["MIG-y222", "GPU-b000"]),
        (MIG, "0", ["MIG-x111"]),
        ("No devices were found\n", None, []),
    ],
)
def test_visible_devices(machine, monkeypatch, listing, visible, expected) -> None:
    machine(listing)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert visible_gpus() == expected


def test_a_job_takes_its_own_devices_and_no_others(machine) -> None:
    machine(FOUR)
    assert claim_gpus(2) == ["GPU-a000", "GPU-b000"]
    assert os.environ.pop(VISIBLE) == "GPU-a000,GPU-b000"
    assert claim_gpus(1) == ["GPU-c000"]
    del os.environ[VISIBLE]
    with pytest.raises(GlomflowError, match=r"1 of 4 GPUs are free, 2 are needed; held by process \d+; end"):
        claim_gpus(2)
    assert claim_gpus(1) == ["GPU-d000"]


def test_devices_named_beforehand_are_the_only_ones(machine, monkeypatch) -> None:
    machine(FOUR)
    monkeypatch.setenv(VISIBLE, "3,1")
    assert claim_gpus(1) == ["GPU-d000"]
    monkeypatch.setenv(VISIBLE, "3,1")
    assert claim_gpus(1) == ["GPU-b000"]
    monkeypatch.setenv(VISIBLE, "3,1")
    with pytest.raises(GlomflowError, match="0 of 2 GPUs are free, 1 are needed"):
        claim_gpus(1)
    with pytest.raises(GlomflowError, match="asks for 3 GPUs, CUDA_VISIBLE_DEVICES=3,1 allows 2; lower"):
        claim_gpus(3)


def test_without_devices_a_job_computes_on_the_cpu(machine, monkeypatch) -> None:
    assert claim_gpus(1) == []
    assert VISIBLE not in os.environ
    machine(FOUR)
    with pytest.raises(GlomflowError, match="asks for 5 GPUs, this machine has 4"):
        claim_gpus(5)
    assert claim_gpus(0) == []
    assert os.environ[VISIBLE] == ""


def test_a_folder_that_cannot_be_written_is_named(machine, monkeypatch) -> None:
    machine(FOUR)
    monkeypatch.setenv(gpus.LOCKS, "/proc/locks-of-gpus")
    with pytest.raises(GlomflowError, match=r"/proc/locks-of-gpus: no lock of a GPU can be kept here"):
        claim_gpus(1)


def test_a_job_sees_what_it_asks_for(machine, monkeypatch, tmp_path, capfd) -> None:
    machine(FOUR)
    monkeypatch.setenv(VISIBLE, "2,3")
    for asked, expected in ((0, ""), (1, "GPU-c000"), (1, "GPU-d000")):
        with job(tmp_path / "job.log", 1, asked):
            assert os.environ[VISIBLE] == expected
        assert os.environ[VISIBLE] == "2,3"
    assert capfd.readouterr().out == "GPU: GPU-c000\nGPU: GPU-d000\n"
    with pytest.raises(SystemExit), job(tmp_path / "job.log", 1, 1):
        pytest.fail("there is no device left")
    assert "error: after 0 s 0 of 2 GPUs are free" in capfd.readouterr().err


WORKER = """
import os, sys, time
from pathlib import Path
from glomflow.gpus import claim_gpus
taken = claim_gpus(int(sys.argv[2]))
marks = [Path(sys.argv[1]) / device for device in taken]
for mark in marks:
    mark.touch(exist_ok=False)
time.sleep(0.2)
for mark in marks:
    mark.unlink()
print(*taken)
"""


def test_processes_at_once_never_share(machine, monkeypatch, tmp_path) -> None:
    machine(FOUR.split("GPU 3")[0])
    monkeypatch.setenv(gpus.WAIT, "60")
    busy = tmp_path / "busy"
    busy.mkdir()
    asked = (1, 2, 1, 2, 1, 1, 2, 1)
    running = [started(WORKER, str(busy), str(count)) for count in asked]
    told = [process.communicate(timeout=120)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0] * len(asked)
    assert [len(lines[-1].split()) for lines in told] == list(asked)
    waited = [sum(line.startswith("waiting for a GPU: ") for line in lines) for lines in told]
    assert max(waited) <= 1


HOLDER = """
import subprocess, sys, time
from glomflow.gpus import claim_gpus, held_descriptors
claim_gpus(1)
if sys.argv[1:]:
    child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, pass_fds=held_descriptors())
    print(child.pid)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("children", [False, True])
def test_a_killed_job_frees_its_device(machine, monkeypatch, capfd, children) -> None:
    machine(FOUR.split("GPU 1")[0])
    holder = started(HOLDER, *(["child"] if children else []))
    assert holder.stdout is not None
    lines = iter(holder.stdout.readline, "ready\n")
    child = [int(line) for line in lines if line.strip().isdigit()]
    with pytest.raises(GlomflowError, match=f"0 of 1 GPUs are free, 1 are needed; held by .*{holder.pid}"):
        claim_gpus(1)
    assert capfd.readouterr().out.startswith("waiting for a GPU: 0 of 1 GPUs are free, 1 are needed; held by")
    holder.kill()
    holder.communicate()
    for pid in child:
        with pytest.raises(GlomflowError, match="0 of 1 GPUs are free"):
            claim_gpus(1)
        os.kill(pid, signal.SIGKILL)
    monkeypatch.setenv(gpus.WAIT, "30")
    assert claim_gpus(1) == ["GPU-a000"]


def started(code: str, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(gpus.__file__).parents[1])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_every_script_of_a_rule_with_gpus_passes_them_on(repo) -> None:
    scripts = set()
    for file in (repo / "rules").glob("*.smk"):
        for rule in file.read_text(encoding="utf-8").split("\n    resources:")[1:]:
            scripts |= passing(rule)
        for rule in file.read_text(encoding="utf-8").split("\n        resources:")[1:]:
            scripts |= passing(rule)
    assert {"train.py", "predict.py", "search.py", "explain.py", "vlm_features.py"} <= scripts
    for name in sorted({*scripts, "features.py"}):
        text = (repo / "workflow_scripts" / name).read_text(encoding="utf-8")
        passed = "with job(snakemake.log[0], snakemake.threads, snakemake.resources.gpu)" in text
        passed |= (
            "gpus = snakemake.resources.gpu\n    with job(snakemake.log[0], snakemake.threads, gpus)," in text
        )
        assert passed, name


def passing(rule: str) -> set[str]:
    gpu = next(line.strip() for line in rule.splitlines() if line.strip().startswith("gpu="))
    script = next(line.strip() for line in rule.splitlines() if "workflow_scripts/" in line)
    return set() if gpu == "gpu=0," else {script.strip('"').rsplit("/", 1)[-1]}
