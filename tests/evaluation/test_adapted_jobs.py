"""Jobs of adapted models on an image encoder: features pooled or encoded, and methods without a text."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Adapted, Config
from glomflow.config_check import load_config
from glomflow.errors import ConfigError, GlomflowError
from glomflow.evaluation.adapted_jobs import Job, adapt, encode_crops
from glomflow.evaluation.draws import DRAWS, draw_shots
from glomflow.imaging.crop_store import write_store
from glomflow.shots import shown_at
from glomflow.tables import FEW_SHOT, probability_columns, write_table
from glomflow.training.features import encode_store

CLASSES = ["normal", "sclerosed"]
SLIDES = [(f"S{number}", f"P{number}", lesion, 3) for number in range(6) for lesion in CLASSES]
ENCODER = {"name": "resnet10t", "weights": "random"}


def settings_of(**backbone: object) -> Config:
    return Config.model_validate(
        {
            "encoder": ENCODER,
            "vlm": {"backbones": {"small": {"library": "timm", **backbone}}},
            "few_shot": {"shots": [1, 2], "runs": 2},
        }
    )


@pytest.fixture(scope="module")
def stores(make_index, tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """Two shards of crops whose classes differ in brightness, with feature maps."""
    folder = tmp_path_factory.mktemp("stores")
    index = make_index(SLIDES).assign(
        image="I", modality="OM", x=0.0, y=0.0, width=64.0, height=64.0, um_per_px=1.0, information=0.0
    )
    index = index.assign(selected=True, flag="")
    rng = np.random.default_rng(0)
    bright = (index["lesion"] == "sclerosed").to_numpy()[:, None, None, None]
    crops = (rng.integers(0, 120, (len(index), 64, 64, 3)) + 120 * bright).astype(np.uint8)
    for shard, rows in enumerate((slice(0, 20), slice(20, None))):
        part = index.iloc[rows].reset_index(drop=True)
        part["row"] = np.arange(len(part))
        write_store(folder / f"{shard}.npy", folder / f"{shard}.parquet", crops[rows], part)
        encode_store(
            folder / f"{shard}.npy",
            folder / f"{shard}.parquet",
            settings_of().encoder,
            folder / f"maps{shard}.npy",
            device="cpu",
        )
    return folder, index


def job_of(folder: Path, *, maps: bool, **backbone: object) -> Job:
    return Job(
        settings_of(**backbone),
        "small",
        [folder / f"{shard}.npy" for shard in (0, 1)],
        [folder / f"{shard}.parquet" for shard in (0, 1)],
        device="cpu",
        maps=[folder / f"maps{shard}.npy" for shard in (0, 1)] if maps else [],
    )


def encoded(job: Job, folder: Path) -> np.ndarray:
    encode_crops(job, folder / "f.npy", folder / "f.parquet", folder / "f.json")
    found: np.ndarray = np.load(folder / "f.npy")
    return found


def test_maps_that_are_there_give_the_features_of_encoding_anew(stores, tmp_path) -> None:
    folder, index = stores
    pooled = encoded(job_of(folder, maps=True), tmp_path)
    said = json.loads((tmp_path / "f.json").read_text())
    assert said["maps_of"] == "resnet10t"
    assert said["crops"] == len(index)
    names = pd.read_parquet(tmp_path / "f.parquet")["crop"].tolist()
    assert names == sorted(index["crop"])
    anew = encoded(job_of(folder, maps=False), tmp_path)
    np.testing.assert_allclose(pooled, anew, atol=2e-3)  # maps are kept as float16
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1.0, rtol=1e-6)
    assert encoded(job_of(folder, maps=False, stride=16), tmp_path).shape[1] != pooled.shape[1]


def test_maps_of_other_crops_are_refused(stores, tmp_path) -> None:
    folder, _ = stores
    job = job_of(folder, maps=True)
    turned = Job(job.settings, "small", job.crops, job.indices, device="cpu", maps=list(job.maps)[::-1])
    with pytest.raises(GlomflowError, match=r"features of \[16, 20\] rows for crop stores of \[20, 16\]"):
        encoded(turned, tmp_path)


@pytest.mark.parametrize("method", ["linear_probe", "classifier", "tip_adapter", "tip_adapter_f"])
def test_methods_without_a_text_learn_from_images_alone(stores, tmp_path, method) -> None:
    folder, index = stores
    job = job_of(folder, maps=True)
    encoded(job, tmp_path)
    write_table(tmp_path / "d.parquet", draw_shots(index, job.settings.few_shot, seed=0), DRAWS)
    files = (tmp_path / "d.parquet", tmp_path / "f.npy", tmp_path / "f.parquet")
    rows, described = adapt(job, {"own": Adapted(method=method, backbone="small")}, *files)
    write_table(tmp_path / "p.parquet", rows, FEW_SHOT, probability_columns(CLASSES))
    assert sorted(rows["shots"].unique()) == [1, 2]
    assert rows[["own_cosine", "cosine_gap"]].isna().all().all()
    assert rows["silhouette"].notna().all()
    assert described["umap_text_distance"].isna().all()
    right = (rows["predicted"] == rows["label"]).mean()
    assert right > (0.5 if method == "classifier" else 0.9)


def test_a_cache_without_a_text_is_a_kernel_classifier(stores, tmp_path) -> None:
    """Probabilities of Tip-Adapter are softmax of alpha sum exp(-beta (1 - f k)) over a class's shots."""
    folder, index = stores
    job = job_of(folder, maps=True)
    table = encoded(job, tmp_path).astype(np.float64)
    draws = draw_shots(index, job.settings.few_shot, seed=0)
    write_table(tmp_path / "d.parquet", draws, DRAWS)
    files = (tmp_path / "d.parquet", tmp_path / "f.npy", tmp_path / "f.parquet")
    model = Adapted(method="tip_adapter", backbone="small", settings={"alpha": 2.0, "beta": 3.0})
    rows, _ = adapt(job, {"tip": model}, *files)
    names = pd.read_parquet(tmp_path / "f.parquet")["crop"].tolist()
    place = {name: row for row, name in enumerate(names)}
    first = rows[(rows["run"] == 1) & (rows["shots"] == 2)].iloc[0]
    logits = []
    for label in CLASSES:
        own = draws[(draws["run"] == 1) & (draws["label"] == label) & shown_at(draws["shots"], 2)]
        keys = table[[place[crop] for crop in own["crop"]]]
        logits.append(2.0 * np.exp(-3.0 * (1.0 - keys @ table[place[first["crop"]]])).sum())
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(first[[f"p_{label}" for label in CLASSES]].astype(float), expected, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["zero_shot", "clip_adapter", "clap", "coop", "vanilla", "lora", "clip_lora"]
)
def test_methods_that_need_a_text_are_refused_before_any_job(method) -> None:
    raw = {
        "vlm": {"backbones": {"lite0": {"library": "timm"}}},
        "few_shot": {"adapted": {"own": {"method": method, "backbone": "lite0"}}},
    }
    message = (
        rf"few_shot\.adapted\.own\.method: {method} compares images with texts, and the backbone lite0 "
        r"\(library timm\) has no text tower; choose linear_probe, classifier, tip_adapter or tip_adapter_f"
    )
    with pytest.raises(ConfigError, match=message):
        load_config(raw)


def test_an_encoder_that_there_is_not_is_named() -> None:
    raw = {
        "encoders": {"uni": ENCODER},
        "vlm": {"backbones": {"own": {"library": "timm", "encoder": "unni"}}},
    }
    with pytest.raises(
        ConfigError, match=r"vlm\.backbones\.own\.encoder: 'unni' is not among .*\(default, uni\)"
    ):
        load_config(raw)
