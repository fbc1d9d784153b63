"""Features per encoder and modality: only those that a model reads are planned."""

import pytest

from workflow.conftest import Project, copy_project

pytestmark = pytest.mark.workflow

TWO = """
run: {tracks: [diagnosis], shards: 2}
folds: {n_splits: 3}
encoders:
  convnext: {name: convnext_atto, weights: random}
  spare: {name: resnet10t, weights: random}
  moving: {name: resnet10t, weights: 'file:w.safetensors', trainable: last}
diagnosis:
  models:
    both: {modalities: [OM, TEM], encoders: {TEM: convnext}, width: 64}
    default: {modalities: [OM]}
    trained: {modalities: [IM], encoders: {IM: moving}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("encoders") / "glomflow")
    (folder / "two.yaml").write_text(TWO, encoding="utf-8")
    (folder / "w.safetensors").touch()
    return Project(folder, ["two.yaml"])


def test_each_model_reads_the_features_of_its_encoders(project) -> None:
    done = project.snakemake("--dry-run")
    outputs = [line.split(":", 1)[1].strip() for line in done.stdout.splitlines() if "output: " in line]
    features = sorted(name for name in outputs if name.startswith("results/features/"))
    assert features == [
        f"results/features/{folder}/{shard}.npy"
        for folder in ("convnext/tem", "om")
        for shard in ("0000", "0001")
    ]
    jobs = done.stdout.split("\n[")
    trained = [job for job in jobs if "rule train:" in job]
    assert len(trained) == 3
    for job in trained:
        assert "gpu=1" in job, job
        assert "model=trained" in job, job
        assert "w.safetensors" in job, job
    frozen = [job for job in jobs if "rule train_frozen:" in job]
    assert len(frozen) == 3
    for job in frozen:
        assert "gpu=1" not in job, job
        assert "w.safetensors" not in job, job
        assert "results/features/convnext/tem/0000.npy" in job, job


def test_a_missing_weights_file_of_a_named_encoder_stops_before_any_job(project) -> None:
    changed = "encoders={convnext: {name: convnext_atto, weights: 'file:none.safetensors'}}"
    done = project.snakemake("--dry-run", "--config", changed, check=False)
    assert done.returncode != 0
    assert "encoders.convnext.weights: there is no file none.safetensors" in done.stdout
