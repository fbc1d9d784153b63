"""The workflow on a SLURM cluster."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.one_host import Cluster
from cluster.runs import Run, copied, digests, run, slurm
from faults import FAULTS
from glomflow.files import sha256_file
from workflow.conftest import Project

pytestmark = pytest.mark.workflow


def test_a_cluster_ends_with_the_same_bits_as_one_machine(local, on_slurm) -> None:
    expected = digests(local)
    assert len([name for name in expected if name.endswith(".safetensors")]) == 2
    assert len([name for name in expected if name.startswith("metrics/")]) > 5
    assert digests(on_slurm) == expected
    assert (on_slurm.folder / "results" / "report.html").stat().st_size > 100_000


def test_a_second_run_has_nothing_to_do(on_slurm) -> None:
    assert on_slurm.planned() == {}
    assert on_slurm.planned("--workflow-profile", "profiles/slurm") == {}


def test_seconds_long_rules_share_jobs(on_slurm) -> None:
    printed = (on_slurm.folder / "run0.log").read_text(encoding="utf-8")
    folders = re.findall(r"submitted with SLURM jobid \d+ \(log: \S*/slurm_logs/([^/]+)/", printed)
    groups = sorted(name for name in folders if name.startswith("group_"))
    assert [name.split("_")[1] for name in groups] == ["cohort", "folds", "report"]
    assert len(folders) == 16, "jobs for the 24 rules of the small cohort"


LONG = "diagnosis: {training: {epochs: 600}}\n"
WEIGHTS = [f"results/models/cmus_net/fold{fold}_seed0.safetensors" for fold in (0, 1)]


@dataclass
class Disturbed:
    """Runs that were disturbed on purpose, all at the same time.

    Attributes:
        lost: Jobs cancelled, a node lost, the controller restarted.
        little: Too little time, too little memory.
        killed: Snakemake killed, and started again.
        printed: What each Snakemake printed: lost, little, two, locked, again.
        dead_node: Node that died.
        hung: Whether a training was stopped after its first checkpoint until its time was over.
        expected: Digests of the weights without any disturbance.
    """

    lost: Project
    little: Project
    killed: Project
    printed: dict[str, str]
    dead_node: str
    hung: bool
    expected: dict[str, str]

    def digests(self, project: Project) -> dict[str, str]:
        """Returns the digests of the trained weights of a project."""
        return {name: sha256_file(project.folder / name) for name in WEIGHTS}


def _longer(project: Project, folder: Path) -> Project:
    """Returns a copy whose trainings take long enough to be disturbed."""
    copy = copied(project, folder)
    (copy.folder / "long.yaml").write_text(LONG, encoding="utf-8")
    return Project(copy.folder, ["cluster.yaml", "long.yaml"])


def _stand_still(trainings: list[tuple[Project, int]], over: Callable[[], bool]) -> bool:
    """Stops each training (SIGSTOP) when it has written a checkpoint.

    Args:
        trainings: Project and fold.
        over: Tells that the third, whose time is short, has ended before.

    Returns:
        Whether the third was stopped.
    """
    left = dict(enumerate(trainings))
    end = time.monotonic() + 900
    while left and not (list(left) == [2] and over()):
        assert time.monotonic() < end, f"no checkpoint of {left}"
        for number, (project, fold) in list(left.items()):
            if _checkpoint(project, fold).exists() and not (number == 2 and over()):
                os.kill(_process_of(project, fold), signal.SIGSTOP)
                del left[number]
        time.sleep(0.1)
    return 2 not in left


def _job_of(project: Project, fold: int) -> str:
    """Returns the number of the SLURM job that writes a fold's log."""
    return _first_line(project, fold).rpartition("SLURM job ")[2]


def _checkpoint(project: Project, fold: int) -> Path:
    return project.folder / "results" / "checkpoints" / f"cmus_net_fold{fold}_seed0.pt"


def _first_line(project: Project, fold: int) -> str:
    log = project.folder / "results" / "logs" / "train" / f"fold{fold}.log"
    return log.read_text(encoding="utf-8").partition("\n")[0]


def _process_of(project: Project, fold: int) -> int:
    return int(_first_line(project, fold).partition("process ")[2].partition(",")[0])


def _logs(project: Project) -> str:
    paths = (project.folder / ".snakemake" / "slurm_logs").rglob("*.log")
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)


def _train(project: Project, cluster: Cluster, targets: list[str], *resources: str) -> Run:
    changed = ["--set-resources", *(f"train_frozen:{resource}" for resource in resources)]
    return run(project, cluster, slurm(*changed, "--slurm-keep-successful-logs", "--", *targets))


@pytest.fixture(scope="module")
def disturbed(cluster, on_slurm, tmp_path_factory) -> Disturbed:
    """Three runs at once, and all that clusters do to them."""
    names = ("whole", "lost", "little", "killed")
    whole, lost, little, killed = (_longer(on_slurm, tmp_path_factory.mktemp(name)) for name in names)
    # A node each: the others share the third.
    first = _train(lost, cluster, WEIGHTS, "mem_mb=3000", "runtime=30", "cpus_per_task=4")
    second = _train(
        little,
        cluster,
        WEIGHTS,
        "mem_mb=300 * attempt ** 3 if wildcards.fold == '1' else 3000",
        "runtime=attempt ** 5 if wildcards.fold == '0' else 30",
    )
    third = _train(killed, cluster, WEIGHTS[:1], "mem_mb=3000", "runtime=30")

    # Every first training stands still from its first checkpoint on, unless its minute is over before.
    standing = [(lost, 0), (lost, 1), (little, 0), (killed, 0)]
    hung = _stand_still(standing, lambda: FAULTS["time"].says in second.text())
    old, process = _job_of(killed, 0), _process_of(killed, 0)

    # The job that goes on without its Snakemake.
    printed = {"two": _refused(killed, cluster)}
    third.process.kill()
    third.process.wait()
    printed["locked"] = _refused(killed, cluster)
    unlock = run(killed, None, ["--cores", "1", "--unlock"])
    unlock.finished()
    again = _train(killed, cluster, WEIGHTS[:1], "mem_mb=3000", "runtime=30")

    # Jobs that are cancelled or lose their node.
    jobs = [_job_of(lost, fold) for fold in (0, 1)]
    node = cluster.show(jobs[1])["NodeList"]
    cluster.stop_controller()
    time.sleep(3)
    cluster.start_controller()
    cluster.command("scancel", jobs[0])
    cluster.kill_node(int(node.removeprefix("node")))
    cluster.wait("the dead node to be noticed", lambda: node not in _alive(cluster), 120)

    cluster.wait("the second job to wait", lambda: FAULTS["head"].says in _logs(killed), 300)
    assert not (killed.folder / WEIGHTS[0]).exists()
    assert cluster.show(old)["JobState"] == "RUNNING"
    os.kill(process, signal.SIGCONT)

    expected = run(whole, None, ["--cores", "2", "--", *WEIGHTS])
    printed |= {"lost": first.finished(), "little": second.finished(), "again": again.finished()}
    expected.finished()
    digest = {name: sha256_file(whole.folder / name) for name in WEIGHTS}
    return Disturbed(lost, little, killed, printed, node, hung, digest)


def _refused(project: Project, cluster: Cluster) -> str:
    other = run(project, cluster, slurm("--", WEIGHTS[0]))
    assert other.ended() != 0
    return other.text()


def _alive(cluster: Cluster) -> str:
    return cluster.command("sinfo", "-h", "-N", "-t", "idle,mix,alloc", "-o", "%N")


def test_a_cancelled_training_is_submitted_again_and_resumes(disturbed) -> None:
    assert FAULTS["cancelled"].says in disturbed.printed["lost"]
    assert "going on after" in _log(disturbed.lost, 0)
    assert disturbed.digests(disturbed.lost)[WEIGHTS[0]] == disturbed.expected[WEIGHTS[0]]


def test_a_training_whose_node_died_resumes_on_another(cluster, disturbed) -> None:
    number = _first_line(disturbed.lost, 1).rpartition("SLURM job ")[2]
    job = cluster.show(number)
    assert job["JobState"] == "COMPLETED"
    assert int(job["Restarts"]) == 1
    assert job["NodeList"] != disturbed.dead_node
    assert FAULTS["node"].says in _log(disturbed.lost, 1)
    assert disturbed.digests(disturbed.lost)[WEIGHTS[1]] == disturbed.expected[WEIGHTS[1]]


def test_a_restarted_controller_is_survived(disturbed) -> None:
    assert disturbed.printed["lost"].count(FAULTS["controller"].says) == 2
    assert disturbed.printed["little"].count(FAULTS["controller"].says) == 2


def test_a_job_over_its_time_gets_more_and_resumes(cluster, disturbed) -> None:
    assert FAULTS["time"].says in disturbed.printed["little"]
    limits = [cluster.show(job)["TimeLimit"] for job in _submitted(disturbed.printed["little"], 0)]
    assert limits[:2] == ["00:01:00", "00:32:00"]
    assert "going on after" in _log(disturbed.little, 0) or not disturbed.hung
    assert disturbed.digests(disturbed.little)[WEIGHTS[0]] == disturbed.expected[WEIGHTS[0]]


def test_a_job_over_its_memory_gets_more(cluster, disturbed) -> None:
    assert FAULTS["memory"].says in _logs(disturbed.little)
    memory = [cluster.show(job)["MinMemoryNode"] for job in _submitted(disturbed.printed["little"], 1)]
    assert memory[:2] == ["300M", "2400M"]
    assert disturbed.digests(disturbed.little)[WEIGHTS[1]] == disturbed.expected[WEIGHTS[1]]


def test_a_second_snakemake_is_refused(disturbed) -> None:
    for name in ("two", "locked"):
        assert FAULTS["two"].says in disturbed.printed[name]
        assert "--unlock" in disturbed.printed[name]


def test_after_a_kill_no_job_runs_twice_at_once(disturbed) -> None:
    text = _logs(disturbed.killed)
    assert FAULTS["head"].says in text
    assert "the other job has ended" in text
    assert disturbed.digests(disturbed.killed)[WEIGHTS[0]] == disturbed.expected[WEIGHTS[0]]


def _log(project: Project, fold: int) -> str:
    return (project.folder / "results" / "logs" / "train" / f"fold{fold}.log").read_text(encoding="utf-8")


def _submitted(printed: str, fold: int) -> list[str]:
    """Returns the numbers that SLURM gave to the attempts of a fold's training."""
    pattern = rf"submitted with SLURM jobid (\d+) \(log: \S*/rule_train_frozen/{fold}/"
    return re.findall(pattern, printed)
