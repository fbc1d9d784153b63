"""The workflow on a SLURM cluster."""

import pytest

from cluster.runs import digests

pytestmark = pytest.mark.workflow


def test_a_cluster_ends_with_the_same_bits_as_one_machine(local, on_slurm) -> None:
    expected = digests(local)
    assert len([name for name in expected if name.endswith(".safetensors")]) == 2
    assert len([name for name in expected if name.startswith("metrics/")]) > 5
    assert digests(on_slurm) == expected
    assert (on_slurm.folder / "results" / "report.html").stat().st_size > 100_000


def test_seconds_long_rules_share_jobs(cluster, on_slurm) -> None:
    comments = [comment for _, state, comment in cluster.jobs() if state == "COMPLETED"]
    assert sum("train_frozen" in comment for comment in comments) == 2
    assert sum(comment.startswith("group_cohort") for comment in comments) == 1, comments
    assert sum(comment.startswith("group_report") for comment in comments) == 1, comments
