"""A SLURM cluster on this one machine: munge, a controller and three nodes with a pretended GPU each.

Everything runs as root on the loopback interface, without systemd, below one folder, and is stopped by its
own process numbers. Debian's packages are used: slurmctld, slurmd, slurm-client, munge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

NODES = 3
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
# The executor's job steps drop SLURM_CONF, so that the default path has to lead here.
DEFAULT_CONF = Path("/etc/slurm/slurm.conf")
LOCK = Path("/tmp/glomflow-cluster.lock")
LAST = Path("/tmp/glomflow-cluster.folder")

SLURM_CONF = """\
ClusterName=onehost
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job of a dead node may start again when its credential has expired: 120 s by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
MinJobAge=7200
KillWait=3
SlurmdTimeout=10
SlurmctldTimeout=10
BatchStartTimeout=60
JobRequeue=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool.%n
"""


def missing() -> str:
    """Returns why there can be no cluster here; empty if there can."""
    if os.geteuid() != 0:
        return "a SLURM cluster of one's own needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install slurmctld slurmd slurm-client munge)"
    if DEFAULT_CONF.exists() and not DEFAULT_CONF.is_symlink():
        return f"this machine has a SLURM of its own ({DEFAULT_CONF})"
    return ""


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        folder: Holds its settings, state and logs.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str, check: bool = True) -> str:
        """Runs one of SLURM's commands and returns what it printed."""
        done = subprocess.run(
            words, env=os.environ | self.environment, text=True, capture_output=True, check=False, timeout=120
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self, *states: str) -> list[tuple[str, str, str]]:
        """Returns (id, state, comment) of the jobs in these states; of all that it remembers without any."""
        wanted = ",".join(states) or "all"
        text = self.command("squeue", "-h", "-t", wanted, "-o", "%i|%T|%k")
        return [tuple(line.split("|")) for line in text.splitlines()]  # type: ignore[misc]

    def show(self, job: str) -> dict[str, str]:
        """Returns what the controller knows of a job."""
        words = self.command("scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start_controller(self) -> None:
        """Starts the controller and waits until it answers."""
        self.command("slurmctld")
        self.wait("the controller", lambda: "UP" in self.command("scontrol", "ping", check=False))

    def stop_controller(self) -> None:
        """Stops the controller; it saves its state."""
        _stop(self.folder / "slurmctld.pid", signal.SIGTERM)

    def start_node(self, number: int) -> None:
        """Starts a node."""
        self.command("slurmd", "-N", f"node{number}")

    def kill_node(self, number: int) -> None:
        """Ends a node as a power cut does: its daemon, and all that runs on it."""
        jobs = self.command("squeue", "-h", "-w", f"node{number}", "-o", "%i").split()
        _stop(self.folder / f"node{number}.pid", signal.SIGKILL)
        _kill(_processes_of(f"SLURMD_NODENAME=node{number}", jobs))

    def wait(self, what: str, true: object, seconds: float = 120.0) -> None:
        """Waits until a function returns something true."""
        end = time.monotonic() + seconds
        while not true():  # type: ignore[operator]
            if time.monotonic() > end:
                raise RuntimeError(f"waited {seconds} s for {what}; logs are in {self.folder}")
            time.sleep(0.3)

    def nodes_up(self) -> int:
        """Returns the number of nodes that take jobs."""
        text = self.command("sinfo", "-h", "-N", "-p", "cpu", "-t", "idle,mix,alloc", "-o", "%N", check=False)
        return len(set(text.split()))


def _processes_of(variable: str, jobs: list[str]) -> list[int]:
    """Returns SLURM's own processes for the jobs, and what runs on a node."""
    found = []
    stepd = tuple(f"slurmstepd: [{job}.".encode() for job in jobs)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = (folder / "cmdline").read_bytes().startswith(stepd)
            if ours or variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _kill(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _stop(pid_file: Path, number: int) -> None:
    try:
        process = int(pid_file.read_text(encoding="utf-8"))
        os.kill(process, number)
    except (OSError, ValueError):
        return
    for attempt in range(150):
        if not _alive(process):
            break
        if attempt == 100:
            _kill([process])
        time.sleep(0.1)
    pid_file.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def _free_port() -> int:
    """Returns the first of ports that are free, for the controller and, from the tenth on, for the nodes."""
    for first in range(17817, 19817, 20):
        with contextlib.ExitStack() as stack:
            try:
                for port in (first, *range(first + 10, first + 10 + NODES)):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports for a cluster")


def _write_settings(folder: Path) -> None:
    host = socket.gethostname().split(".")[0]
    last = NODES - 1
    port = _free_port()
    text = SLURM_CONF.format(host=host, port=port, folder=folder)
    for number in range(NODES):
        text += (
            f"NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 10 + number} "
            "CPUs=4 RealMemory=16000 Gres=gpu:pretended:1 State=UNKNOWN\n"
        )
    text += f"PartitionName=cpu Nodes=node[0-{last}] Default=YES MaxTime=20000 OverSubscribe=NO State=UP\n"
    text += f"PartitionName=gpu Nodes=node[0-{last}] MaxTime=20000 State=UP\n"
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    gres = f"NodeName=node[0-{last}] Name=gpu Type=pretended File=/dev/null\n"
    (folder / "gres.conf").write_text(gres, encoding="utf-8")


def _start_munge(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    names = {"key-file": key, "socket": folder / "munge.socket"}
    names |= {f"{name}-file": folder / f"munged.{name}" for name in ("pid", "log", "seed")}
    options = [f"--{name}={path}" for name, path in names.items()]
    environment = os.environ | Cluster(folder).environment
    command = ["munged", "--force", *options]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)


@contextlib.contextmanager
def one_host_cluster(folder: Path) -> Iterator[Cluster]:
    """Starts a cluster, and stops it whatever happens.

    Args:
        folder: A new folder.

    Raises:
        RuntimeError: Another such cluster runs on this machine, or this one does not come up.
    """
    lock = FileLock(LOCK)
    try:
        lock.acquire(timeout=600)
    except Timeout:
        raise RuntimeError(f"another cluster of tests holds {LOCK}") from None
    try:
        # A cluster whose tests were killed.
        if LAST.exists():
            _stop_all(Path(LAST.read_text(encoding="utf-8")))
        LAST.write_text(str(folder), encoding="utf-8")
        yield _started(folder)
    finally:
        _stop_all(folder)
        lock.release()


def _started(folder: Path) -> Cluster:
    cluster = Cluster(folder)
    folder.mkdir(mode=0o755, parents=True)
    (folder / "state").mkdir()
    _write_settings(folder)
    DEFAULT_CONF.parent.mkdir(parents=True, exist_ok=True)
    DEFAULT_CONF.unlink(missing_ok=True)
    DEFAULT_CONF.symlink_to(folder / "slurm.conf")
    _start_munge(folder)
    cluster.start_controller()
    for number in range(NODES):
        cluster.start_node(number)
    cluster.wait("the nodes", lambda: cluster.nodes_up() == NODES)
    return cluster


def _stop_all(folder: Path) -> None:
    cluster = Cluster(folder)
    if (folder / "slurmctld.pid").exists():
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            cluster.command("scancel", "-u", "root", check=False)
            cluster.wait("the jobs to end", lambda: not cluster.jobs("RUNNING", "COMPLETING"), 20)
    for name in (*(f"node{number}" for number in range(NODES)), "slurmctld", "munged"):
        _stop(folder / f"{name}.pid", signal.SIGTERM)
    # What is left, also where the folder was deleted.
    _kill(_processes_of(f"SLURM_CONF={folder / 'slurm.conf'}", []))
    for number in range(NODES):
        _kill(_processes_of(f"SLURMD_NODENAME=node{number}", []))
    if DEFAULT_CONF.is_symlink() and DEFAULT_CONF.readlink() == folder / "slurm.conf":
        DEFAULT_CONF.unlink()
