"""The job that compares patches of test glomeruli with the texts of the classes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from glomflow.config import Config
from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.evaluation.adapted_jobs import Job, encode_crops
from glomflow.evaluation.draws import DRAWS, draw_shots
from glomflow.evaluation.similarity import chosen_crops, similarity_maps, write_similarity
from glomflow.files import read_json
from glomflow.imaging.crop_store import write_store
from glomflow.models.torchvision_compat import import_torchvision
from glomflow.models.vlm.backbone import Tower
from glomflow.models.vlm.prompts import encode_prompts
from glomflow.tables import CROPS, SIMILARITY, read_table, write_table

import_torchvision()
pytest.importorskip("open_clip")

CLASSES = ["normal", "sclerosed"]
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def first(names: list[str]) -> str:
    return min(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def test_of_each_class_the_first_right_and_wrong_by_hash() -> None:
    rows = pd.DataFrame({"crop": [f"c{k}" for k in range(8)], "label": ["a"] * 4 + ["b"] * 4})
    rows["predicted"] = ["a", "b", "a", "b", "b", "b", "b", "b"]
    found = chosen_crops(rows, ["a", "b"])
    assert found["crop"].tolist() == [
        first(["c0", "c2"]),
        first(["c1", "c3"]),
        first(["c4", "c5", "c6", "c7"]),
    ]
    again = chosen_crops(rows.sample(frac=1, random_state=3), ["a", "b"])
    pd.testing.assert_frame_equal(again, found)


@pytest.fixture(scope="module")
def job(tmp_path_factory, make_index) -> tuple[Job, Path]:
    folder = tmp_path_factory.mktemp("similarity")
    known = make_index([(f"S{n}", f"P{n}", lesion, 2) for n in range(6) for lesion in CLASSES])
    index = known.reindex(columns=list(CROPS)).assign(row=range(len(known)), selected=True, flag="")
    crops = np.random.default_rng(0).integers(0, 255, (len(index), 16, 24, 3), dtype=np.uint8)
    write_store(folder / "om.npy", folder / "om.parquet", crops, index)
    (folder / "model.json").write_text(json.dumps(MODEL))
    settings = Config.model_validate(
        {
            "few_shot": {"shots": [1], "runs": 2, "adapted": {"zero": {"method": "zero_shot"}}},
            "vlm": {
                "backbones": {"phantom": {"architecture": str(folder / "model.json"), "weights": "random"}},
                "labels": {"preset": None, "classes": {name: {"prompts": [name]} for name in CLASSES}},
                "batch_size": 3,
            },
        }
    )
    task = Job(settings, "phantom", [folder / "om.npy"], [folder / "om.parquet"], device="cpu")
    encode_crops(task, folder / "features.npy", folder / "features.parquet", folder / "features.json")
    write_table(folder / "draws.parquet", draw_shots(index, settings.few_shot, seed=0), DRAWS)
    return task, folder


def compare(task: Job, folder: Path):
    return similarity_maps(
        task, folder / "draws.parquet", folder / "features.npy", folder / "features.parquet"
    )


def test_maps_are_of_test_glomeruli_of_the_first_run(job, tmp_path) -> None:
    task, folder = job
    maps, rows, remark = compare(task, folder)
    assert remark == ""
    assert maps.shape == (len(rows), 2, 2, 2)
    drawn = read_table(folder / "draws.parquet", DRAWS)
    test = drawn[(drawn["run"] == 0) & (drawn["split"] == "test")]
    assert set(rows["crop"]) <= set(test["crop"])
    assert rows[["x", "y", "width", "height"]].drop_duplicates().to_numpy().tolist() == [[4, 0, 16, 16]]
    backbone, labelled = task.load(), task.labelled()
    text = encode_prompts(task.prompts(labelled.classes), backbone).text
    places = np.array([labelled.names.index(crop) for crop in rows["crop"]])
    images = backbone.image_features(backbone.preprocess(torch.from_numpy(labelled[places])))
    columns = [f"c_{name}" for name in labelled.classes]
    np.testing.assert_allclose(rows[columns], (images @ text.T).numpy(), atol=1e-6)
    called = np.array(labelled.classes)[rows[columns].to_numpy().argmax(axis=1)]
    assert rows["predicted"].tolist() == called.tolist()
    assert np.abs(maps).max() <= 1 + 1e-6
    write_similarity(
        (maps, rows, ""), "phantom", *(tmp_path / f"s.{end}" for end in ("npy", "parquet", "json"))
    )
    written = read_table(tmp_path / "s.parquet", SIMILARITY, open_ended=True)
    assert [name for name in written.columns if name.startswith("c_")] == columns
    assert read_json(tmp_path / "s.json") == {
        "backbone": "phantom",
        "remark": "",
        "glomeruli": len(rows),
        "grid": [2, 2],
    }
    assert np.array_equal(np.load(tmp_path / "s.npy", allow_pickle=False), maps)


@pytest.mark.parametrize(
    ("what", "remark"),
    [
        ("text", "phantom has no text tower to compare its patches with"),
        ("patches", "VisionTower: it does not say which of its tokens are patches"),
    ],
)
def test_what_cannot_be_compared_gives_a_remark(what, remark, job, tmp_path, monkeypatch) -> None:
    task, folder = job
    backbone = task.load()
    if what == "text":
        monkeypatch.setattr(VlmBackbone, "has_text", False)
    else:
        monkeypatch.setattr(type(backbone.vision), "prefix", Tower.prefix)
    monkeypatch.setattr(Job, "load", lambda self: backbone)
    found = compare(task, folder)
    assert (found[0].shape, len(found[1]), found[2]) == ((0, 2, 1, 1), 0, remark)
    write_similarity(found, "phantom", *(tmp_path / f"s.{end}" for end in ("npy", "parquet", "json")))
    assert read_table(tmp_path / "s.parquet", SIMILARITY, open_ended=True).empty
    assert read_json(tmp_path / "s.json")["remark"] == remark


def test_features_of_other_crops_are_refused(job, tmp_path) -> None:
    task, folder = job
    other = pd.read_parquet(folder / "features.parquet")
    other["crop"] = other["crop"].to_numpy()[::-1]
    other.to_parquet(tmp_path / "features.parquet")
    with pytest.raises(GlomflowError, match=r"features .*features\.npy are of other crops; delete them"):
        similarity_maps(
            task, folder / "draws.parquet", folder / "features.npy", tmp_path / "features.parquet"
        )
