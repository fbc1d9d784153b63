"""The jobs of adapted models at the edges: one shot, small classes, one image per batch, one run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Adapted, Cohort, Config, Evaluation, FewShot, Run
from glomflow.errors import GlomflowError
from glomflow.evaluation.adapted_jobs import Job, adapt, encode_crops
from glomflow.evaluation.draws import DRAWS, draw_shots
from glomflow.evaluation.few_shot_summary import few_shot_summary
from glomflow.imaging.crop_store import write_store
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.methods.registry import FEATURE_METHODS, TUNED_METHODS
from glomflow.tables import CROPS, write_table

import_torchvision()
pytest.importorskip("open_clip")

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 4, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
ONE_EPOCH = {"recipe": {"epochs": 1}}
LEVELS = {"normal": 200, "crescentic": 110, "ischaemic": 60}
METHODS = {
    name: Adapted(
        method=name, settings={} if name in ("zero_shot", "linear_probe", "tip_adapter") else ONE_EPOCH
    )
    for name in (*FEATURE_METHODS, *TUNED_METHODS)
}


@dataclass
class CropFolder:
    """Crops on disk, and their index."""

    folder: Path
    index: pd.DataFrame

    def job(self, **few_shot: object) -> tuple[Job, Path]:
        """Draws and encodes; returns the job and the folder of its files."""
        settings = self.settings(**few_shot)
        write_table(self.folder / "draws.parquet", draw_shots(self.index, settings.few_shot, seed=0), DRAWS)
        job = Job(settings, "small", [self.folder / "om.npy"], [self.folder / "om.parquet"], device="cpu")
        names = ("features.npy", "features.parquet", "features.json")
        encode_crops(job, *(self.folder / name for name in names))
        return job, self.folder

    def settings(self, **few_shot: object) -> Config:
        given = {"shots": [1], "runs": 1, "methods": ["linear_probe"]} | few_shot
        architecture = str(self.folder / "architecture.json")
        backbone = {"architecture": architecture, "weights": "random"}
        return Config(
            run=Run(tracks=["glomeruli"]),
            cohort=Cohort(source="crops", folder="x", classes=list(LEVELS)),
            few_shot=FewShot.model_validate(given),
            vlm={"backbones": {"phantom": {}, "small": backbone}, "batch_size": 1},
        )


def adapted(job: Job, folder: Path, **models: Adapted) -> tuple[pd.DataFrame, pd.DataFrame]:
    files = (folder / name for name in ("draws.parquet", "features.npy", "features.parquet"))
    return adapt(job, models, *files)


@pytest.fixture
def make_cohort(tmp_path):
    """Writes crops from (slide, class, how many): noise around a grey level of the class."""

    def make(slides: list[tuple[str, str, int]]) -> CropFolder:
        rows = [(s, label, n) for s, label, count in slides for n in range(count)]
        rng = np.random.default_rng(0)
        crops = [rng.normal(LEVELS[label], 20, (32, 32, 3)).clip(0, 255) for _, label, _ in rows]
        index = pd.DataFrame(
            {
                "row": range(len(rows)),
                "crop": [f"{slide}-{label}-{n}" for slide, label, n in rows],
                "patient": [slide for slide, _, _ in rows],
                "slide": [slide for slide, _, _ in rows],
                "lesion": [label for _, label, _ in rows],
            }
        ).assign(modality="OM", selected=True, flag="")
        index = index.reindex(columns=list(CROPS))
        write_store(tmp_path / "om.npy", tmp_path / "om.parquet", np.array(crops, np.uint8), index)
        (tmp_path / "architecture.json").write_text(json.dumps(ARCHITECTURE))
        return CropFolder(tmp_path, index)

    return make


TWO = [(f"S{n}", label, 2) for n in range(4) for label in ("normal", "crescentic")]


def check(rows: pd.DataFrame, draws: Path, classes: int) -> None:
    """Checks that every test crop has probabilities, and that the summary takes them."""
    drawn = pd.read_parquet(draws)
    test = drawn[drawn["split"] == "test"]
    for _, own in rows.groupby(["method", "shots", "run"]):
        assert sorted(own["crop"]) == sorted(test.loc[test["run"] == own["run"].iloc[0], "crop"])
    chances = rows[[name for name in rows.columns if name.startswith("p_")]].to_numpy()
    assert chances.shape[1] == classes
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    summary = few_shot_summary(rows, drawn, Evaluation(bootstrap=100), seed=0)
    assert summary.metrics.loc[summary.metrics["metric"] == "accuracy", "mean"].between(0, 1).all()


def test_one_shot_of_two_classes_in_one_run_with_every_method(make_cohort) -> None:
    job, folder = make_cohort(TWO).job()
    rows, geometry = adapted(job, folder, **METHODS)
    assert rows.groupby("method")["shots"].unique().map(list).to_dict() == {
        name: [0 if name == "zero_shot" else 1] for name in METHODS
    }
    assert geometry["run"].unique().tolist() == [0]
    check(rows, folder / "draws.parquet", classes=2)


def test_a_class_with_fewer_glomeruli_than_shots_gives_all_it_has(make_cohort) -> None:
    slides = [*TWO, ("S0", "ischaemic", 1), ("S1", "ischaemic", 1), ("S2", "ischaemic", 1)]
    cohort = make_cohort(slides)
    job, folder = cohort.job(shots=[0, 1, 32], allow_fewer=True)
    chosen = ("linear_probe", "classifier", "tip_adapter", "coop", "lora", "vanilla")
    rows, _ = adapted(job, folder, **{name: METHODS[name] for name in chosen})
    assert sorted(rows["shots"].unique()) == [1, 32]
    check(rows, folder / "draws.parquet", classes=3)
    strict = Job(cohort.settings(shots=[1, 32]), "small", job.crops, job.indices, device="cpu")
    message = r"run 0: class 'crescentic' has \d training crops, and few_shot.shots asks for 32.*allow_fewer"
    with pytest.raises(GlomflowError, match=message):
        adapted(strict, folder, linear_probe=METHODS["linear_probe"])


RARE = [
    *((f"S{n}", label, 2) for n in range(3) for label in ("normal", "ischaemic")),
    *((f"S{n}", label, 2) for n in range(3, 9) for label in ("normal", "crescentic")),
]
"""No slide shows all three classes, so that one validation slide lacks one."""


def test_a_class_missing_from_validation_is_told_and_left_out_of_the_auc(make_cohort, capsys) -> None:
    job, folder = make_cohort(RARE).job(validation_slide_fraction=0.1)
    models = {
        name: METHODS[name].model_copy(update={"selection": "validation"})
        for name in ("linear_probe", "clip_adapter", "lora")
    }
    rows, geometry = adapted(job, folder, **models)
    check(rows, folder / "draws.parquet", classes=3)
    drawn = pd.read_parquet(folder / "draws.parquet")
    shown = set(drawn.loc[drawn["split"] == "validation", "label"])
    missing = ({"normal", "crescentic", "ischaemic"} - shown).pop()
    said = capsys.readouterr().out
    for name in ("linear_probe", "clip_adapter", "lora"):
        assert f"{name}: run 0, 1 shots: no validation image of {missing}; the AUC" in said
    assert geometry["validation_auc"].between(0, 1).all()
    assert geometry["temperature"].gt(0).all()


@pytest.mark.parametrize("name", ["clip_adapter", "tip_adapter_f", "clap", "coop"])
def test_one_image_per_batch(make_cohort, name: str) -> None:
    job, folder = make_cohort(TWO).job()
    one = METHODS[name].model_copy(update={"settings": {"recipe": {"epochs": 1, "batch_size": 1}}})
    rows, _ = adapted(job, folder, one=one)
    check(rows, folder / "draws.parquet", classes=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("classifier", "batch_size is 1; batch normalisation needs at least two images"),
        ("vanilla", "the contrastive loss of one image is 0 .* set batch_size to 2 or more"),
        ("lora", "the contrastive loss of one image is 0 .* or loss: cross_entropy"),
        ("adapter", "the contrastive loss of one image is 0"),
    ],
)
def test_one_image_per_batch_is_refused_where_nothing_can_be_learned(make_cohort, name, message) -> None:
    job, folder = make_cohort(TWO).job()
    settings = {"recipe": {"epochs": 1, "batch_size": 1}}
    one = METHODS[name].model_copy(update={"settings": settings})
    with pytest.raises(GlomflowError, match=message):
        adapted(job, folder, one=one)
    if name == "lora":
        other = one.model_copy(update={"settings": settings | {"loss": "cross_entropy"}})
        rows, _ = adapted(job, folder, one=other)
        check(rows, folder / "draws.parquet", classes=2)


def test_samples_that_are_not_nested_and_a_pool_of_runs(make_cohort) -> None:
    slides = [(slide, label, 6) for slide, label, _ in TWO]
    job, folder = make_cohort(slides).job(shots=[1, 2], runs=3, draws="pool", nested=False)
    rows, _ = adapted(job, folder, linear_probe=METHODS["linear_probe"], lora=METHODS["lora"])
    assert rows.groupby(["method", "shots", "run"]).ngroups == 2 * 2 * 3
    check(rows, folder / "draws.parquet", classes=2)


def test_bfloat16_of_towers_is_near_and_of_nothing_else(make_cohort) -> None:
    job, folder = make_cohort(
        [(f"{label}-{n}", label, 3) for label in ("normal", "crescentic") for n in "ab"]
    ).job()
    fast = Adapted(method="vanilla", settings=ONE_EPOCH, precision="bfloat16")
    rows, _ = adapted(job, folder, exact=METHODS["vanilla"], fast=fast)
    exact, near = (rows[rows["method"] == name]["p_normal"].to_numpy() for name in ("exact", "fast"))
    assert 0 < np.abs(exact - near).max() < 0.05
    with pytest.raises(ValueError, match="precision: clap fine-tunes no tower and is computed in float64"):
        Adapted(method="clap", precision="bfloat16")
