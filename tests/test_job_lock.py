"""Two jobs on the same files; jobs that the machine lets down."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glomflow import job_lock
from glomflow.files import atomic_path
from glomflow.imaging.crop_store import new_array
from glomflow.job_lock import lock_outputs, unlock_outputs
from glomflow.jobs import job
from glomflow.resource_failures import explain_failure

HOLDER = """
import sys
from pathlib import Path
from glomflow.jobs import job
with job(sys.argv[1]):
    Path(sys.argv[2]).touch()
    sys.stdin.read()
    Path(sys.argv[3]).write_text("first")
"""


def _holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *(str(folder / name) for name in ("a.log", "began", "out"))],
        stdin=subprocess.PIPE,
        env=os.environ | {"SLURM_JOB_ID": "41"},
    )
    while not (folder / "began").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_a_second_job_waits_for_the_first_and_says_so(tmp_path, capfd) -> None:
    first = _holder(tmp_path)
    (tmp_path / "a.log").unlink()  # as Snakemake does before it starts a job
    second = subprocess.Popen(
        [sys.executable, "-c", HOLDER.replace("sys.stdin.read()", "print(Path(sys.argv[3]).read_text())")]
        + [str(tmp_path / name) for name in ("a.log", "began2", "out")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert second.stdout is not None
    line = second.stdout.readline()
    assert line.startswith("waiting: another job writes the same files (host ")
    assert f"process {first.pid}, SLURM job 41; its log is {tmp_path / 'a.log'})" in line
    assert not (tmp_path / "began2").exists()
    first.communicate(b"")
    second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    text = (tmp_path / "a.log").read_text()
    assert f"process {second.pid}\nfirst\n" in text
    assert not (tmp_path / "a.log.lock").exists()


def test_many_jobs_take_turns(tmp_path) -> None:
    code = """
import sys
from pathlib import Path
from glomflow.jobs import job
with job(sys.argv[1]):
    path = Path(sys.argv[2])
    path.write_text(str(int(path.read_text()) + 1))
"""
    (tmp_path / "count").write_text("0")
    words = [sys.executable, "-c", code, str(tmp_path / "a.log"), str(tmp_path / "count")]
    for process in [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(8)]:
        assert process.wait() == 0
    assert (tmp_path / "count").read_text() == "8"


def test_a_killed_job_leaves_no_lock(tmp_path, capfd) -> None:
    first = _holder(tmp_path)
    first.kill()
    first.wait()
    with job(tmp_path / "a.log"):
        pass
    assert "waiting" not in capfd.readouterr().out


def test_a_file_system_without_locks_is_mentioned(tmp_path, monkeypatch, capsys) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(job_lock.fcntl, "flock", refuse)
    unlock_outputs(lock_outputs(tmp_path / "a.log"), tmp_path / "a.log")
    assert "no locks on this file system" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "results/a.npy"),
            "results/a.npy: the disk is full",
        ),
        (OSError("100 requested and 20 written"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (
            OSError(errno.EROFS, "Read-only file system", "results/b"),
            "results/b: the file system is read-only",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "results/c"), "results/c: no permission"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory (Unable to allocate 9 GiB)"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "mem_mb"),
    ],
)
def test_what_the_machine_did_is_told_with_what_to_do(error, words, tmp_path) -> None:
    told = explain_failure(error, tmp_path)
    assert told is not None
    assert words in told
    assert "run the same command again" in told


def test_causes_count_and_other_errors_do_not(tmp_path) -> None:
    outer = ValueError("outer")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "MB free" in str(explain_failure(outer, tmp_path / "not" / "there"))
    assert explain_failure(ValueError("a bug"), tmp_path) is None
    assert explain_failure(FileNotFoundError(errno.ENOENT, "No such file"), tmp_path) is None


def test_a_full_disk_ends_a_job_with_a_message(tmp_path, capfd) -> None:
    with pytest.raises(SystemExit), job(tmp_path / "a.log"), atomic_path(tmp_path / "b") as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    console = capfd.readouterr().err
    assert "the disk is full" in console
    assert "Traceback" not in console
    assert "Traceback" in (tmp_path / "a.log").read_text()


def test_a_log_that_cannot_be_opened_is_told(tmp_path, capfd, monkeypatch) -> None:
    def refuse(path: Path) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("glomflow.jobs.lock_outputs", refuse)
    with pytest.raises(SystemExit), job(tmp_path / "a.log"):
        pass
    assert "the file system is read-only" in capfd.readouterr().err


def test_an_array_takes_its_room_beforehand(tmp_path) -> None:
    array = new_array(tmp_path / "a.npy", np.float16, (1000, 1000))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 2_000_000
    array[3] = 2
    array.flush()
    assert np.load(tmp_path / "a.npy")[3, 0] == 2
