"""Which GPUs a job computes on: Snakemake bounds how many jobs run, the job itself takes the devices.

A device is taken by a lock (``flock``) on a file of its own in a folder that all jobs of the machine share.
The kernel frees it when the process ends, whatever ends it. Devices are known by their UUID, so that numbers
that mean different devices in different places (SLURM, containers) do not matter.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from glomflow.errors import GlomflowError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOCKS = "GLOMFLOW_GPU_LOCKS"
"""Environment variable: folder of the lock files, where it is not /tmp/glomflow-gpus."""
WAIT = "GLOMFLOW_GPU_WAIT"
"""Environment variable: how long to wait for devices, s."""
WAIT_S = 6 * 3600.0
_LOCKS_FOLDER = "/tmp/glomflow-gpus"
_PAUSE_S = 0.5
_held: dict[str, int] = {}


def claim_gpus(count: int) -> list[str]:
    """Takes devices for this process and its children, until they end; CUDA sees no others.

    Sets ``CUDA_VISIBLE_DEVICES``; call it before anything starts CUDA. Where it is set already (by SLURM or
    by hand) only its devices are taken. A job without devices sees none. Where the machine shows no device
    nothing is done, and the job computes on the CPU.

    Args:
        count: Devices that the job computes on.

    Returns:
        UUIDs of the devices.

    Raises:
        GlomflowError: The machine has fewer devices, or others held them for too long.
    """
    if count == 0:
        os.environ[VISIBLE] = ""
        return []
    devices = visible_gpus()
    if not devices:
        return []
    if count > len(devices):
        told = f"{VISIBLE}={os.environ[VISIBLE]} allows" if VISIBLE in os.environ else "this machine has"
        raise GlomflowError(
            f"the job asks for {count} GPUs, {told} {len(devices)}; lower diagnosis.training.devices"
        )
    taken = _wait_for(count, devices)
    os.environ[VISIBLE] = ",".join(taken)
    print(f"GPU: {', '.join(taken)}", flush=True)
    return taken


def held_descriptors() -> tuple[int, ...]:
    """Returns the locks' descriptors, for children that may go on computing when this process is gone."""
    return tuple(_held.values())


def visible_gpus() -> list[str]:
    """Returns the UUIDs of the devices that this process may use, in the order of their numbers.

    Of a GPU in MIG mode these are its instances. Numbers in ``CUDA_VISIBLE_DEVICES`` count as ``nvidia-smi``
    does. As in CUDA, entries from the first unknown one on are ignored.
    """
    present = _present()
    if VISIBLE not in os.environ:
        return [device for devices in present.values() for device in devices]
    found: list[str] = []
    for entry in os.environ[VISIBLE].split(","):
        device = _named(entry.strip(), present)
        if device is None:
            break
        found += [device] if device not in found else []
    return found


def _present() -> dict[str, list[str]]:
    """Returns, for every GPU, the devices that CUDA knows it as: itself, or its MIG instances."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    present: dict[str, list[str]] = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        if "(UUID: " not in line:
            continue
        uuid = line.split("(UUID: ", 1)[1].split(")", 1)[0]
        if line.startswith("GPU "):
            present[uuid] = []
        elif present:
            present[next(reversed(present))].append(uuid)
    return {gpu: instances or [gpu] for gpu, instances in present.items()}


def _named(entry: str, present: dict[str, list[str]]) -> str | None:
    if entry.isdigit():
        return list(present.values())[int(entry)][0] if int(entry) < len(present) else None
    every = [device for devices in present.values() for device in devices]
    begun = [device for device in every if entry and device.startswith(entry)]
    return begun[0] if len(begun) == 1 else None


def _wait_for(count: int, devices: Sequence[str]) -> list[str]:
    limit = float(os.environ.get(WAIT, WAIT_S))
    started = time.monotonic()
    told = False
    while True:
        taken = _take(count, devices)
        if len(taken) == count:
            return taken
        holders = _holders(devices)
        state = f"{len(taken)} of {len(devices)} GPUs are free, {count} are needed; {holders}"
        if not told:
            print(f"waiting for a GPU: {state}", flush=True)
            told = True
        if time.monotonic() - started >= limit:
            raise GlomflowError(
                f"after {limit:.0f} s {state}; end these, bound the jobs of a run with --resources gpu="
                f"{len(devices)} (profiles/gpu), or wait longer with {WAIT}"
            )
        time.sleep(min(_PAUSE_S, limit))


def _take(count: int, devices: Sequence[str]) -> list[str]:
    """Takes ``count`` free devices; of fewer it returns those that were free, and holds none of them."""
    taken: dict[str, int] = {}
    for device in devices:
        if len(taken) == count:
            break
        descriptor = _lock(device)
        if descriptor is not None:
            taken[device] = descriptor
    if len(taken) == count:
        _held.update(taken)
    else:
        for descriptor in taken.values():
            os.close(descriptor)
    return list(taken)


def _lock(device: str) -> int | None:
    path = _lock_file(device)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _no_locks(path.parent, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = os.stat(path)
    except OSError:
        os.close(descriptor)
        return None
    if not os.path.samestat(now, os.fstat(descriptor)):
        # Somebody cleaned the folder in between.
        os.close(descriptor)
        return None
    return descriptor


def _lock_file(device: str) -> Path:
    folder = Path(os.environ.get(LOCKS) or _LOCKS_FOLDER)
    path = folder / device.replace("/", "_")
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
        if not path.exists():
            # Others' files in a folder for all may be locked but, with O_CREAT, not opened.
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL)
            os.fchmod(descriptor, 0o644)
            os.close(descriptor)
    except FileExistsError:
        pass
    except OSError as error:
        raise _no_locks(folder, error) from error
    return path


def _no_locks(folder: Path, error: OSError) -> GlomflowError:
    return GlomflowError(
        f"{folder}: no lock of a GPU can be kept here ({error.strerror}); name a folder that all users of "
        f"this machine's GPUs can write to in the environment variable {LOCKS}"
    )


def _holders(devices: Sequence[str]) -> str:
    """Tells which processes hold the others."""
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
        nodes = {os.stat(_lock_file(device)).st_ino for device in devices}
    except OSError:
        return "other jobs hold the rest"
    fields = [line.split() for line in locks]
    found = {each[4] for each in fields if each[1] == "FLOCK" and int(each[5].rsplit(":", 1)[1]) in nodes}
    return f"held by process {', '.join(sorted(found, key=int))}" if found else "other jobs hold the rest"
