"""Stores of a job's named inputs."""

from pathlib import Path

from glomflow.training.data import StoreRef
from glomflow.training.stores import stores_from_files


def test_shards_are_paired_in_order() -> None:
    files = {
        "table": "train.parquet",
        "om_index": ["a.parquet", "b.parquet"],
        "om_crops": ["a.npy", "b.npy"],
        "om_features": ["fa.npy", "fb.npy"],
        "tem_index": "t.parquet",
        "tem_crops": "t.npy",
    }
    assert stores_from_files(files) == {
        "OM": [
            StoreRef(Path("a.npy"), Path("a.parquet"), Path("fa.npy")),
            StoreRef(Path("b.npy"), Path("b.parquet"), Path("fb.npy")),
        ],
        "TEM": [StoreRef(Path("t.npy"), Path("t.parquet"), None)],
    }


def test_features_need_no_crops() -> None:
    files = {"om_index": ["a.parquet"], "om_features": ["fa.npy"]}
    assert stores_from_files(files) == {
        "OM": [StoreRef(Path("fa.npy"), Path("a.parquet"), Path("fa.npy"))],
    }


def test_modalities_without_an_index_are_absent() -> None:
    assert stores_from_files({"table": "train.parquet"}) == {}
